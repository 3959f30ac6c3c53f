//! `[listener.tls]`: TLS to the clients of a listener.

use std::path::Path;

use rustls::pki_types::UnixTime;

use super::super::super::given::Scope;
use super::super::super::mistake::Mistake;
use super::super::super::value::{Choice, choice};
use super::ListenerConfig;
use super::acme_names::{self, KEY as ACME};
use crate::tls::{
    ClientAuth, ServerCertificates, ServerIdentity, ServerTls, ServerTlsError, certificates,
    private_key,
};

pub(super) const CERTIFICATE: &str = "listener.tls.certificate";
pub(super) const KEY: &str = "listener.tls.key";
pub(super) const CLIENT_CA: &str = "listener.tls.client_ca";
pub(super) const CLIENT_AUTH: &str = "listener.tls.client_auth";
pub(super) const CLIENT_AUTH_WORDS: &[&str] = Need::WORDS;

/// Which clients need a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Optional,
    Required,
}

choice! { Need {
    "optional" => Optional,
    "required" => Required,
} }

/// Whether the listener has TLS, be its settings usable or not.
pub(super) fn is_set(scope: Scope<'_>) -> bool {
    let mut keys = [CERTIFICATE, KEY, ACME].into_iter();
    keys.any(|key| scope.given(key).is_some())
}

/// The settings of a listener; nothing for one without TLS, and with a problem.
pub(super) fn read(
    scope: Scope<'_>,
    http2: bool,
    problems: &mut Vec<Mistake>,
) -> Result<Option<ServerTls>, Mistake> {
    let certificate_files: Option<Vec<String>> = scope.get_if_set(CERTIFICATE)?;
    let key_files: Option<Vec<String>> = scope.get_if_set(KEY)?;
    let acme: Option<Vec<String>> = scope.get_if_set(ACME)?;
    let (certificate_files, key_files) = match (certificate_files, key_files) {
        (None, None) if acme.is_some() => {
            return managed(scope, &acme.unwrap_or_default(), http2, problems);
        }
        (Some(_), _) | (_, Some(_)) if acme.is_some() => {
            let problem = format!(
                "cannot be combined with {CERTIFICATE} and {KEY}: write a [[listener]] for each"
            );
            problems.push(scope.mistake(ACME, problem));
            return Ok(None);
        }
        (None, None) => {
            let of_clients = [CLIENT_CA, CLIENT_AUTH].into_iter();
            let set = of_clients.filter(|key| scope.given(key).is_some());
            let problem = format!("requires {CERTIFICATE} or {ACME}, neither of which is set");
            problems.extend(set.map(|key| scope.mistake(key, &problem)));
            return Ok(None);
        }
        (Some(certificates), Some(keys)) => (certificates, keys),
        (certificates, _) => {
            let (is_set, missing) = match certificates {
                Some(_) => (CERTIFICATE, KEY),
                None => (KEY, CERTIFICATE),
            };
            let problem = format!("requires {missing}, which is not set");
            problems.push(scope.mistake(is_set, problem));
            return Ok(None);
        }
    };
    if certificate_files.len() != key_files.len() {
        let (keys, certificates) = (key_files.len(), certificate_files.len());
        let problem = format!(
            "lists {keys} files for {certificates} of {CERTIFICATE}: list the key of each certificate, in \
             their order"
        );
        problems.push(scope.mistake(KEY, problem));
        return Ok(None);
    }
    let known = problems.len();
    let mut identities = Vec::new();
    for (file, key_file) in certificate_files.iter().zip(&key_files) {
        let chain = certificates(Path::new(file));
        let key = private_key(Path::new(key_file));
        match (chain, key) {
            (Ok(chain), Ok(key)) => identities.push(ServerIdentity {
                file: file.clone(),
                chain,
                key,
            }),
            (chain, key) => {
                let chain = chain.err().map(|error| (CERTIFICATE, error));
                let errors = chain.into_iter().chain(key.err().map(|error| (KEY, error)));
                problems.extend(errors.map(|(name, error)| scope.mistake(name, error.to_string())));
            }
        }
    }
    let clients = clients(scope, problems)?;
    if problems.len() > known {
        return Ok(None);
    }
    match ServerTls::new(ServerCertificates::Files(identities), http2, clients) {
        Ok(tls) => Ok(Some(tls)),
        Err(error) => {
            let (name, problem) = match &error {
                ServerTlsError::KeyMismatch(index) => {
                    let (key, certificate) = (&key_files[*index], &certificate_files[*index]);
                    let problem = format!(
                        "{key} {error} of {certificate}; the certificate of the server comes first in its \
                         file, and both files are replaced together"
                    );
                    (KEY, problem)
                }
                ServerTlsError::Unusable(index, _) => {
                    let problem = format!(
                        "{} with the key {} {error}",
                        certificate_files[*index], key_files[*index]
                    );
                    (CERTIFICATE, problem)
                }
                ServerTlsError::ClientRoot { .. } => (CLIENT_CA, error.to_string()),
                ServerTlsError::Other(_) => (CERTIFICATE, error.to_string()),
            };
            problems.push(scope.mistake(name, problem));
            Ok(None)
        }
    }
}

