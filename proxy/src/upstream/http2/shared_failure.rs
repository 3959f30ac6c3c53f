//! Why a connection could not be made that several requests have waited for.

use super::super::error::Failure;
use super::error::Http2Error;
use crate::tls::TlsFailure;

/// A failure of connecting, for each of the requests. Its causes are text.
#[derive(Clone, Debug)]
pub(super) enum SharedFailure {
    Handshake(TlsFailure),
    Tls(TlsFailure),
    Files(String),
    NoHttp2 { cause: String, remedy: &'static str },
    Connect(String),
}

impl From<Failure> for SharedFailure {
    fn from(failure: Failure) -> Self {
        let cause = failure.cause();
        match failure {
            Failure::Handshake(error) => Self::Handshake(error),
            Failure::Tls(error) => Self::Tls(error),
            Failure::Files(_) => Self::Files(cause),
            Failure::NoHttp2(error) => Self::NoHttp2 {
                cause,
                remedy: error.remedy(),
            },
            _ => Self::Connect(cause),
        }
    }
}

impl From<SharedFailure> for Failure {
    fn from(failure: SharedFailure) -> Self {
        match failure {
            SharedFailure::Handshake(error) => Self::Handshake(error),
            SharedFailure::Tls(error) => Self::Tls(error),
            SharedFailure::Files(cause) => Self::Files(cause.into()),
            SharedFailure::NoHttp2 { cause, remedy } => {
                Self::NoHttp2(Box::new(Http2Error::Shared { cause, remedy }))
            }
            SharedFailure::Connect(cause) => Self::Connect(cause.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_failure_keeps_its_kind_cause_and_remedy() {
        let failures = || {
            [
                Failure::Handshake(TlsFailure::timeout()),
                Failure::without_files(),
                Failure::NoHttp2(Box::new(Http2Error::NoSettings)),
                Failure::Connect("refused".into()),
            ]
        };
        for (failure, expected) in failures().into_iter().zip(failures()) {
            let shared = Failure::from(SharedFailure::from(failure));
            assert_eq!(shared.with_cause(), expected.with_cause());
            assert_eq!(shared.is_away(), expected.is_away());
        }
    }
}
