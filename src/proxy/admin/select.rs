//! Filters that select streams.

use crate::client_key::ClientKey;
use crate::stream::Stream;

/// What names a stream, live or not.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) id: u64,
    pub(super) route: Option<&'a str>,
    pub(super) client: Option<&'a ClientKey>,
    pub(super) user: Option<&'a str>,
    pub(super) upstream: Option<&'a str>,
    pub(super) path: Option<&'a str>,
}

impl<'a> From<&'a Stream> for Names<'a> {
    fn from(stream: &'a Stream) -> Self {
        Self {
            id: stream.id().as_u64(),
            route: stream.route(),
            client: stream.client(),
            user: stream.user(),
            upstream: stream.upstream(),
            path: stream.details().and_then(|details| details.path()),
        }
    }
}

/// Whether a field equals its filter, if there is one.
pub(super) fn is(wanted: &Option<String>, there: Option<&str>) -> bool {
    wanted.as_deref().is_none_or(|wanted| there == Some(wanted))
}

impl Names<'_> {
    /// Whether its client has the filtered name, if there is such a filter.
    pub(super) fn client_is(&self, wanted: &Option<String>) -> bool {
        wanted.as_deref().is_none_or(|wanted| {
            self.client
                .is_some_and(|client| client.to_string() == wanted)
        })
    }

    /// Whether the search text, if any, equals its id or is part of one of its names; letter case
    /// does not matter.
    pub(super) fn mention(&self, wanted: &Option<String>) -> bool {
        let Some(text) = wanted.as_deref().map(str::to_lowercase) else {
            return true;
        };
        let texts = [self.route, self.user, self.upstream, self.path];
        let is_in = |part: &str| part.to_lowercase().contains(&text);
        texts.into_iter().flatten().any(is_in)
            || self.id.to_string() == text
            || self.client.is_some_and(|client| is_in(&client.to_string()))
    }
}
