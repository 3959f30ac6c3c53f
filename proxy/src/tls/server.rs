//! TLS as a server, for the clients of a listener.

use super::managed::{ACME_TLS, ManagedKeys};
use super::provider;
use super::roots::{BadRoot, Roots};
use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, ServerConfig};
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage};

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// Settings of TLS for the clients of a listener.
#[derive(Clone, Debug)]
pub struct ServerTls {
    identity: Arc<Identity>,
    /// Also has the keys of the session tickets.
    config: Arc<ServerConfig>,
    /// Its certificates, if they come from ACME.
    managed: Option<Arc<ManagedKeys>>,
}

/// What one config must have in common with another in place of which it may stay in use.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    certificates: ServerCertificates,
    http2: bool,
    clients: Option<ClientAuth>,
}

/// The certificates of a listener, at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerCertificates {
    /// From files.
    Files(Vec<ServerIdentity>),
    /// From ACME, for these names in lower case.
    Managed(Vec<String>),
}

/// A certificate of the server, its chain, and its key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    /// Where the certificate is from.
    pub(crate) file: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// Certificates that clients have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientAuth {
    /// Of the CAs that may issue them.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// A client without one is refused.
    pub(crate) is_required: bool,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerTlsError {
    /// Of the pair with this index.
    #[error("does not belong to the certificate")]
    KeyMismatch(usize),
    #[error("cannot be used: {1}")]
    Unusable(usize, Error),
    #[error("certificate {number} of the file is not valid: {error}")]
    ClientRoot { number: usize, error: Error },
    #[error(transparent)]
    Other(#[from] Error),
}

impl ServerTls {
    pub(crate) fn new(
        certificates: ServerCertificates,
        http2: bool,
        clients: Option<ClientAuth>,
    ) -> Result<Self, ServerTlsError> {
        let (resolver, managed): (Arc<dyn ResolvesServerCert>, _) = match &certificates {
            ServerCertificates::Files(files) => (Arc::new(ByName::new(files)?), None),
            ServerCertificates::Managed(names) => {
                let managed = Arc::new(ManagedKeys::new(names.clone()));
                (managed.clone(), Some(managed))
            }
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(clients.verifier()?),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = match http2 {
            true => vec![HTTP2.to_vec(), HTTP1.to_vec()],
            false => vec![HTTP1.to_vec()],
        };
        if managed.is_some() {
            // Last: a client that offers another one is served.
            config.alpn_protocols.push(ACME_TLS.to_vec());
        }
        // They hold the sessions in place of this process.
        config.ticketer = Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            identity: Arc::new(Identity {
                certificates,
                http2,
                clients,
            }),
            config: Arc::new(config),
            managed,
        })
    }

    pub(crate) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Its certificates, if they come from ACME.
    pub(crate) fn managed(&self) -> Option<&Arc<ManagedKeys>> {
        self.managed.as_ref()
    }

    /// The names whose certificates come from ACME.
    pub(crate) fn managed_names(&self) -> &[String] {
        self.managed.as_ref().map_or(&[], |managed| managed.names())
    }

    /// Whether each client needs a certificate.
    pub(crate) fn requires_certificates(&self) -> bool {
        let mut clients = self.identity.clients.iter();
        clients.any(|clients| clients.is_required)
    }

    /// Whether clients may have certificates.
    pub(crate) fn requests_certificates(&self) -> bool {
        self.identity.clients.is_some()
    }

    /// The certificates that are not valid at this time, with the reason.
    pub(crate) fn invalid_at(&self, now: UnixTime) -> impl Iterator<Item = (&str, String)> {
        let files = match &self.identity.certificates {
            ServerCertificates::Files(files) => files.as_slice(),
            ServerCertificates::Managed(_) => &[],
        };
        files.iter().filter_map(move |identity| {
            let reason = validity_error(identity.chain.first()?, now)?;
            Some((identity.file.as_str(), reason))
        })
    }
}

impl ClientAuth {
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, ServerTlsError> {
        let roots = Roots::new(self.roots.clone())?;
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots.store().clone(), provider());
        let builder = match self.is_required {
            true => builder,
            false => builder.allow_unauthenticated(),
        };
        let verifier = builder.build();
        verifier.map_err(|error| Error::General(error.to_string()).into())
    }
}

impl From<BadRoot> for ServerTlsError {
    fn from(BadRoot { number, error }: BadRoot) -> Self {
        Self::ClientRoot { number, error }
    }
}

/// Equal settings have the same tickets: a config that is replaced by an equal one would end all sessions.
impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for ServerTls {}

/// Why clients reject the certificate by their clock.
fn validity_error(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let algorithms = provider().signature_verification_algorithms.all;
    // The validity comes first of all that is verified; what follows is up to the clients.
    let verified = certificate.verify_for_usage(
        algorithms,
        &[],
        &[],
        now,
        KeyUsage::server_auth(),
        None,
        None,
    );
    match verified.err()? {
        webpki::Error::CertExpired { not_after, .. } => {
            Some(format!("expired on {}", super::time(not_after)))
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            Some(format!("is not valid before {}", super::time(not_before)))
        }
        _ => None,
    }
}

