//! `[acme]`: the CA that issues the certificates of `listener.tls.acme`.

use std::path::{Path, PathBuf};

use http::Uri;
use http::uri::Scheme;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::{Mistake, ValueSource};
use super::super::value::{Choice, choice};
use super::listener::{ACME_NAMES, Placed};
use crate::tls::{ClientTls, Trust, certificates, server_name};

pub(super) const TABLE: Table = Table {
    name: "acme",
    about: "The CA that issues the certificates of listener.tls.acme.",
    reference: "The CA that issues the certificates of `listener.tls.acme`; see [ACME](security.md#acme).",
    keys: &[
        Key::proxy(TERMS, Shape::Bool)
            .default("false")
            .help(
                "You agree to the terms of service of the CA, which it requires for an account; its directory \
                 names their address",
            )
            .advice("Required for listener.tls.acme."),
        Key::proxy(CACHE, Shape::Folder)
            .example("\"/var/lib/sse-guard/acme\"")
            .help("Folder for the account and the certificates, which only sse-guard's user may read")
            .advice("Required for listener.tls.acme. It must outlive the process: CAs limit orders per week."),
        Key::proxy(CONTACT, Shape::Words)
            .default("")
            .help("E-mail addresses that the CA gets with a new account"),
        Key::proxy(DIRECTORY, Shape::Url)
            .default("https://acme-v02.api.letsencrypt.org/directory")
            .help("Directory of the CA; default: Let's Encrypt")
            .advice(
                "For a trial, use https://acme-staging-v02.api.letsencrypt.org/directory: its certificates \
                 are not trusted, and its limits are high.",
            ),
        Key::proxy(CA, Shape::File)
            .or_off()
            .default("off")
            .help(
                "PEM file with the CAs that issue the certificate of the directory's server; off: those \
                 of the system",
            ),
        Key::proxy("acme.challenge", Shape::Choice(AcmeChallenge::WORDS))
            .default("auto")
            .help(
                "How the CA verifies names; tls-alpn-01: on port 443; http-01: on port 80, by a listener \
                 without TLS; auto: tls-alpn-01, and after a failure the other one in turns",
            ),
    ],
};

const TERMS: &str = "acme.terms_agreed";
const CACHE: &str = "acme.cache";
const CONTACT: &str = "acme.contact";
const DIRECTORY: &str = "acme.directory";
const CA: &str = "acme.ca";

/// How the CA verifies that a name belongs to this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// One after the other.
    Auto,
    /// RFC 8737.
    TlsAlpn,
    /// RFC 8555 section 8.3.
    Http,
}

choice! { AcmeChallenge {
    "auto" => Auto,
    "tls-alpn-01" => TlsAlpn,
    "http-01" => Http,
} }

/// The CA that issues certificates, and for which names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// An absolute `https` URL.
    pub directory: Uri,
    /// TLS to its server.
    pub tls: ClientTls,
    /// The folder of account and certificates.
    pub cache: PathBuf,
    /// URLs such as `mailto:ops@example.com`.
    pub contact: Vec<String>,
    /// The names of all listeners, each once; at least one.
    pub names: Vec<AcmeName>,
}

/// A name that gets a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeName {
    /// In lower case.
    pub name: String,
    /// The challenges that can be answered for it, in the order to try them; neither is [`AcmeChallenge::Auto`].
    pub challenges: Vec<AcmeChallenge>,
}

impl Acme {
    /// The CA, if a listener needs one and all that it requires is set.
    pub(in super::super) fn read(
        proxy: Scope<'_>,
        listeners: &[Placed],
        problems: &mut Vec<Mistake>,
    ) -> Result<Option<Self>, Mistake> {
        let names = names(proxy, listeners, problems)?;
        if names.is_empty() {
            return Ok(None);
        }
        let known = problems.len();
        if !proxy.get(TERMS)? {
            let problem = "must be true for listener.tls.acme: read the terms of service of the CA, and agree to them";
            problems.push(set_or_missing(proxy, TERMS, problem));
        }
        let cache: Option<String> = proxy.get_if_set(CACHE)?;
        if cache.is_none() {
            let problem =
                "missing: listener.tls.acme requires a folder such as \"/var/lib/sse-guard/acme\"";
            problems.push(set_or_missing(proxy, CACHE, problem));
        }
        let directory: Uri = proxy.get(DIRECTORY)?;
        if directory.scheme() != Some(&Scheme::HTTPS) {
            problems.push(proxy.mistake(DIRECTORY, "is not an https:// URL, which ACME requires"));
        }
        let tls = directory_tls(proxy, &directory, problems)?;
        let contact: Vec<String> = proxy.get(CONTACT)?;
        let contact = contact
            .into_iter()
            .map(|address| match address.contains(':') {
                true => address,
                false => format!("mailto:{address}"),
            });
        Ok(match (tls, cache) {
            (Some(tls), Some(cache)) if problems.len() == known => Some(Self {
                directory,
                tls,
                cache: cache.into(),
                contact: contact.collect(),
                names,
            }),
            _ => None,
        })
    }
}

