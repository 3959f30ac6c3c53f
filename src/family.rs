//! What kind of stream it is, as clients of each kind put up with different things.
//!
//! | family | who reads it | an error in the middle |
//! | --- | --- | --- |
//! | [`EventSource`](Family::EventSource) | a browser's `EventSource` and its kin, by GET | an event `error` |
//! | [`OpenAi`](Family::OpenAi) | the OpenAI SDKs and what speaks like their API | data with `error` in it |
//! | [`Anthropic`](Family::Anthropic) | the Anthropic SDKs | an event `error` of their shape |
//! | [`Mcp`](Family::Mcp) | clients of the Model Context Protocol | a broken transfer |
//! | [`Raw`](Family::Raw) | anybody else | a broken transfer |

use crate::wire::Words;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

/// What kind of stream it is. See the [module docs](self).
///
/// Layers that have to know look for it in the request's extensions, and else at the request's own
/// signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// A feed, read by GET.
    EventSource,
    /// An answer of OpenAI's API, or of one like it.
    OpenAi,
    /// An answer of Anthropic's API.
    Anthropic,
    /// Messages of the Model Context Protocol.
    Mcp,
    /// Nothing is known of it.
    Raw,
}

impl Family {
    /// As the request's extensions or else its head tell.
    pub fn of<B>(request: &Request<B>) -> Self {
        if let Some(family) = request.extensions().get::<Self>() {
            return *family;
        }
        let headers = request.headers();
        if headers.contains_key("anthropic-version") {
            Self::Anthropic
        } else if headers.contains_key("mcp-protocol-version")
            || headers.contains_key("mcp-session-id")
        {
            Self::Mcp
        } else if request.method() == Method::GET {
            Self::EventSource
        } else {
            Self::Raw
        }
    }

    /// The event that tells clients of this family that their stream has failed, in lines that end in LF;
    /// nothing if only a broken transfer does. `status` is what the upstream has answered, or what a
    /// proxy would have.
    pub fn error_event(self, status: StatusCode, message: &str) -> Option<Bytes> {
        let code = status.as_u16();
        let (name, data): (Option<&str>, Value) = match self {
            Self::EventSource => {
                let error = json!({ "type": "upstream_error", "status": code, "message": message });
                (Some("error"), json!({ "type": "error", "error": error }))
            }
            Self::OpenAi => {
                let error = json!({
                    "message": message,
                    "type": "upstream_error",
                    "param": null,
                    "code": code,
                });
                (None, json!({ "error": error }))
            }
            Self::Anthropic => {
                let error = json!({ "type": anthropic_kind(status), "message": message });
                (Some("error"), json!({ "type": "error", "error": error }))
            }
            Self::Mcp | Self::Raw => return None,
        };
        // JSON has no line ends of its own.
        let words = Words::message(name, &data.to_string(), None).ok()?;
        Some(words.in_line_end(crate::wire::LineEnd::Lf))
    }
}

/// <https://docs.anthropic.com/en/api/errors>
fn anthropic_kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let post = Request::post("/v1");
        let request = fields
            .iter()
            .fold(post, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    #[test]
    fn the_requests_signs_tell() {
        let get = Request::get("/feed").body(()).unwrap();
        assert_eq!(Family::of(&get), Family::EventSource);
        let claude = request(&[("anthropic-version", "2023-06-01")]);
        assert_eq!(Family::of(&claude), Family::Anthropic);
        let mcp = request(&[("mcp-protocol-version", "2025-06-18")]);
        assert_eq!(Family::of(&mcp), Family::Mcp);
        assert_eq!(Family::of(&request(&[])), Family::Raw);
        let mut known = request(&[("anthropic-version", "2023-06-01")]);
        known.extensions_mut().insert(Family::OpenAi);
        assert_eq!(Family::of(&known), Family::OpenAi);
    }

    #[test]
    fn an_error_is_one_event_whatever_the_message_says() {
        let message = "a \"b\"\r\n\ndata: c\u{2028}";
        for family in [Family::EventSource, Family::OpenAi, Family::Anthropic] {
            let event = family
                .error_event(StatusCode::BAD_GATEWAY, message)
                .unwrap();
            let event = std::str::from_utf8(&event).unwrap();
            let (_, data) = event.split_once("data: ").unwrap();
            let json: Value = serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
            assert_eq!(json["error"]["message"], message, "{family:?}");
        }
        for family in [Family::Mcp, Family::Raw] {
            assert_eq!(family.error_event(StatusCode::BAD_GATEWAY, message), None);
        }
    }
}
