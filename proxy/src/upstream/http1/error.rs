//! Why one request on one connection fails.

use super::super::outgoing::Outgoing;
use super::body_length::BodyLengthError;

/// Why an exchange fails.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum ExchangeError {
    /// Nothing of the request was sent: it can be put to another connection.
    #[error("the connection was closed")]
    Unsent {
        request: Outgoing,
        #[source]
        cause: hyper::Error,
    },
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The connection ended before a byte of the response had come.
    #[error(transparent)]
    Dead(hyper::Error),
    /// The upstream closed the connection, and did not wait for the request.
    #[error("the connection was closed for lack of a request")]
    TimedOut,
    #[error("it switched protocols while the request was on its way")]
    EarlySwitch,
    #[error("the response head has {0}")]
    BodyLength(BodyLengthError),
}

/// Not by `#[from]`, which makes it a source: the text of the error contains it already.
impl From<BodyLengthError> for ExchangeError {
    fn from(error: BodyLengthError) -> Self {
        Self::BodyLength(error)
    }
}
