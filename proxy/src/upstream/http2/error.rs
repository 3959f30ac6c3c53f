//! Why a connection, a request or a response's body of HTTP/2 fails.

use super::super::http1::{BodyLengthError, MAX_INTERIM_HEADS};
use h2::Reason;
use sse_guard::BoxError;
use std::io;

const CHECK_LOG: &str = "check the upstream's log";

/// Why a connection cannot be used for HTTP/2, or a request on it gets no response.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum Http2Error {
    /// In place of the settings that each side begins with.
    #[error("it closed the connection before its HTTP/2 settings")]
    Closed,
    #[error("its HTTP/2 settings did not come in time")]
    NoSettings,
    #[error("its HTTP/2 settings allow no streams")]
    NoStreams,
    #[error("it does not respond with HTTP/2")]
    Protocol(#[source] h2::Error),
    /// Of an attempt to connect that several requests have waited for.
    #[error("{cause}")]
    Shared { cause: String, remedy: &'static str },
    /// The request was not sent.
    #[error("the connection takes no more streams")]
    Unsent(#[source] h2::Error),
    /// RFC 9113 section 8.7: it was not processed.
    #[error("it refused the stream")]
    Refused(#[source] h2::Error),
    /// RFC 9113 section 7: it was not processed, as it requires HTTP/1.1.
    #[error("it requires HTTP/1.1 for the request")]
    Http1Required(#[source] h2::Error),
    /// Whether the request was processed is unknown.
    #[error("the connection failed")]
    Dead(#[source] h2::Error),
    #[error("it did not respond to a PING")]
    PingTimeout,
    #[error("it reset the stream, or broke the rules of HTTP/2")]
    Stream(#[source] h2::Error),
    #[error("more than {MAX_INTERIM_HEADS} interim (1xx) heads came")]
    Interim,
    #[error("its response switches protocols, which HTTP/2 does not have")]
    Switch,
    #[error("the head of the response has more than {0} bytes")]
    LongHead(usize),
    #[error("the response head has {0}")]
    BodyLength(BodyLengthError),
    #[error("the request's body failed")]
    Upload(#[source] BoxError),
    #[error("the request has no valid target")]
    Request(#[source] http::Error),
}

impl Http2Error {
    /// Of a stream's end ahead of its response.
    pub(super) fn of_stream(error: h2::Error) -> Self {
        match error.reason() {
            // Above the last stream that the upstream has processed, or will process: others continue.
            _ if error.is_go_away() && error.is_remote() => Self::Refused(error),
            Some(Reason::REFUSED_STREAM) if error.is_remote() => Self::Refused(error),
            Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Self::Http1Required(error),
            _ if error.is_io() || error.is_go_away() => Self::Dead(error),
            _ => Self::Stream(error),
        }
    }

    /// What the operator can do about it.
    pub(in crate::upstream) fn remedy(&self) -> &'static str {
        match self {
            Self::Closed | Self::NoSettings | Self::Protocol(_) => {
                "is it an HTTP/2 server, over http:// one with prior knowledge (h2c)? upstream.http2 = \"off\" \
                 uses HTTP/1.1"
            }
            Self::NoStreams | Self::Refused(_) | Self::Unsent(_) => {
                "it is overloaded, or limits its streams (SETTINGS_MAX_CONCURRENT_STREAMS)"
            }
            Self::Shared { remedy, .. } => remedy,
            Self::PingTimeout => {
                "upstream.ping sets the interval: is the network or the process overloaded?"
            }
            Self::BodyLength(error) => error.remedy(),
            _ => CHECK_LOG,
        }
    }
}

/// The error of a response's body. Its kind distinguishes how the upstream failed: see
/// [`UpstreamFault`](sse_guard::UpstreamFault).
pub(super) fn of_body(error: h2::Error, is_ping_timeout: bool) -> io::Error {
    if is_ping_timeout {
        return io::Error::new(io::ErrorKind::TimedOut, Http2Error::PingTimeout);
    }
    let io = error.get_io().map(io::Error::kind);
    io::Error::new(kind_of(io, error.is_library()), error)
}

/// `io` is the kind of an error of the socket, `is_library` is true if the upstream has broken the rules of HTTP/2.
fn kind_of(io: Option<io::ErrorKind>, is_library: bool) -> io::ErrorKind {
    match io {
        // What the crate has for the end of the input.
        Some(io::ErrorKind::BrokenPipe) => io::ErrorKind::UnexpectedEof,
        // By TLS.
        Some(io::ErrorKind::InvalidData) => io::ErrorKind::ConnectionAborted,
        Some(kind) => kind,
        None if is_library => io::ErrorKind::InvalidData,
        None => io::ErrorKind::UnexpectedEof,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn body_error_has_the_kind_of_its_fault() {
        for (io, is_library, expected) in [
            (Some(ErrorKind::BrokenPipe), false, ErrorKind::UnexpectedEof),
            (
                Some(ErrorKind::ConnectionReset),
                false,
                ErrorKind::ConnectionReset,
            ),
            (Some(ErrorKind::TimedOut), false, ErrorKind::TimedOut),
            (
                Some(ErrorKind::InvalidData),
                false,
                ErrorKind::ConnectionAborted,
            ),
            (None, true, ErrorKind::InvalidData),
            (None, false, ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(kind_of(io, is_library), expected, "{io:?}");
        }
        let reset = h2::Error::from(Reason::CANCEL);
        assert_eq!(of_body(reset, false).kind(), ErrorKind::UnexpectedEof);
        let dead = h2::Error::from(Reason::CANCEL);
        assert_eq!(of_body(dead, true).kind(), ErrorKind::TimedOut);
    }
}