/// Selects a certificate by the name in the client's hello (SNI); the first without a match.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ByName {
    fn new(files: &[ServerIdentity]) -> Result<Self, ServerTlsError> {
        let keys = files.iter().enumerate().map(|(index, identity)| {
            let key = certified_key(identity.chain.clone(), identity.key.clone_key());
            key.map_err(|error| match error {
                Error::InconsistentKeys(_) => ServerTlsError::KeyMismatch(index),
                error => ServerTlsError::Unusable(index, error),
            })
        });
        keys.collect::<Result<_, _>>().map(Self)
    }
}

/// A certificate with its key, which belongs to it.
pub(crate) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, Error> {
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new)
}

/// The same for a certificate that only a CA reads to verify a name. Its critical extension is unknown to webpki, which
/// compares keys.
pub(crate) fn challenge_key(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, Error> {
    let key = provider().key_provider.load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let can_sign = |key: &&&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        let name = hello.server_name();
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let matching: Vec<_> = match &name {
            Some(name) if self.0.len() > 1 => {
                self.0.iter().filter(|key| is_for(key, name)).collect()
            }
            _ => Vec::new(),
        };
        // Of several for a name, as one with RSA may be beside one with ECDSA.
        let usable = matching.iter().find(can_sign).or(matching.first());
        usable.copied().or(self.0.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let certificate = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use std::time::Duration;

    fn pair(change: impl Fn(&mut CertificateParams)) -> ServerIdentity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["app.test".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        ServerIdentity {
            file: "app.pem".to_owned(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    fn same(pair: &ServerIdentity) -> ServerIdentity {
        ServerIdentity {
            file: pair.file.clone(),
            chain: pair.chain.clone(),
            key: pair.key.clone_key(),
        }
    }

    fn files(
        pairs: Vec<ServerIdentity>,
        clients: Option<ClientAuth>,
    ) -> Result<ServerTls, ServerTlsError> {
        ServerTls::new(ServerCertificates::Files(pairs), true, clients)
    }

    #[test]
    fn server_settings_are_equal_if_all_of_them_are() {
        let (one, other) = (pair(|_| {}), pair(|_| {}));
        let new = |pairs: &[&ServerIdentity], http2, clients| {
            let pairs = pairs.iter().map(|pair| same(pair)).collect();
            ServerTls::new(ServerCertificates::Files(pairs), http2, clients).unwrap()
        };
        let clients = |is_required| ClientAuth {
            roots: other.chain.clone(),
            is_required,
        };
        let first = new(&[&one], true, None);
        assert_eq!(first, new(&[&one], true, None));
        let required = new(&[&one], true, Some(clients(true)));
        assert_ne!(required, new(&[&one], true, Some(clients(false))));
        for another in [
            new(&[&one], false, None),
            new(&[&other], true, None),
            new(&[&one, &other], true, None),
            required,
        ] {
            assert_ne!(first, another);
        }
        assert_eq!(first.config().alpn_protocols, [HTTP2, HTTP1]);
        assert_eq!(first.config().max_early_data_size, 0);
        let text = format!("{first:?}");
        assert!(
            !text.contains(&format!("{:?}", one.key.secret_der())),
            "{text}"
        );
    }

    #[test]
    fn key_of_another_certificate_and_bad_certificates_are_refused() {
        let good = pair(|_| {});
        let mismatch = ServerIdentity {
            key: pair(|_| {}).key,
            ..same(&good)
        };
        let error = files(vec![same(&good), mismatch], None).unwrap_err();
        assert!(matches!(error, ServerTlsError::KeyMismatch(1)), "{error:?}");
        let bytes = || vec![CertificateDer::from(vec![0; 9])];
        let bad = ServerIdentity {
            chain: bytes(),
            ..same(&good)
        };
        let error = files(vec![bad], None).unwrap_err();
        assert!(matches!(error, ServerTlsError::Unusable(0, _)), "{error:?}");
        let clients = ClientAuth {
            roots: bytes(),
            is_required: true,
        };
        let error = files(vec![good], Some(clients)).unwrap_err();
        assert!(
            matches!(error, ServerTlsError::ClientRoot { number: 1, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn certificate_outside_of_its_validity_is_reported() {
        let pair = pair(|params| {
            params.not_before = date_time_ymd(2024, 1, 1);
            params.not_after = date_time_ymd(2025, 1, 1);
        });
        let tls = files(vec![pair], None).unwrap();
        let at = |seconds| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            tls.invalid_at(now).map(|(_, reason)| reason).next()
        };
        assert_eq!(at(1_720_000_000), None);
        assert_eq!(
            at(1_800_000_000).unwrap(),
            "expired on 2025-01-01T00:00:00Z"
        );
        assert_eq!(
            at(1_600_000_000).unwrap(),
            "is not valid before 2024-01-01T00:00:00Z"
        );
    }
}
