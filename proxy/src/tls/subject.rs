//! The subject of a client's certificate.

use rustls::pki_types::CertificateDer;
use std::fmt::Write;
use webpki::EndEntityCert;
use x509_cert::der::{self, Decode, Reader, SliceReader};
use x509_cert::name::{RdnSequence, RelativeDistinguishedName};

/// A longer text does not count.
const MAX_BYTES: usize = 1024;

/// The subject of a verified certificate in the text form of RFC 4514, as nginx has it in `$ssl_client_s_dn`:
/// `CN=ann,O=Example`. Without a subject, as in SPIFFE, the first URI among the alternative names, or else the first
/// DNS name.
///
/// Visible ASCII and spaces alone: other characters are escaped by their UTF-8 bytes, as RFC 4514 section 2.4 allows.
pub(crate) fn client_subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let name = match certificate.subject() {
        [] => {
            let mut uris = certificate.valid_uri_names();
            let name = uris.next().or_else(|| certificate.valid_dns_names().next());
            name?.to_owned()
        }
        subject => subject_text(subject).ok()?,
    };
    let name = escaped(&name);
    (1..=MAX_BYTES).contains(&name.len()).then_some(name)
}

/// Of the content of a `Name`.
fn subject_text(content: &[u8]) -> der::Result<String> {
    let mut reader = SliceReader::new(content)?;
    let mut names = Vec::new();
    while !reader.is_finished() {
        names.push(RelativeDistinguishedName::decode(&mut reader)?);
    }
    Ok(RdnSequence::from(names).to_string())
}

fn escaped(text: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' => ascii.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(ascii, "\\{byte:02X}")),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    fn name(entries: &[(DnType, DnValue)], alternative: Vec<SanType>) -> Option<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in entries {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.subject_alt_names = alternative;
        let key = KeyPair::generate().unwrap();
        client_subject(params.self_signed(&key).unwrap().der())
    }

    fn common(name_of_client: &str) -> Option<String> {
        name(&[(DnType::CommonName, name_of_client.into())], Vec::new())
    }

    #[test]
    fn name_is_the_subject_with_its_last_part_first() {
        let entries = [
            (DnType::CountryName, "DE".into()),
            (DnType::OrganizationName, "Example, Inc.".into()),
            (DnType::CommonName, "ann".into()),
        ];
        let alternative = vec![SanType::DnsName("a.test".try_into().unwrap())];
        let name = name(&entries, alternative).unwrap();
        assert_eq!(name, "CN=ann,O=Example\\, Inc.,C=DE");
    }

    #[test]
    fn characters_that_could_end_a_part_or_a_field_are_escaped() {
        for (value, text) in [
            ("a,O=b", "CN=a\\,O=b"),
            ("a+b", "CN=a\\+b"),
            (" a ", "CN=\\ a\\ "),
            ("a\r\nx: y", "CN=a\\0d\\0ax: y"),
            ("J\u{e9}", "CN=J\\C3\\A9"),
            ("a\u{85}", "CN=a\\C2\\85"),
        ] {
            assert_eq!(common(value).as_deref(), Some(text));
        }
        // A string of a kind that has no text in RFC 4514: its bytes.
        let bmp = DnValue::BmpString("ab".try_into().unwrap());
        let found = name(&[(DnType::CommonName, bmp)], Vec::new());
        assert_eq!(found.as_deref(), Some("2.5.4.3=#1e0400610062"));
    }

    #[test]
    fn name_without_a_subject_is_a_uri_or_else_a_dns_name() {
        let uri = SanType::URI(Ia5String::try_from("spiffe://a.test/x").unwrap());
        let dns = SanType::DnsName("a.test".try_into().unwrap());
        let both = name(&[], vec![dns.clone(), uri]);
        assert_eq!(both.as_deref(), Some("spiffe://a.test/x"));
        assert_eq!(name(&[], vec![dns]).as_deref(), Some("a.test"));
        assert_eq!(name(&[], Vec::new()), None);
    }

    #[test]
    fn name_beyond_its_bound_is_none() {
        assert_eq!(common(&"a".repeat(MAX_BYTES - 3)).unwrap().len(), MAX_BYTES);
        assert_eq!(common(&"a".repeat(MAX_BYTES - 2)), None);
    }
}
