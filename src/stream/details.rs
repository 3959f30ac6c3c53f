//! Data of a stream for operators, which no layer needs.

#![cfg_attr(
    not(feature = "proxy"),
    allow(dead_code, reason = "the operator of the proxy reads it")
)]

use crate::last_event_id::LAST_EVENT_ID;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Version};
use std::sync::OnceLock;

/// Clients choose these texts: longer ones are cut.
const MAX_TEXT: usize = 256;

/// Heads of a stream, without what may carry a secret: no query, no cookies, no other fields.
#[derive(Debug, Default)]
pub(crate) struct Details {
    pub(crate) request: Option<RequestHead>,
    pub(crate) response: Option<ResponseHead>,
    /// The value of the header that the proxy was configured to read.
    user: OnceLock<String>,
}

/// What is kept of a request's head.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Without the query: tokens travel there.
    pub(crate) path: Box<str>,
    pub(crate) accept: Option<Box<str>>,
    pub(crate) user_agent: Option<Box<str>>,
    pub(crate) last_event_id: Option<Box<str>>,
}

/// What is kept of a response's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<Box<str>>,
    pub(crate) content_encoding: Option<Box<str>>,
}

/// At most [`MAX_TEXT`] bytes, cut between two characters.
fn bounded(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_TEXT)].into()
}

fn field(headers: &HeaderMap, name: &HeaderName) -> Option<Box<str>> {
    let value = headers.get(name)?;
    Some(bounded(&String::from_utf8_lossy(value.as_bytes())))
}

impl RequestHead {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            method: request.method().clone(),
            version: request.version(),
            path: bounded(request.uri().path()),
            accept: field(headers, &ACCEPT),
            user_agent: field(headers, &USER_AGENT),
            last_event_id: field(headers, &LAST_EVENT_ID),
        }
    }
}

impl ResponseHead {
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        Self {
            status,
            content_type: field(headers, &CONTENT_TYPE),
            content_encoding: field(headers, &CONTENT_ENCODING),
        }
    }
}

impl Details {
    pub(crate) fn new(request: RequestHead, response: ResponseHead) -> Self {
        Self {
            request: Some(request),
            response: Some(response),
            user: OnceLock::new(),
        }
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn path(&self) -> Option<&str> {
        self.request.as_ref().map(|request| &*request.path)
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.user.get().map(String::as_str)
    }

    #[cfg(feature = "proxy")]
    pub(super) fn set_user(&self, user: String) {
        let _ = self.user.set(user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_head_what_may_be_secret_is_left_out_and_long_texts_are_cut() {
        let request = Request::get("http://app/feed?token=secret")
            .header("accept", "text/event-stream")
            .header("cookie", "secret")
            .header("user-agent", "é".repeat(MAX_TEXT))
            .header("last-event-id", "17");
        let head = RequestHead::of(&request.body(()).unwrap());
        assert_eq!(&*head.path, "/feed");
        assert_eq!(head.last_event_id.as_deref(), Some("17"));
        assert_eq!(head.user_agent.as_ref().map(|text| text.len()), Some(256));
        assert!(!format!("{head:?}").contains("secret"));
    }
}