fn set_or_missing(proxy: Scope<'_>, key: &str, problem: &str) -> Mistake {
    match proxy.given(key) {
        Some(given) if given.source != ValueSource::Default => proxy.mistake(key, problem),
        _ => Mistake::new(ValueSource::Config, key, problem),
    }
}

fn directory_tls(
    proxy: Scope<'_>,
    directory: &Uri,
    problems: &mut Vec<Mistake>,
) -> Result<Option<ClientTls>, Mistake> {
    let ca: Option<String> = proxy.get(CA)?;
    let trust = match ca.map(|file| certificates(Path::new(&file))) {
        None => Trust::System,
        Some(Ok(roots)) => Trust::Roots(roots),
        Some(Err(error)) => {
            problems.push(proxy.mistake(CA, error.to_string()));
            return Ok(None);
        }
    };
    let Some(name) = server_name(directory.host().unwrap_or_default()) else {
        problems.push(proxy.mistake(DIRECTORY, "has a host that is not a name of a certificate"));
        return Ok(None);
    };
    match ClientTls::new(name, trust, None) {
        Ok(tls) => Ok(Some(tls)),
        Err(error) => {
            let problem = format!("{error}; set acme.ca, or install the package ca-certificates");
            problems.push(set_or_missing(proxy, CA, &problem));
            Ok(None)
        }
    }
}

/// The names of all listeners, and how each can be verified.
fn names(
    proxy: Scope<'_>,
    listeners: &[Placed],
    problems: &mut Vec<Mistake>,
) -> Result<Vec<AcmeName>, Mistake> {
    let challenge: AcmeChallenge = proxy.get("acme.challenge")?;
    let has_plain = listeners.iter().any(|it| it.config.tls.is_none());
    let mut names: Vec<AcmeName> = Vec::new();
    for listener in listeners {
        let Some(tls) = &listener.config.tls else {
            continue;
        };
        // The CA has no client certificate.
        let tls_alpn = !tls.requires_certificates();
        for name in tls.managed_names() {
            let known = names.iter().position(|known| known.name == *name);
            let index = known.unwrap_or_else(|| {
                let challenges = has_plain.then_some(AcmeChallenge::Http);
                names.push(AcmeName {
                    name: name.clone(),
                    challenges: challenges.into_iter().collect(),
                });
                names.len() - 1
            });
            let challenges = &mut names[index].challenges;
            if tls_alpn && !challenges.contains(&AcmeChallenge::TlsAlpn) {
                challenges.insert(0, AcmeChallenge::TlsAlpn);
            }
        }
    }
    for name in &mut names {
        name.challenges
            .retain(|possible| challenge == AcmeChallenge::Auto || challenge == *possible);
        if name.challenges.is_empty() {
            let problem = format!(
                "no challenge of the CA can be answered for {}: {}",
                name.name,
                match challenge {
                    AcmeChallenge::Http =>
                        "http-01 requires a [[listener]] without TLS, on port 80 from outside",
                    AcmeChallenge::TlsAlpn | AcmeChallenge::Auto =>
                        "tls-alpn-01 requires a listener on which client_auth is not required, and http-01 one \
                         without TLS, on port 80 from outside",
                }
            );
            problems.push(Mistake::new(ValueSource::Config, ACME_NAMES, problem));
        }
    }
    Ok(names)
}

