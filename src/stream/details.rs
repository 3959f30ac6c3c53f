//! Data of a stream for operators, which no layer needs.

use crate::last_event_id::LAST_EVENT_ID;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Version};
use std::sync::OnceLock;

/// Clients choose these texts: longer ones are cut.
const MAX_TEXT: usize = 256;

/// Between two parts of [`Details`]. Neither a path nor a field's value has it.
const SEPARATOR: char = '\0';
/// A part that is not there.
const NONE: &str = "\u{1}";

/// Heads of a stream, without what may carry a secret: no query, no cookies, no other fields. One text, as each
/// open stream has it and operators read few.
#[derive(Debug, Default)]
pub struct Details {
    /// The parts of a [`RequestHead`] and of a [`ResponseHead`]; empty without them.
    heads: Box<str>,
    /// The value of the header that the proxy was configured to read.
    user: OnceLock<Box<str>>,
}

/// What is kept of a request's head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// Its version.
    pub version: Version,
    /// Without the query: tokens travel there.
    pub path: Box<str>,
    /// `Accept`.
    pub accept: Option<Box<str>>,
    /// `User-Agent`.
    pub user_agent: Option<Box<str>>,
    /// `Last-Event-ID`.
    pub last_event_id: Option<Box<str>>,
}

/// What is kept of a response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Its status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: Option<Box<str>>,
    /// `Content-Encoding`.
    pub content_encoding: Option<Box<str>>,
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
    /// Reads it from a request.
    pub fn of<B>(request: &Request<B>) -> Self {
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
    /// Reads it from a response.
    pub fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        Self {
            status,
            content_type: field(headers, &CONTENT_TYPE),
            content_encoding: field(headers, &CONTENT_ENCODING),
        }
    }
}

impl Details {
    /// Joins the two heads.
    pub fn new(request: &RequestHead, response: &ResponseHead) -> Self {
        let (version, status) = (format!("{:?}", request.version), response.status);
        let parts = [
            request.method.as_str(),
            &version,
            &request.path,
            request.accept.as_deref().unwrap_or(NONE),
            request.user_agent.as_deref().unwrap_or(NONE),
            request.last_event_id.as_deref().unwrap_or(NONE),
            status.as_str(),
            response.content_type.as_deref().unwrap_or(NONE),
            response.content_encoding.as_deref().unwrap_or(NONE),
        ];
        Self {
            heads: parts.join(&String::from(SEPARATOR)).into(),
            user: OnceLock::new(),
        }
    }

    fn part(&self, index: usize) -> Option<&str> {
        let part = self.heads.split(SEPARATOR).nth(index)?;
        (part != NONE).then_some(part)
    }

    /// The request's head, if it is kept.
    pub fn request(&self) -> Option<RequestHead> {
        let versions = [Version::HTTP_10, Version::HTTP_2, Version::HTTP_3];
        let is_it = |version: &Version| Some(&*format!("{version:?}")) == self.part(1);
        Some(RequestHead {
            method: self.part(0)?.parse().ok()?,
            version: versions.into_iter().find(is_it).unwrap_or(Version::HTTP_11),
            path: self.part(2)?.into(),
            accept: self.part(3).map(Box::from),
            user_agent: self.part(4).map(Box::from),
            last_event_id: self.part(5).map(Box::from),
        })
    }

    /// The response's head, if it is kept.
    pub fn response(&self) -> Option<ResponseHead> {
        Some(ResponseHead {
            status: self.part(6)?.parse().ok()?,
            content_type: self.part(7).map(Box::from),
            content_encoding: self.part(8).map(Box::from),
        })
    }

    /// The path of the request.
    pub fn path(&self) -> Option<&str> {
        self.part(2)
    }

    /// The user, once it is set.
    pub fn user(&self) -> Option<&str> {
        self.user.get().map(|user| &**user)
    }

    pub(super) fn set_user(&self, user: String) {
        let _ = self.user.set(user.into());
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

    #[test]
    fn heads_are_read_back_as_they_were() {
        let request = Request::post("/a").version(Version::HTTP_10);
        let request = request.header("accept", "").header("last-event-id", "é");
        let request = RequestHead::of(&request.body(()).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "text/event-stream".parse().unwrap());
        let response = ResponseHead::of(StatusCode::CREATED, &headers);
        let details = Details::new(&request, &response);
        assert_eq!(
            format!("{:?}", details.request().unwrap()),
            format!("{request:?}")
        );
        assert_eq!(
            format!("{:?}", details.response().unwrap()),
            format!("{response:?}")
        );
        let none = Details::default();
        assert!(none.request().is_none() && none.response().is_none() && none.user().is_none());
    }
}
