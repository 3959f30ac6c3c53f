//! What a failed TLS connection to a server means, and what to do about it.

use super::time;
use super::verifier::SelfSigned;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, OtherError};
use std::io;

/// Names of a certificate that an error contains.
const MAX_NAMES: usize = 5;

/// Why a server cannot be used over TLS, and the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct TlsFailure {
    cause: String,
    remedy: &'static str,
}

const CHECK_LOG: &str = "the upstream's log may have the reason";
const SERVER_NAME: &str =
    "upstream.url, or upstream.tls.server_name, must have a name of the certificate";
const CA: &str = "upstream.tls.ca names a file with the certificate of its CA; an intermediate certificate is to be \
                  sent by the upstream";
const CLIENT_CERTIFICATE: &str =
    "upstream.tls.certificate and upstream.tls.key are the client certificate";
const CLOCK: &str = "renew the upstream's certificate, or correct the clock of this machine";
const PLAIN: &str =
    "use http:// in upstream.url if the upstream has no TLS, or the port on which it has";

impl TlsFailure {
    fn new(cause: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            cause: cause.into(),
            remedy,
        }
    }

    /// The handshake was not over in time.
    pub(crate) fn timeout() -> Self {
        Self::new(
            "the handshake was not over in time",
            "is it an https server? upstream.connect_timeout bounds the wait",
        )
    }

    /// ALPN has not selected HTTP/2.
    pub(crate) fn without_http2() -> Self {
        Self::new(
            "it does not support HTTP/2 over TLS (ALPN)",
            "upstream.http2 = \"auto\" uses HTTP/1.1 then; else enable HTTP/2 at the upstream",
        )
    }

    /// Returns true if the server supports none of the protocols that it was offered.
    pub(crate) fn is_of_alpn(error: &io::Error) -> bool {
        let error = error.get_ref().and_then(|error| error.downcast_ref());
        let alert = AlertDescription::NoApplicationProtocol;
        error.is_some_and(|error: &Error| *error == Error::AlertReceived(alert))
    }

    /// Of an error of a connection during its handshake.
    pub(crate) fn of_handshake(error: &io::Error) -> Self {
        match Self::of(error) {
            Some(failure) => failure,
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::new(
                "it closed the connection during the handshake",
                "is it an https server, and for this name? Its log may have the reason",
            ),
            None => Self::new(error.to_string(), CHECK_LOG),
        }
    }

    /// Of an error by TLS; nothing for one of the transport.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(error) => of_certificate(error),
            Error::AlertReceived(alert) => of_alert(*alert),
            // The first byte of a response in plain text is not the type of a record.
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Self::new("it responds without TLS", PLAIN)
            }
            Error::PeerIncompatible(error) => Self::new(
                format!("it supports no parameters of TLS that sse-guard has: {error:?}"),
                "TLS 1.2 and 1.3 are supported, with ECDHE and AES-GCM or ChaCha20",
            ),
            error => Self::new(error.to_string(), CHECK_LOG),
        })
    }

    pub(crate) fn remedy(&self) -> &'static str {
        self.remedy
    }
}

fn of_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::ExpiredContext { not_after, .. } => TlsFailure::new(
            format!("its certificate expired on {}", time(*not_after)),
            CLOCK,
        ),
        CertificateError::NotValidYetContext { not_before, .. } => TlsFailure::new(
            format!("its certificate is not valid before {}", time(*not_before)),
            CLOCK,
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => TlsFailure::new(
            format!(
                "its certificate is not for {}, but for {}",
                expected.to_str(),
                names(presented)
            ),
            SERVER_NAME,
        ),
        CertificateError::UnknownIssuer => {
            TlsFailure::new("its certificate was issued by an unknown CA", CA)
        }
        CertificateError::Other(OtherError(error)) if error.is::<SelfSigned>() => TlsFailure::new(
            "its certificate is self-signed",
            "if it is the right one, upstream.tls.ca names a file that contains it",
        ),
        CertificateError::Other(OtherError(error))
            if matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            TlsFailure::new(
                "its certificate is that of a CA, which no server may use",
                "issue a certificate to the upstream with basicConstraints=CA:FALSE (`openssl req -x509` \
                 sets CA:TRUE by default)",
            )
        }
        error => TlsFailure::new(
            format!("its certificate is not valid: {error}"),
            "replace the upstream's certificate",
        ),
    }
}

/// The names of a certificate, which rustls has as `DnsName("app.test")`.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| {
        let quoted = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest);
        quoted.trim_matches(['(', ')', '"']).to_owned()
    };
    let names: Vec<_> = presented.iter().take(MAX_NAMES).map(plain).collect();
    match (names.is_empty(), presented.len() > MAX_NAMES) {
        (true, _) => "no name at all (it lacks a subjectAltName)".to_owned(),
        (false, true) => format!("{} and others", names.join(", ")),
        (false, false) => names.join(", "),
    }
}

fn of_alert(alert: AlertDescription) -> TlsFailure {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            TlsFailure::new("it requires a client certificate", CLIENT_CERTIFICATE)
        }
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::AccessDenied => TlsFailure::new(
            format!("it rejected the client certificate, or requires one (alert {alert:?})"),
            CLIENT_CERTIFICATE,
        ),
        Alert::ProtocolVersion => TlsFailure::new(
            "it supports neither TLS 1.2 nor TLS 1.3",
            "update the upstream: older versions are not secure",
        ),
        Alert::HandshakeFailure | Alert::InsufficientSecurity => TlsFailure::new(
            format!("it rejected the handshake (alert {alert:?})"),
            "it may support no cipher suite in common, have no certificate for this name \
             (upstream.tls.server_name), or require a client certificate (upstream.tls.certificate)",
        ),
        Alert::UnrecognisedName => TlsFailure::new(
            "it has no certificate for this name",
            "upstream.tls.server_name sets the name that it gets",
        ),
        Alert::NoApplicationProtocol => TlsFailure::new(
            "it does not support HTTP/1.1 over TLS (ALPN)",
            "enable HTTP/1.1 at the upstream, or set upstream.http2",
        ),
        alert => TlsFailure::new(format!("it sent the alert {alert:?}"), CHECK_LOG),
    }
}
