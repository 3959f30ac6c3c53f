//! `listener.tls.acme`: names whose certificates come from a CA.

use std::net::IpAddr;

use rustls::pki_types::DnsName;

use super::super::super::given::Scope;
use super::super::super::mistake::Mistake;

pub(in super::super) const KEY: &str = "listener.tls.acme";

/// These names, each once, or mistakes.
pub(super) fn check(
    scope: Scope<'_>,
    names: &[String],
    problems: &mut Vec<Mistake>,
) -> Vec<String> {
    if names.is_empty() {
        problems.push(scope.mistake(KEY, "lists no name; write one such as [\"app.example\"]"));
    }
    let mut all = Vec::new();
    for name in names {
        match dns_name(name) {
            Ok(name) if all.contains(&name) => {}
            Ok(name) => all.push(name),
            Err(problem) => problems.push(scope.mistake(KEY, problem)),
        }
    }
    all
}

/// The name in lower case, if a CA can verify it.
fn dns_name(name: &str) -> Result<String, String> {
    if name.contains('*') {
        return Err(format!(
            "{name:?} is a wildcard, which requires the challenge dns-01: list each name, or use \
             listener.tls.certificate and listener.tls.key"
        ));
    }
    let lower = name.to_ascii_lowercase();
    let is_address = lower.parse::<IpAddr>().is_ok();
    if is_address || lower.ends_with('.') || DnsName::try_from(lower.as_str()).is_err() {
        return Err(format!(
            "{name:?} is not a DNS name; write one such as \"app.example\", with xn-- for other characters than ASCII"
        ));
    }
    Ok(lower)
}
