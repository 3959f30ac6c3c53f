//! `[upstream.tls]`: TLS to upstreams with an `https` URL.

use std::path::Path;

use http::Uri;
use http::uri::Scheme;

use super::super::super::given::{AllValues, Scope, URL};
use super::super::super::key::{Key, Table};
use super::super::super::kind::Shape;
use super::super::super::mistake::Mistake;
use super::super::super::value::Value;
use crate::tls::{
    ClientIdentity, ClientTls, ClientTlsError, PemError, Trust, certificates, private_key,
    server_name,
};

pub(in super::super) const TABLE: Table = Table {
    name: "upstream.tls",
    about: "TLS to upstreams whose upstream.url begins with https://. Files are PEM, and read at the start and \
            at each reload.",
    reference: "For an `upstream.url` that begins with `https://`: see [TLS to upstreams](security.md#tls-to-upstreams). \
                Files are PEM, and read at the start and at each reload.",
    keys: &[
        Key::route(CA, Shape::File)
            .or_off()
            .default("off")
            .help(
                "File with the certificates of the CAs that may issue the upstream's certificate, in \
                 place of those that the system trusts",
            )
            .advice("Set it for a private CA, or for a self-signed certificate."),
        Key::route(CERTIFICATE, Shape::File)
            .or_off()
            .default("off")
            .help(
                "File with the client certificate, and its intermediate certificates, for an upstream \
                 that requires one",
            ),
        Key::route(KEY, Shape::File)
            .or_off()
            .default("off")
            .help("File with the private key of upstream.tls.certificate, not encrypted"),
        Key::route("upstream.tls.server_name", Shape::ServerName)
            .or_off()
            .default("off")
            .help(
                "Name that the upstream's certificate must have, and that the upstream gets (SNI); off: \
                 the host of upstream.url",
            )
            .advice("Set it if upstream.url has an address or an internal name."),
        Key::route("upstream.tls.insecure_skip_verify", Shape::Bool)
            .default("false")
            .help(
                "Accept every certificate of the upstream. Whatever is between can then read and change \
                 all traffic",
            )
            .advice("For tests; upstream.tls.ca accepts a self-signed certificate without this."),
    ],
};

const CA: &str = "upstream.tls.ca";
const CERTIFICATE: &str = "upstream.tls.certificate";
const KEY: &str = "upstream.tls.key";

/// The settings for this URL; nothing for one without TLS, and with a problem.
pub(super) fn read(
    scope: Scope<'_>,
    url: &Uri,
    problems: &mut Vec<Mistake>,
) -> Result<Option<ClientTls>, Mistake> {
    if url.scheme() != Some(&Scheme::HTTPS) {
        return Ok(None);
    }
    let mut own = Vec::new();
    let ca = file(scope, CA, certificates, &mut own)?;
    let chain = file(scope, CERTIFICATE, certificates, &mut own)?;
    let key = file(scope, KEY, private_key, &mut own)?;
    let has = |key| scope.get::<Option<String>>(key).map(|file| file.is_some());
    for (is_set, missing) in [(CERTIFICATE, KEY), (KEY, CERTIFICATE)] {
        if has(is_set)? && !has(missing)? {
            let problem = format!("requires {missing}, which is not set");
            own.push(scope.mistake(is_set, problem));
        }
    }
    let name: Option<String> = scope.get("upstream.tls.server_name")?;
    let name = match name {
        Some(name) => server_name(&name),
        None => server_name(url.host().unwrap_or_default()),
    };
    if name.is_none() {
        let problem =
            "has a host that is not a name of a certificate; set upstream.tls.server_name";
        own.push(scope.mistake(URL, problem));
    }
    let trust = match (scope.get("upstream.tls.insecure_skip_verify")?, ca) {
        (true, _) => Trust::Any,
        (false, Some(roots)) => Trust::Roots(roots),
        (false, None) => Trust::System,
    };
    let client = chain.zip(key);
    let client = client.map(|(chain, key)| ClientIdentity { chain, key });
    let mut tls = None;
    if let (Some(name), true) = (name, own.is_empty()) {
        match ClientTls::new(name, trust, client) {
            Ok(made) => tls = Some(made),
            Err(error) => own.push(unusable(scope, &error)),
        }
    }
    // Routes that share keys share their mistakes.
    own.retain(|mistake| !problems.contains(mistake));
    problems.append(&mut own);
    Ok(tls)
}

/// What `read` makes of the file that the key names.
fn file<T>(
    scope: Scope<'_>,
    key: &str,
    read: impl Fn(&Path) -> Result<T, PemError>,
    problems: &mut Vec<Mistake>,
) -> Result<Option<T>, Mistake> {
    let Some(path) = scope.get::<Option<String>>(key)? else {
        return Ok(None);
    };
    match read(Path::new(&path)) {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            problems.push(scope.mistake(key, error.to_string()));
            Ok(None)
        }
    }
}

fn unusable(scope: Scope<'_>, error: &ClientTlsError) -> Mistake {
    match error {
        ClientTlsError::NoSystemRoots(_) => {
            let problem = format!(
                "{error}, which https:// requires: install them (the package ca-certificates), or set \
                 {CA}"
            );
            scope.mistake(URL, problem)
        }
        ClientTlsError::Root { .. } => scope.mistake(CA, error.to_string()),
        ClientTlsError::KeyMismatch => scope.mistake(KEY, error.to_string()),
        ClientTlsError::Client(_) => scope.mistake(CERTIFICATE, error.to_string()),
        ClientTlsError::Other(_) => scope.mistake(URL, error.to_string()),
    }
}

/// A warning about a key that is set where no upstream has TLS.
pub(in super::super::super) fn unused(values: &AllValues) -> Option<String> {
    let is_set = |key: &&Key| {
        let mut given = values.routes().filter_map(|scope| scope.given(key.name));
        given.any(|given| !matches!(given.value, Value::Off | Value::Bool(false)))
    };
    let key = TABLE.keys.iter().find(is_set)?;
    Some(format!(
        "{} has no effect: no upstream.url begins with https://",
        key.name
    ))
}

/// A warning that is to be noticed.
pub(super) fn warning(tls: Option<&ClientTls>) -> Option<String> {
    let tls = tls.filter(|tls| !tls.is_verified())?;
    Some(format!(
        "INSECURE: upstream.tls.insecure_skip_verify accepts every certificate for {}: whatever is between can \
         read and change all traffic, credentials included; set upstream.tls.ca instead",
        tls.name().to_str()
    ))
}
