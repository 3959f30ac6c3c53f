//! TLS as a client, for the connections to one server.

use super::provider;
use super::roots::{BadRoot, Roots};
use super::verifier::Verifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, Error};
use std::sync::Arc;

/// The protocol that is offered by ALPN.
const PROTOCOL: &[u8] = b"http/1.1";
/// Sessions that are kept to be resumed. A connection to one server takes one of them, so that a few are enough for
/// many that connect at once: each full handshake adds some.
const MAX_SESSIONS: usize = 16;

/// Settings of TLS for the connections to one server. Equal settings may share connections.
#[derive(Clone, Debug)]
pub struct ClientTls {
    identity: Arc<Identity>,
    /// Also has the sessions that can be resumed.
    config: Arc<ClientConfig>,
}

/// What one connection must have in common with another.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    name: ServerName<'static>,
    /// None if no certificate is verified.
    roots: Option<Arc<Roots>>,
    client: Option<ClientIdentity>,
}

/// Which certificates of the server are accepted.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Those of the CAs that the system trusts.
    System,
    /// Those of these CAs alone.
    Roots(Vec<CertificateDer<'static>>),
    /// All.
    Any,
}

/// The certificate of the client, its chain, and its key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientIdentity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientTlsError {
    #[error("this system has no CA certificates{0}")]
    NoSystemRoots(String),
    #[error("certificate {number} of the file is not valid: {error}")]
    Root { number: usize, error: Error },
    #[error("the key does not belong to the certificate")]
    KeyMismatch,
    #[error("the certificate or its key is not valid: {0}")]
    Client(Error),
    #[error(transparent)]
    Other(#[from] Error),
}

impl ClientTls {
    pub(crate) fn new(
        name: ServerName<'static>,
        trust: Trust,
        client: Option<ClientIdentity>,
    ) -> Result<Self, ClientTlsError> {
        let roots = match trust {
            Trust::System => Some(Roots::of_the_system().map_err(ClientTlsError::NoSystemRoots)?),
            Trust::Roots(certificates) => Some(Arc::new(Roots::new(certificates)?)),
            Trust::Any => None,
        };
        let webpki = roots.as_ref().map(|roots| {
            let store = roots.store().clone();
            let verifier = WebPkiServerVerifier::builder_with_provider(store, provider());
            let verifier = verifier.build();
            verifier.map_err(|error| Error::General(error.to_string()))
        });
        let verifier = Arc::new(Verifier::new(provider(), webpki.transpose()?));
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &client {
            None => builder.with_no_client_auth(),
            Some(ClientIdentity { chain, key }) => {
                let config = builder.with_client_auth_cert(chain.clone(), key.clone_key());
                config.map_err(|error| match error {
                    Error::InconsistentKeys(_) => ClientTlsError::KeyMismatch,
                    error => ClientTlsError::Client(error),
                })?
            }
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::in_memory_sessions(MAX_SESSIONS);
        let identity = Identity {
            name,
            roots,
            client,
        };
        Ok(Self {
            identity: Arc::new(identity),
            config: Arc::new(config),
        })
    }

    /// The name that the certificate of the server must have.
    pub(crate) fn name(&self) -> &ServerName<'static> {
        &self.identity.name
    }

    pub(crate) fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Whether the certificate of the server is verified.
    pub(crate) fn is_verified(&self) -> bool {
        self.identity.roots.is_some()
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for ClientTls {}

impl From<BadRoot> for ClientTlsError {
    fn from(BadRoot { number, error }: BadRoot) -> Self {
        Self::Root { number, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::server_name;
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    fn generated() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        (cert.der().clone(), key)
    }

    #[test]
    fn settings_are_equal_if_all_of_them_are() {
        let (root, other) = (generated().0, generated().0);
        let (certificate, key) = generated();
        let client = |key: &PrivateKeyDer<'static>| ClientIdentity {
            chain: vec![certificate.clone()],
            key: key.clone_key(),
        };
        let make = |name: &str, roots: &[&CertificateDer<'static>], client| {
            let trust = match roots {
                [] => Trust::Any,
                roots => Trust::Roots(roots.iter().copied().cloned().collect()),
            };
            ClientTls::new(server_name(name).unwrap(), trust, client).unwrap()
        };
        let all = [
            make("app.test", &[&root], None),
            make("other.test", &[&root], None),
            make("app.test", &[&other], None),
            make("app.test", &[&root, &other], None),
            make("app.test", &[], None),
            make("app.test", &[&root], Some(client(&key))),
        ];
        for (index, one) in all.iter().enumerate() {
            for (at, another) in all.iter().enumerate() {
                assert_eq!(one == another, index == at, "{index} {at}");
            }
        }
        let equal = make("app.test", &[&root], Some(client(&key)));
        assert_eq!(equal, all[5]);
        assert!(!all[4].is_verified() && all[5].is_verified());
        // What logs may contain.
        let text = format!("{:?}", all[5]);
        assert!(!text.contains(&format!("{:?}", key.secret_der())), "{text}");
    }

    #[test]
    fn unusable_certificates_and_keys_are_refused() {
        let new = |trust, client| {
            let name = server_name("app.test").unwrap();
            let error = ClientTls::new(name, trust, client).unwrap_err();
            error.to_string()
        };
        let (certificate, key) = generated();
        let bad = CertificateDer::from(vec![0; 9]);
        let error = new(Trust::Roots(vec![certificate.clone(), bad.clone()]), None);
        assert!(
            error.starts_with("certificate 2 of the file is not valid"),
            "{error}"
        );
        for (chain, key, expected) in [
            (certificate, generated().1, "does not belong"),
            (bad, key, "the certificate or its key is not valid"),
        ] {
            let chain = vec![chain];
            let error = new(Trust::Any, Some(ClientIdentity { chain, key }));
            assert!(error.contains(expected), "{error}");
        }
    }
}
