//! How an upstream failed.

use std::error::Error;
use std::fmt;
use std::io;

/// How the upstream of a stream failed that ended by [`EndReason::UpstreamError`](super::EndReason::UpstreamError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UpstreamFault {
    /// Its connection was reset, or failed in another way.
    ConnectionLost,
    /// Its connection was closed, or the stream was reset, before the end of the response.
    Truncated,
    /// It ended the response properly, without the last event that the stream's family requires.
    NoLastEvent,
    /// Its chunks, frames or trailers are malformed.
    Framing,
    /// Its connection timed out: the peer acknowledged nothing, or did not respond to a PING.
    TimedOut,
    /// It responded with another type than an event stream, after the client had one.
    Refused,
    /// Its body failed with an unknown error.
    Other,
}

impl UpstreamFault {
    /// All values.
    pub const ALL: &[Self] = &[
        Self::ConnectionLost,
        Self::Truncated,
        Self::NoLastEvent,
        Self::Framing,
        Self::TimedOut,
        Self::Refused,
        Self::Other,
    ];

    /// The value of the label `fault` in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionLost => "connection_lost",
            Self::Truncated => "truncated",
            Self::NoLastEvent => "no_last_event",
            Self::Framing => "framing",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }

    /// What happened and what to do, for logs.
    pub fn cause(self) -> &'static str {
        match self {
            Self::ConnectionLost => "the connection to the upstream failed",
            Self::Truncated => {
                "the upstream closed its connection, or reset the stream, before the end of the response: \
                 its process or a worker timeout ended it"
            }
            Self::NoLastEvent => {
                "the upstream ended the answer without its last event; \
                 completion.required = false lets it pass"
            }
            Self::Framing => "the upstream's chunks, frames or trailers are malformed",
            Self::TimedOut => "the connection to the upstream timed out",
            Self::Refused => "the upstream's response was not an event stream",
            Self::Other => "the upstream's body failed",
        }
    }

    /// Read from the kind of the first IO error among `error` and its sources.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return match error.kind() {
                    io::ErrorKind::UnexpectedEof => Self::Truncated,
                    io::ErrorKind::InvalidData => Self::Framing,
                    io::ErrorKind::TimedOut => Self::TimedOut,
                    _ => Self::ConnectionLost,
                };
            }
            next = error.source();
        }
        Self::Other
    }
}

impl fmt::Display for UpstreamFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::StreamError;

    #[test]
    fn upstream_fault_is_read_from_the_first_io_error_of_the_chain() {
        for (kind, fault) in [
            (
                io::ErrorKind::ConnectionReset,
                UpstreamFault::ConnectionLost,
            ),
            (io::ErrorKind::BrokenPipe, UpstreamFault::ConnectionLost),
            (io::ErrorKind::UnexpectedEof, UpstreamFault::Truncated),
            (io::ErrorKind::InvalidData, UpstreamFault::Framing),
            (io::ErrorKind::TimedOut, UpstreamFault::TimedOut),
        ] {
            let error = io::Error::from(kind);
            assert_eq!(UpstreamFault::of(&error), fault);
            assert_eq!(
                UpstreamFault::of(&StreamError::Upstream(error.into())),
                fault
            );
        }
        let other = StreamError::Upstream("no cause".into());
        assert_eq!(UpstreamFault::of(&other), UpstreamFault::Other);
    }
}
