//! Whether the client of a stream reconnects when the stream ends.

use super::Stream;

/// Whether a stream's client reconnects when the stream has ended: by the configured methods if there are
/// any, else by the stream's family, of which the first event may show more than the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientReconnects(Option<bool>);

impl ClientReconnects {
    pub(crate) fn configured(reconnects: Option<bool>) -> Self {
        Self(reconnects)
    }

    pub(crate) fn applies_to(self, stream: &Stream) -> bool {
        self.0
            .unwrap_or_else(|| stream.family().client_reconnects())
    }
}
