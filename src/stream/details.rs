//! Data of a stream for operators, which no layer needs.

use crate::last_event_id::LAST_EVENT_ID;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, Request, StatusCode, Version};
use std::borrow::Cow;
use std::sync::Arc;

/// Clients choose these texts: longer ones are cut.
const MAX_TEXT_LEN: usize = 256;

/// Between two parts of [`Details`]. Neither a path nor a field's value has it.
const SEPARATOR: char = '\0';
/// A part that is not there.
const NONE: &str = "\u{1}";

/// The recorded part of a stream's heads: without queries, cookies and other fields that may contain a secret.
/// One text, as each open stream has it and operators read few.
#[derive(Clone, Debug)]
pub struct Details(Arc<str>);

/// The part of [`Details`] that is known before the response.
#[derive(Debug)]
pub struct RequestDetails(String);

/// Extension of a request: the user that sent it.
#[derive(Clone, Debug)]
pub struct User(pub Arc<str>);

/// Extension of a request: the name of the listener that it was received on.
#[derive(Clone, Debug)]
pub struct ListenerName(pub Arc<str>);

/// The recorded part of a request head.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// Its method.
    pub method: &'a str,
    /// `HTTP/1.1` and the like.
    pub version: &'a str,
    /// Without the query: tokens travel there.
    pub path: &'a str,
    /// `Accept`.
    pub accept: Option<&'a str>,
    /// `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// `Last-Event-ID`.
    pub last_event_id: Option<&'a str>,
}

/// The recorded part of a response head.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// Its status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: Option<&'a str>,
    /// `Content-Encoding`.
    pub content_encoding: Option<&'a str>,
}

/// At most [`MAX_TEXT_LEN`] bytes, cut between two characters.
fn bounded(text: &str) -> &str {
    // `floor_char_boundary` is newer than the oldest compiler that is supported.
    let most = MAX_TEXT_LEN.min(text.len());
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

fn field<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()))
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// The parts, each followed by a separator.
fn join<const N: usize>(parts: [Option<&str>; N]) -> String {
    let parts = parts.map(|part| part.map_or(NONE, bounded));
    let mut text = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts {
        text.push_str(part);
        text.push(SEPARATOR);
    }
    text
}

/// The name of the listener, if it has one.
pub(crate) fn listener_name<B>(request: &Request<B>) -> Option<&str> {
    let name: Option<&ListenerName> = request.extensions().get();
    name.map(|ListenerName(name)| &**name)
}

impl RequestDetails {
    /// Reads them from a request.
    pub fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let user = request.extensions().get().map(|User(user)| &**user);
        Self(join([
            Some(request.method().as_str()),
            Some(version_text(request.version())),
            Some(request.uri().path()),
            field(headers, &ACCEPT).as_deref(),
            field(headers, &USER_AGENT).as_deref(),
            field(headers, &LAST_EVENT_ID).as_deref(),
            user,
            listener_name(request),
        ]))
    }

    /// Adds what is kept of the response.
    pub fn with_response(&self, status: StatusCode, headers: &HeaderMap) -> Details {
        let response = join([
            Some(status.as_str()),
            field(headers, &CONTENT_TYPE).as_deref(),
            field(headers, &CONTENT_ENCODING).as_deref(),
        ]);
        Details([&*self.0, &*response].concat().into())
    }
}

impl Details {
    fn part(&self, index: usize) -> Option<&str> {
        let part = self.0.split(SEPARATOR).nth(index)?;
        (part != NONE).then_some(part)
    }

    fn text(&self, index: usize) -> &str {
        self.part(index).unwrap_or_default()
    }

    /// The recorded part of the request.
    pub fn request(&self) -> RequestHead<'_> {
        RequestHead {
            method: self.text(0),
            version: self.text(1),
            path: self.path(),
            accept: self.part(3),
            user_agent: self.part(4),
            last_event_id: self.part(5),
        }
    }

    /// The recorded part of the response.
    pub fn response(&self) -> ResponseHead<'_> {
        ResponseHead {
            // It was written as a number.
            status: self.text(8).parse().unwrap_or_default(),
            content_type: self.part(9),
            content_encoding: self.part(10),
        }
    }

    /// The path of the request.
    pub fn path(&self) -> &str {
        self.text(2)
    }

    /// The user that the request named by [`User`].
    pub fn user(&self) -> Option<&str> {
        self.part(6)
    }

    /// The listener that the request named by [`ListenerName`].
    pub fn listener(&self) -> Option<&str> {
        self.part(7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(request: &RequestDetails) -> Details {
        request.with_response(StatusCode::OK, &HeaderMap::new())
    }

    #[test]
    fn details_omit_secrets_and_cut_long_texts() {
        let request = Request::get("http://app/feed?token=secret")
            .header("accept", "text/event-stream")
            .header("cookie", "secret")
            .header("user-agent", "é".repeat(MAX_TEXT_LEN))
            .header("last-event-id", "17");
        let details = details(&RequestDetails::of(&request.body(()).unwrap()));
        let head = details.request();
        assert_eq!(head.path, "/feed");
        assert_eq!(head.last_event_id, Some("17"));
        assert_eq!(head.user_agent.map(str::len), Some(256));
        assert!(!format!("{details:?}").contains("secret"));
    }

    #[test]
    fn heads_are_read_back_as_they_were() {
        let request = Request::post("/a").version(Version::HTTP_10);
        let request = request.header("accept", "").header("last-event-id", "é");
        let request = request.extension(User("ann".into()));
        let request = request.extension(ListenerName("public".into()));
        let request = RequestDetails::of(&request.body(()).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "text/event-stream".parse().unwrap());
        let details = request.with_response(StatusCode::CREATED, &headers);
        let head = details.request();
        assert_eq!(
            (head.method, head.version, head.path),
            ("POST", "HTTP/1.0", "/a")
        );
        assert_eq!((head.accept, head.user_agent), (Some(""), None));
        assert_eq!(head.last_event_id, Some("é"));
        let head = details.response();
        assert_eq!(
            (head.status, head.content_type),
            (201, Some("text/event-stream"))
        );
        assert_eq!((head.content_encoding, details.user()), (None, Some("ann")));
        assert_eq!(details.listener(), Some("public"));
    }
}