/// The settings of a listener whose certificates come from ACME.
fn managed(
    scope: Scope<'_>,
    names: &[String],
    http2: bool,
    problems: &mut Vec<Mistake>,
) -> Result<Option<ServerTls>, Mistake> {
    let known = problems.len();
    let names = acme_names::check(scope, names, problems);
    let clients = clients(scope, problems)?;
    if problems.len() > known {
        return Ok(None);
    }
    match ServerTls::new(ServerCertificates::Managed(names), http2, clients) {
        Ok(tls) => Ok(Some(tls)),
        Err(error) => {
            problems.push(scope.mistake(CLIENT_CA, error.to_string()));
            Ok(None)
        }
    }
}

/// Certificates of clients, if the listener requests them.
fn clients(scope: Scope<'_>, problems: &mut Vec<Mistake>) -> Result<Option<ClientAuth>, Mistake> {
    let need: Option<Need> = scope.get_if_set(CLIENT_AUTH)?;
    let file: Option<String> = scope.get_if_set(CLIENT_CA)?;
    let Some(file) = file else {
        if need.is_some() {
            let problem = format!("requires {CLIENT_CA}, which is not set");
            problems.push(scope.mistake(CLIENT_AUTH, problem));
        }
        return Ok(None);
    };
    Ok(match certificates(Path::new(&file)) {
        Ok(roots) => Some(ClientAuth {
            roots,
            is_required: need != Some(Need::Optional),
        }),
        Err(error) => {
            problems.push(scope.mistake(CLIENT_CA, error.to_string()));
            None
        }
    })
}

