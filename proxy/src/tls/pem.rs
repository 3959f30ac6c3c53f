//! Certificates and keys in PEM files.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a file. The CAs of a system have some 250 KB.
const MAX_FILE: u64 = 4 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PemError {
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
    #[error("{0} is larger than 4 MiB, the limit of a PEM file")]
    TooLarge(String),
    #[error("{0} is not valid PEM: {1}")]
    Malformed(String, pem::Error),
    #[error("{0} contains no certificate{1}; write PEM, with BEGIN CERTIFICATE")]
    NoCertificate(String, &'static str),
    #[error("{0} contains no private key{1}; write PEM, with BEGIN PRIVATE KEY")]
    NoKey(String, &'static str),
    #[error(
        "{0} contains an encrypted private key, which is not supported; `openssl pkey -in {0}` \
         decrypts it"
    )]
    EncryptedKey(String),
}

/// All certificates of the file, at least one, in their order.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let bytes = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|error| PemError::Malformed(name(path), error))?;
    if certificates.is_empty() {
        let found = match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(_) => ", but a private key",
            Err(_) => "",
        };
        return Err(PemError::NoCertificate(name(path), found));
    }
    Ok(certificates)
}

/// The first private key of the file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    const ENCRYPTED: &[&str] = &["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
    let bytes = read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    if ENCRYPTED.iter().any(|mark| text.contains(mark)) {
        return Err(PemError::EncryptedKey(name(path)));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            let found = match CertificateDer::from_pem_slice(&bytes) {
                Ok(_) => ", but a certificate",
                Err(_) => "",
            };
            PemError::NoKey(name(path), found)
        }
        error => PemError::Malformed(name(path), error),
    })
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map(|file| file.take(MAX_FILE + 1));
    file.and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|error| PemError::Unreadable(name(path), error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(PemError::TooLarge(name(path)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use std::fs;

    #[test]
    fn pem_file_has_certificates_and_a_key_or_the_reason_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["app.test".to_owned()]).unwrap();
        let (cert, key) = (cert.pem(), signing_key.serialize_pem());
        let both = write("both.pem", &format!("# text\n{cert}{cert}{key}"));
        assert_eq!(certificates(&both).unwrap().len(), 2);
        private_key(&both).unwrap();

        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let endless = write("endless.pem", "");
        fs::File::create(&endless)
            .unwrap()
            .set_len(MAX_FILE + 1)
            .unwrap();
        for (path, of_certificates, of_key) in [
            (folder.path().join("gone.pem"), "cannot read", "cannot read"),
            (write("empty.pem", ""), "no certificate;", "no private key;"),
            (write("cert.pem", &cert), "", "key, but a certificate;"),
            (
                write("key.pem", &key),
                "certificate, but a private key;",
                "",
            ),
            (
                write("encrypted.pem", &encrypted),
                "no certificate",
                "an encrypted",
            ),
            (
                write("cut.pem", &cert[..cert.len() / 2]),
                "not valid",
                "not valid",
            ),
            (endless, "larger than 4 MiB", "larger than 4 MiB"),
        ] {
            let errors = [
                certificates(&path).err().map(|error| error.to_string()),
                private_key(&path).err().map(|error| error.to_string()),
            ];
            for (error, expected) in errors.iter().zip([of_certificates, of_key]) {
                let error = error.clone().unwrap_or_default();
                assert!(error.contains(expected), "{path:?}: {error:?}");
                assert_eq!(error.is_empty(), expected.is_empty(), "{path:?}: {error:?}");
                let name = path.display().to_string();
                assert!(error.is_empty() || error.contains(&name), "{error}");
            }
        }
    }
}
