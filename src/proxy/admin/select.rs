//! Which streams the operator means.

use crate::stream::Stream;

/// Whether a field is what is wanted of it, if anything is.
pub(super) fn is(wanted: &Option<String>, there: Option<&str>) -> bool {
    wanted.as_deref().is_none_or(|wanted| there == Some(wanted))
}

/// Whether its client is shown by this name.
pub(super) fn client_is(stream: &Stream, wanted: &str) -> bool {
    stream
        .client()
        .is_some_and(|client| client.to_string() == wanted)
}

/// Whether the text is its id, or a part of what else names it.
pub(super) fn mentions(stream: &Stream, text: &str) -> bool {
    let texts = [stream.route(), stream.user(), stream.upstream()];
    texts.into_iter().flatten().any(|part| part.contains(text))
        || stream.id().to_string() == text
        || stream
            .client()
            .is_some_and(|client| client.to_string().contains(text))
        || stream.last_event_id().is_some_and(|id| id.contains(text))
}
