//! Certificates and configs for the tests.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// The name in the certificate of the server.
pub(super) const NAME: &str = "guard.test";

pub(super) fn name(name: &'static str) -> ServerName<'static> {
    ServerName::try_from(name).unwrap()
}

/// The configs of a server, and of a client that trusts it.
pub(super) fn configs(
    versions: &[&'static SupportedProtocolVersion],
) -> (ServerConfig, ClientConfig) {
    both(versions, false)
}

/// Configs with which the client has a certificate, too.
pub(super) fn mutual_configs(
    versions: &[&'static SupportedProtocolVersion],
) -> (ServerConfig, ClientConfig) {
    both(versions, true)
}

fn both(
    versions: &[&'static SupportedProtocolVersion],
    is_mutual: bool,
) -> (ServerConfig, ClientConfig) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let chain = || vec![cert.der().clone()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap();
    let server = match is_mutual {
        true => {
            let roots = Arc::new(roots.clone());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
            server.with_client_cert_verifier(verifier.unwrap())
        }
        false => server.with_no_client_auth(),
    };
    let server = server.with_single_cert(chain(), key()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let client = match is_mutual {
        true => client.with_client_auth_cert(chain(), key()).unwrap(),
        false => client.with_no_client_auth(),
    };
    (server, client)
}
