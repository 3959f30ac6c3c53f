//! Why a body fails.

use crate::stream::{EndReason, UpstreamFault};
use http::StatusCode;

/// A boxed error of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the body of a guarded response failed. The client sees a broken transfer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The inner body failed.
    #[error("the upstream failed during its response: {0}")]
    Upstream(#[source] BoxError),
    /// A layer has ended the stream as a broken transfer.
    #[error("the stream was cut: {0}")]
    Ended(EndReason),
    /// The response head was sent [early](crate::early), and the upstream then responded with this
    /// status and not with an event stream.
    #[error("the upstream's late response is not an event stream: {0}")]
    Refused(StatusCode),
}

impl StreamError {
    /// Unboxes an error of this crate that a body between two of its layers has boxed.
    pub(crate) fn from_inner(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(ours) => *ours,
            Err(other) => Self::Upstream(other),
        }
    }

    /// The end reason of the stream: that of the layer that ended it, if any.
    pub(super) fn reason(&self) -> EndReason {
        match self {
            Self::Upstream(_) | Self::Refused(_) => EndReason::UpstreamError,
            Self::Ended(reason) => *reason,
        }
    }

    /// How the upstream failed.
    pub(crate) fn fault(&self) -> UpstreamFault {
        match self {
            Self::Upstream(error) => UpstreamFault::of(&**error),
            Self::Refused(_) => UpstreamFault::Refused,
            Self::Ended(_) => UpstreamFault::Other,
        }
    }
}
