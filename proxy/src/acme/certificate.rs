//! A certificate with its key, and what its renewal depends on.

use crate::tls::certified_key;
use instant_acme::CertificateIdentifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, Der, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use webpki::EndEntityCert;
use x509_cert::Certificate as ParsedCertificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;

/// A certificate that a listener can use.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// By which the CA names it in renewal information, RFC 9773 section 4.1.
    id: Option<CertificateIdentifier<'static>>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("it is not valid PEM: {0}")]
    Pem(#[from] pem::Error),
    #[error("it contains no certificate")]
    Missing,
    #[error("it cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    #[error("it is not for {0}")]
    Name(String),
    #[error("it is malformed: {0}")]
    Der(#[from] x509_cert::der::Error),
}

impl Certificate {
    /// Reads the certificate of this name, with its intermediate ones, and its key.
    pub(super) fn from_pem(pem: &str, name: &str) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
        let first = chain.first().ok_or(CertificateError::Missing)?.clone();
        let key = certified_key(chain, key)?;
        let wrong_name = || CertificateError::Name(name.to_owned());
        let verified = EndEntityCert::try_from(&first).map_err(|_| wrong_name())?;
        let server = ServerName::try_from(name).map_err(|_| wrong_name())?;
        verified
            .verify_is_valid_for_subject_name(&server)
            .map_err(|_| wrong_name())?;
        let parsed = ParsedCertificate::from_der(&first)?;
        let parsed = parsed.tbs_certificate();
        let issuer = parsed.get_extension::<AuthorityKeyIdentifier>().ok();
        let issuer = issuer
            .flatten()
            .and_then(|(_, issuer)| issuer.key_identifier);
        let id = issuer.map(|issuer| {
            let serial = Der::from_slice(verified.serial());
            CertificateIdentifier::new(Der::from_slice(issuer.as_bytes()), serial).into_owned()
        });
        Ok(Self {
            key,
            not_before: parsed.validity().not_before.to_system_time(),
            not_after: parsed.validity().not_after.to_system_time(),
            id,
        })
    }

    pub(super) fn id(&self) -> Option<CertificateIdentifier<'static>> {
        self.id.clone()
    }

    pub(super) fn lifetime(&self) -> Duration {
        let lifetime = self.not_after.duration_since(self.not_before);
        lifetime.unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyIdMethod, KeyPair,
        SerialNumber,
    };

    /// A certificate for this name, by a CA with the key identifier of RFC 9773's example.
    pub(in super::super) fn issued(
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> String {
        let mut ca = CertificateParams::new([]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_identifier_method = KeyIdMethod::PreSpecified(vec![
            0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0,
            0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4,
        ]);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        certificate.pem() + &key.serialize_pem()
    }

    #[test]
    fn certificate_has_the_identifier_of_renewal_information_and_its_validity() {
        let pem = issued("a.test", |params| {
            params.serial_number = Some(SerialNumber::from_slice(&[0x87, 0x65, 0x43, 0x21]));
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2026, 1, 11);
        });
        let certificate = Certificate::from_pem(&pem, "a.test").unwrap();
        let id = certificate.id().unwrap().to_string();
        assert_eq!(id, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
        assert_eq!(
            certificate.lifetime(),
            Duration::from_secs(10 * 24 * 60 * 60)
        );
    }

    #[test]
    fn certificate_of_another_name_or_key_is_refused() {
        let (pem, other) = (issued("a.test", |_| {}), issued("a.test", |_| {}));
        assert!(Certificate::from_pem(&pem, "a.test").is_ok());
        let error =
            |pem: &str, name: &str| Certificate::from_pem(pem, name).unwrap_err().to_string();
        assert_eq!(error(&pem, "b.test"), "it is not for b.test");
        assert_eq!(error("", "a.test"), "it is not valid PEM: no items found");
        let (certificate, _) = pem.split_once("-----BEGIN PRIVATE").unwrap();
        let (_, key) = other.split_once("-----BEGIN PRIVATE").unwrap();
        let mixed = format!("{certificate}-----BEGIN PRIVATE{key}");
        assert!(error(&mixed, "a.test").starts_with("it cannot be used: "));
    }
}
