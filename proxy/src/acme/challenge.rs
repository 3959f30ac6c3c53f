//! Answers to the challenges by which a CA verifies a name.

use crate::tls::challenge_key;
use http::{Method, Request};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;
use sse_guard::internal::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const PREFIX: &str = "/.well-known/acme-challenge/";

/// Answers to HTTP-01, RFC 8555 section 8.3, of orders under way.
#[derive(Debug, Default)]
pub(crate) struct HttpChallenges {
    /// Key authorizations by their tokens.
    pending: Mutex<HashMap<String, String>>,
}

impl HttpChallenges {
    pub(super) fn set(&self, token: &str, authorization: &str) {
        lock(&self.pending).insert(token.to_owned(), authorization.to_owned());
    }

    pub(super) fn remove(&self, token: &str) {
        lock(&self.pending).remove(token);
    }

    /// The answer to a request of the CA; nothing for any other request.
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Option<String> {
        let token = request.uri().path().strip_prefix(PREFIX)?;
        let may_ask = matches!(*request.method(), Method::GET | Method::HEAD);
        may_ask.then(|| lock(&self.pending).get(token).cloned())?
    }
}

/// The certificate that answers TLS-ALPN-01 for a name, RFC 8737 section 3.
pub(super) fn tls_alpn_key(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, ChallengeError> {
    if digest.len() != 32 {
        return Err(ChallengeError::Digest);
    }
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.der().clone();
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok(challenge_key(certificate, key.into())?)
}

/// An answer that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChallengeError {
    #[error("the digest of a challenge is not one of SHA-256")]
    Digest,
    #[error("the certificate of a challenge cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate of a challenge cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_are_pending_have_an_answer() {
        let challenges = HttpChallenges::default();
        let answer = |method: Method, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            challenges.answer(&request)
        };
        let path = "/.well-known/acme-challenge/abc";
        assert_eq!(answer(Method::GET, path), None);
        challenges.set("abc", "abc.thumb");
        assert_eq!(answer(Method::GET, path).as_deref(), Some("abc.thumb"));
        assert_eq!(answer(Method::HEAD, path).as_deref(), Some("abc.thumb"));
        assert_eq!(answer(Method::POST, path), None);
        for other in [
            "/abc",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/ab",
            "/x/.well-known/acme-challenge/abc",
        ] {
            assert_eq!(answer(Method::GET, other), None, "{other}");
        }
        challenges.remove("abc");
        assert_eq!(answer(Method::GET, path), None);
    }

    #[test]
    fn certificate_of_a_challenge_is_usable_for_a_handshake() {
        let key = tls_alpn_key("a.test", &[7; 32]).unwrap();
        // acmeIdentifier, critical, with the digest.
        let extension = [
            &[
                0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f, 0x01, 0x01, 0xff,
            ][..],
            &[0x04, 0x22, 0x04, 0x20],
            &[7; 32],
        ];
        let extension = extension.concat();
        let mut parts = key.cert[0].windows(extension.len());
        assert!(parts.any(|part| part == extension));
        assert!(tls_alpn_key("a.test", &[7; 31]).is_err());
    }
}
