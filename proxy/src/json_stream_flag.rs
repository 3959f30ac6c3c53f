//! Whether a JSON object contains `"stream": true`, by which requests to LLM APIs request a stream.

use http::header::{ACCEPT_ENCODING, EXPECT};
use http::{Method, Request};
use sse_guard::early::StreamRequested;
use sse_guard::family::Family;
use sse_guard::internal::{accept_identity_only, accepts_event_stream, is_json, list};
use sse_guard::serve::RequestBody;
use std::time::Duration;

/// Bytes of a body that [`read_ahead`] holds.
const MAX_READ_AHEAD: usize = 64 * 1024;
/// How long a client may take to send them.
const READ_AHEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Detects, before the layers, whether the body of a request requires a stream, and records it in the
/// request's extensions. If the flag is not found in time, because it follows a long prompt, the family
/// decides: a family of models means a stream.
///
/// For a drain, which refuses new streams and serves all else.
pub(crate) async fn read_ahead(request: &mut Request<RequestBody>) {
    let may_stream = matches!(
        *request.method(),
        Method::POST | Method::PUT | Method::PATCH
    );
    if !may_stream || accepts_event_stream(request.headers()) || !is_json(request.headers()) {
        return;
    }
    let completes = flag_read_ahead(request).await;
    let is_stream = completes.unwrap_or_else(|| Family::of(request).is_model_api());
    let extensions = request.extensions_mut();
    let requested = extensions.get_or_insert_default::<StreamRequested>();
    if is_stream {
        requested.set();
    }
}

/// Whether the body requests a stream; `None` if its start leaves that open.
async fn flag_read_ahead(request: &mut Request<RequestBody>) -> Option<bool> {
    let mut flag = StreamFlag::default();
    let body = request.body_mut();
    let ahead = body.read_ahead(MAX_READ_AHEAD, |bytes| flag.take(bytes));
    tokio::time::timeout(READ_AHEAD_TIMEOUT, ahead)
        .await
        .ok()
        .flatten()
}

/// Has the upstream send a stream in no content coding, as nothing could be put into another; but leaves a
/// request alone whose body requests none. Returns whether the response may still be a stream.
///
/// Only what has a coding to lose is read ahead. `is_watched` is set if the route searches
/// for the flag; the guard changes requests of families of models.
pub(crate) async fn settle_coding(request: &mut Request<RequestBody>, is_watched: bool) -> bool {
    let headers = request.headers();
    let is_of_models = || Family::of(request).is_model_api();
    if accepts_event_stream(headers) || !is_json(headers) || !(is_watched || is_of_models()) {
        return true;
    }
    let is_coding = |coding: &[u8]| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity");
    let has_coding = list(headers, &ACCEPT_ENCODING).any(is_coding);
    // Its client sends the body after a 100 from the upstream.
    let waits = headers.contains_key(EXPECT);
    if has_coding && !waits && flag_read_ahead(request).await == Some(false) {
        request.extensions_mut().insert(StreamRequested::never());
        return false;
    }
    if is_watched {
        accept_identity_only(request.headers_mut());
    }
    true
}

/// Reads an object piece by piece, and keeps no more than a name.
#[derive(Debug, Default)]
pub(crate) struct StreamFlag {
    depth: u32,
    /// In a string; behind a backslash in it.
    text: Option<Text>,
    is_name_next: bool,
    /// The member under way is the one, and its value has not begun.
    is_it: bool,
}

#[derive(Debug, Default)]
struct Text {
    is_escaped: bool,
    /// This many bytes of it match the name; nothing if it can no longer be the name.
    same: Option<usize>,
}

const NAME: &[u8] = b"stream";

impl StreamFlag {
    /// Whether the flag has been found by the end of these bytes, which follow those of the last call.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| self.completes(*byte))
    }

    fn completes(&mut self, byte: u8) -> bool {
        if let Some(text) = &mut self.text {
            if text.is_escaped {
                text.is_escaped = false;
            } else if byte == b'"' {
                self.is_it = self.is_name_next && text.same == Some(NAME.len());
                self.text = None;
                return false;
            } else {
                text.is_escaped = byte == b'\\';
            }
            text.same = text
                .same
                .filter(|at| NAME.get(*at) == Some(&byte))
                .map(|at| at + 1);
            return false;
        }
        let is_top = self.depth == 1;
        match byte {
            b'"' => {
                self.text = Some(Text {
                    is_escaped: false,
                    same: is_top.then_some(0),
                });
            }
            b'{' => {
                self.is_name_next = self.depth == 0;
                (self.depth, self.is_it) = (self.depth + 1, false);
            }
            b'[' => (self.depth, self.is_it) = (self.depth + 1, false),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b':' if is_top => self.is_name_next = false,
            b',' if is_top => (self.is_name_next, self.is_it) = (true, false),
            b't' => return is_top && self.is_it,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.is_it = false,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completes(text: &str) -> bool {
        let whole = StreamFlag::default().take(text.as_bytes());
        let mut flag = StreamFlag::default();
        let pieces = text.as_bytes().chunks(1).any(|byte| flag.take(byte));
        assert_eq!(whole, pieces, "{text}");
        whole
    }

    #[test]
    fn it_is_said_by_a_member_of_the_object_itself() {
        for text in [
            r#"{"stream":true}"#,
            r#"{ "model" : "m", "stream" : true, "n": 1 }"#,
            r#"{"messages":[{"content":"\"stream\": false}"}],"stream":true}"#,
            "{\"a\":{\"b\":[1,2]},\r\n\t\"stream\"\r\n:\ttrue}",
        ] {
            assert!(completes(text), "{text}");
        }
    }

    #[test]
    fn it_is_not_said_by_anything_else() {
        for text in [
            "",
            r#"{"stream":false}"#,
            r#"{"stream":null,"t":true}"#,
            r#"{"stream":"true"}"#,
            r#"{"stream":[true]}"#,
            r#"{"stream":{"t":true}}"#,
            r#"{"streams":true,"strea":true,"xstream":true}"#,
            r#"{"a":"stream","b":true}"#,
            r#"{"options":{"stream":true}}"#,
            r#"["stream",true]"#,
            r#"{"text":"\"stream\": true"}"#,
            r#"{"\u0073tream":true}"#,
            r#"{"a":["stream",true]}"#,
        ] {
            assert!(!completes(text), "{text}");
        }
    }
}
