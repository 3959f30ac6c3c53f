//! A stream's heads in JSON.

use serde::Serialize;
use sse_guard::internal::{Details, RequestHead, ResponseHead};

/// What is kept of both heads.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heads {
    request: Option<Request>,
    response: Option<Response>,
}

#[derive(Clone, Debug, Serialize)]
struct Request {
    method: String,
    path: String,
    version: String,
    accept: Option<String>,
    user_agent: Option<String>,
    last_event_id: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Response {
    status: u16,
    content_type: Option<String>,
    content_encoding: Option<String>,
}

fn text(text: &Option<Box<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

impl From<&RequestHead> for Request {
    fn from(head: &RequestHead) -> Self {
        Self {
            method: head.method.to_string(),
            path: head.path.to_string(),
            version: format!("{:?}", head.version),
            accept: text(&head.accept),
            user_agent: text(&head.user_agent),
            last_event_id: text(&head.last_event_id),
        }
    }
}

impl From<&ResponseHead> for Response {
    fn from(head: &ResponseHead) -> Self {
        Self {
            status: head.status.as_u16(),
            content_type: text(&head.content_type),
            content_encoding: text(&head.content_encoding),
        }
    }
}

impl Heads {
    pub(super) fn new(request: &RequestHead, response: &ResponseHead) -> Self {
        Self {
            request: Some(request.into()),
            response: Some(response.into()),
        }
    }

    pub(super) fn of(details: &Details) -> Self {
        Self {
            request: details.request().as_ref().map(Request::from),
            response: details.response().as_ref().map(Response::from),
        }
    }
}
