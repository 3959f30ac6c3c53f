//! How certificates of servers are verified.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use std::sync::Arc;
use webpki::EndEntityCert;

/// The certificate is its own issuer. rustls does not distinguish that from another unknown issuer, and the remedy is
/// a different one.
#[derive(Debug, thiserror::Error)]
#[error("self-signed certificate")]
pub(super) struct SelfSigned;

/// Verifies the certificate of a server, and always that the server has its key.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    /// By the roots of webpki's verifier. Accepts every certificate if `None`.
    webpki: Option<Arc<WebPkiServerVerifier>>,
}

impl Verifier {
    pub(super) fn new(
        provider: Arc<CryptoProvider>,
        webpki: Option<Arc<WebPkiServerVerifier>>,
    ) -> Self {
        Self { provider, webpki }
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|it| it.issuer() == it.subject())
}

/// Returns true if no trusted CA has issued the certificate. One that has only the name of its issuer has not: the
/// signature is then another one, or even by an algorithm that its key cannot have.
fn is_of_issuer(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(webpki) = &self.webpki else {
            return Ok(ServerCertVerified::assertion());
        };
        match webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(Error::InvalidCertificate(error)) if is_of_issuer(&error) => {
                Err(Error::from(match is_self_signed(end_entity) {
                    true => CertificateError::Other(OtherError(Arc::new(SelfSigned))),
                    false => CertificateError::UnknownIssuer,
                }))
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