/// Certificates that clients reject by their clock.
pub(super) fn warnings(listeners: &[ListenerConfig]) -> Vec<String> {
    let all = listeners
        .iter()
        .filter_map(|listener| listener.tls.as_ref());
    let invalid = all.flat_map(|tls| tls.invalid_at(UnixTime::now()));
    invalid
        .map(|(file, reason)| {
            format!("the certificate in {file} ({CERTIFICATE}) {reason}: clients reject it")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::config::from_file;
    use crate::config::source::tests::{config, problems};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use std::fs;

    struct Folder(tempfile::TempDir);

    impl Folder {
        /// `name.pem` and `name.key`.
        fn pair(&self, name: &str, year: i32) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&key).unwrap();
            self.write(&format!("{name}.pem"), &certificate.pem());
            self.write(&format!("{name}.key"), &key.serialize_pem());
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        /// A config with these lines in `[listener.tls]`; `/f` is the folder.
        fn text(&self, tls: &str) -> String {
            let tls = tls.replace("/f/", &format!("{}/", self.0.path().display()));
            format!(
                "upstream.url = 'http://app'\n[[listener]]\naddress = ':443'\n[listener.tls]\n{tls}"
            )
        }
    }

    fn folder() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.pair("a", 2999);
        folder.pair("b", 2999);
        folder
    }

    #[test]
    fn listener_has_one_pair_of_files_or_several() {
        let folder = folder();
        for tls in [
            "certificate = '/f/a.pem'\nkey = '/f/a.key'",
            "certificate = ['/f/a.pem', '/f/b.pem']\nkey = ['/f/a.key', '/f/b.key']",
        ] {
            let config = config(&folder.text(tls));
            let listener = &config.listeners[0];
            assert!(listener.tls.is_some() && listener.http2);
            let again = from_file(&folder.text(tls)).unwrap().config;
            assert_eq!(again.listeners[0], *listener);
        }
        let without = "certificate = '/f/a.pem'\nkey = '/f/a.key'";
        let text = folder
            .text(without)
            .replace("':443'", "':443'\nhttp2 = false");
        assert!(!config(&text).listeners[0].http2);
        let global =
            "client.http2 = true\nupstream.url = 'http://app'\n[[listener]]\naddress = ':80'";
        assert!(config(global).listeners[0].http2);
        assert!(!config(&format!("{global}\nhttp2 = false")).listeners[0].http2);
    }

    #[test]
    fn unusable_pairs_are_mistakes_that_name_key_and_file() {
        let folder = folder();
        let key = fs::read_to_string(folder.0.path().join("a.key")).unwrap();
        folder.write(
            "encrypted.key",
            &key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
        );
        for (tls, expected) in [
            (
                "certificate = '/f/a.pem'",
                "5: listener.tls.certificate: requires listener.tls.key",
            ),
            (
                "key = '/f/a.key'",
                "5: listener.tls.key: requires listener.tls.certificate",
            ),
            (
                "certificate = '/f/a.pem'\nkey = '/f/b.key'",
                "6: listener.tls.key: /f/b.key does not belong to the certificate of /f/a.pem",
            ),
            (
                "certificate = ['/f/a.pem', '/f/b.pem']\nkey = '/f/a.key'",
                "6: listener.tls.key: lists 1 files for 2 of listener.tls.certificate",
            ),
            (
                "certificate = '/f/gone.pem'\nkey = '/f/a.key'",
                "5: listener.tls.certificate: cannot read /f/gone.pem",
            ),
            (
                "certificate = '/f/a.key'\nkey = '/f/a.key'",
                "5: listener.tls.certificate: /f/a.key contains no certificate, but a private key",
            ),
            (
                "certificate = '/f/a.pem'\nkey = '/f/encrypted.key'",
                "6: listener.tls.key: /f/encrypted.key contains an encrypted private key",
            ),
            (
                "certificate = []\nkey = '/f/a.key'",
                "5: listener.tls.certificate: lists no file; write",
            ),
            (
                "client_ca = '/f/a.pem'",
                "5: listener.tls.client_ca: requires listener.tls.certificate or listener.tls.acme",
            ),
            (
                "certificate = '/f/a.pem'\nkey = '/f/a.key'\nclient_auth = 'optional'",
                "7: listener.tls.client_auth: requires listener.tls.client_ca",
            ),
            (
                "certificate = '/f/a.pem'\nkey = '/f/a.key'\nclient_ca = '/f/a.key'",
                "7: listener.tls.client_ca: /f/a.key contains no certificate",
            ),
            (
                "certificat = '/f/a.pem'",
                "5: listener.tls.certificat: unknown key; did you mean tls.certificate?",
            ),
        ] {
            let found = problems(&folder.text(tls)).join("\n");
            let expected = expected.replace("/f/", &format!("{}/", folder.0.path().display()));
            assert!(
                found.contains(&format!("sse-guard.toml:{expected}")),
                "{found}"
            );
        }
    }

    #[test]
    fn expired_certificate_is_a_warning() {
        let folder = folder();
        folder.pair("old", 2020);
        let text = folder.text("certificate = '/f/old.pem'\nkey = '/f/old.key'");
        let found = config(&text).warnings.join("\n");
        let expected = "old.pem (listener.tls.certificate) expired on 2020-01-01T00:00:00Z";
        assert!(found.contains(expected), "{found}");
    }
}