/// A table that no listener uses.
pub(in super::super) fn warning(
    proxy: Scope<'_>,
    acme: Option<&Acme>,
) -> Result<Option<String>, Mistake> {
    let key = match proxy.get(TERMS)? {
        true => Some(TERMS),
        false => proxy.given(CACHE).map(|_| CACHE),
    };
    let unused = key.filter(|_| acme.is_none());
    Ok(unused.map(|key| format!("{key} has no effect: no listener has tls.acme")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::LazyLock;

    use tempfile::TempDir;

    use super::AcmeChallenge;
    use crate::config::source::tests::{config, problems};

    /// A config with these names, and this in front.
    fn acme(front: &str, names: &str) -> String {
        format!(
            "upstream.url = 'http://app'\nacme.ca = '{}'\n{front}\n[[listener]]\naddress = ':443'\ntls.acme = {names}",
            ca()
        )
    }

    /// Directories of CAs are verified by the CAs of the system, which a machine may lack.
    fn ca() -> String {
        static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
            let folder = tempfile::tempdir().unwrap();
            let pair = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
            fs::write(folder.path().join("ca.pem"), pair.cert.pem()).unwrap();
            folder
        });
        FOLDER.path().join("ca.pem").display().to_string()
    }

    const AGREED: &str = "acme.terms_agreed = true\nacme.cache = '/var/lib/acme'";

    #[test]
    fn names_of_acme_have_certificates_and_challenges_that_can_be_answered() {
        use AcmeChallenge::{Http, TlsAlpn};
        let plain = "\n[[listener]]\naddress = ':80'\nredirect_https = true";
        let challenges = |text: &str| {
            let acme = config(text).acme.unwrap();
            acme.names
                .into_iter()
                .map(|name| (name.name, name.challenges))
                .collect::<Vec<_>>()
        };
        let names = "['App.test', 'b.test', 'app.test']";
        let of = |challenges: &[_]| {
            ["app.test", "b.test"].map(|name| (name.to_owned(), challenges.to_vec()))
        };
        assert_eq!(challenges(&acme(AGREED, names)), of(&[TlsAlpn]));
        assert_eq!(
            challenges(&(acme(AGREED, names) + plain)),
            of(&[TlsAlpn, Http])
        );
        let http = format!("{AGREED}\nacme.challenge = 'http-01'");
        assert_eq!(challenges(&(acme(&http, names) + plain)), of(&[Http]));
        let clients = format!("\ntls.client_ca = '{}'", ca());
        assert_eq!(
            challenges(&(acme(AGREED, names) + &clients + plain)),
            of(&[Http])
        );
        let listener = &config(&acme(AGREED, names)).listeners[0];
        assert!(listener.http2);
        assert_eq!(
            listener.tls.as_ref().unwrap().managed_names(),
            ["app.test", "b.test"]
        );
        let contact = format!("{AGREED}\nacme.contact = ['ops@app.test', 'tel:1']");
        let contact = config(&acme(&contact, names)).acme.unwrap().contact;
        assert_eq!(contact, ["mailto:ops@app.test", "tel:1"]);
    }

    #[test]
    fn acme_that_cannot_work_is_a_mistake() {
        let clients = format!("['a.test']\ntls.client_ca = '{}'", ca());
        for (front, names, expected) in [
            (
                "",
                "['a.test']",
                "config: acme.terms_agreed: must be true for listener.tls.acme",
            ),
            (
                "acme.terms_agreed = false",
                "['a.test']",
                "sse-guard.toml:3: acme.terms_agreed: must be true",
            ),
            (
                "acme.terms_agreed = true",
                "['a.test']",
                "config: acme.cache: missing: listener.tls.acme requires",
            ),
            (
                AGREED,
                "[]",
                "sse-guard.toml:7: listener.tls.acme: lists no name",
            ),
            (
                AGREED,
                "['*.a.test']",
                "sse-guard.toml:7: listener.tls.acme: \"*.a.test\" is a wildcard, which requires the challenge dns-01",
            ),
            (
                AGREED,
                "['192.0.2.1']",
                "sse-guard.toml:7: listener.tls.acme: \"192.0.2.1\" is not a DNS name",
            ),
            (
                AGREED,
                "['a b']",
                "sse-guard.toml:7: listener.tls.acme: \"a b\" is not a DNS name",
            ),
            (
                AGREED,
                "['a.test']\ntls.key = 'a.key'",
                "sse-guard.toml:7: listener.tls.acme: cannot be combined with",
            ),
            (
                "acme.terms_agreed = true\nacme.cache = '/c'\nacme.challenge = 'http-01'",
                "['a.test']",
                "config: listener.tls.acme: no challenge of the CA can be answered for a.test: http-01 requires",
            ),
            (
                AGREED,
                clients.as_str(),
                "config: listener.tls.acme: no challenge of the CA can be answered for a.test: tls-alpn-01 requires",
            ),
            (
                "acme.terms_agreed = true\nacme.cache = '/c'\nacme.directory = 'http://ca.test/dir'",
                "['a.test']",
                "sse-guard.toml:5: acme.directory: is not an https:// URL",
            ),
        ] {
            let found = problems(&acme(front, names));
            assert!(
                found.iter().any(|line| line.starts_with(expected)),
                "{expected}\n{found:#?}"
            );
        }
        let unused = "upstream.url = 'http://app'\nacme.terms_agreed = true";
        let found = config(unused).warnings.join("\n");
        assert!(
            found.contains("acme.terms_agreed has no effect: no listener has tls.acme"),
            "{found}"
        );
    }
}
