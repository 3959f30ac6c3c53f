//! A stream's heads in JSON.

use serde::Serialize;
use sse_guard::internal::{Details, RequestHead, ResponseHead};

/// What is kept of both heads.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heads {
    request: RequestSummary,
    response: ResponseSummary,
}

#[derive(Clone, Debug, Serialize)]
struct RequestSummary {
    method: String,
    path: String,
    version: String,
    accept: Option<String>,
    user_agent: Option<String>,
    last_event_id: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ResponseSummary {
    status: u16,
    content_type: Option<String>,
    content_encoding: Option<String>,
}

fn text(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

impl From<RequestHead<'_>> for RequestSummary {
    fn from(head: RequestHead<'_>) -> Self {
        Self {
            method: head.method.to_owned(),
            path: head.path.to_owned(),
            version: head.version.to_owned(),
            accept: text(head.accept),
            user_agent: text(head.user_agent),
            last_event_id: text(head.last_event_id),
        }
    }
}

impl From<ResponseHead<'_>> for ResponseSummary {
    fn from(head: ResponseHead<'_>) -> Self {
        Self {
            status: head.status,
            content_type: text(head.content_type),
            content_encoding: text(head.content_encoding),
        }
    }
}

impl Heads {
    pub(super) fn of(details: &Details) -> Self {
        Self {
            request: details.request().into(),
            response: details.response().into(),
        }
    }
}
