//! TLS as a client, for the connections to one server.

use super::provider;
use super::roots::system_roots;
use super::verifier::{SkipVerify, Verify};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, Error, RootCertStore};
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
    roots: Option<Arc<Vec<CertificateDer<'static>>>>,
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
        let is_systems = matches!(trust, Trust::System);
        let roots = match trust {
            Trust::System => Some(system_roots().map_err(ClientTlsError::NoSystemRoots)?),
            Trust::Roots(roots) => Some(Arc::new(roots)),
            Trust::Any => None,
        };
        let verifier: Arc<dyn ServerCertVerifier> = match &roots {
            None => Arc::new(SkipVerify(provider())),
            Some(certificates) => {
                let roots = Arc::new(root_store(certificates, is_systems)?);
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
                let verifier = verifier
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?;
                Arc::new(Verify(verifier))
            }
        };
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

/// A system may have CA certificates that cannot be used; a file of the operator's must not.
fn root_store(
    certificates: &[CertificateDer<'static>],
    is_systems: bool,
) -> Result<RootCertStore, ClientTlsError> {
    let mut store = RootCertStore::empty();
    if is_systems {
        store.add_parsable_certificates(certificates.iter().cloned());
        return match store.is_empty() {
            true => Err(ClientTlsError::NoSystemRoots(String::new())),
            false => Ok(store),
        };
    }
    for (index, certificate) in certificates.iter().enumerate() {
        let number = index + 1;
        let added = store.add(certificate.clone());
        added.map_err(|error| ClientTlsError::Root { number, error })?;
    }
    Ok(store)
}
