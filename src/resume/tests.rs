mod backoff;
mod idle;
mod large_events;
mod max_age;
mod outage;
mod position;
mod properties;
mod replacement;
mod stream;

use super::*;
use crate::guard::testing::{ScriptedBody, ScriptedUpstream, TestResponse};
use crate::heartbeat::HeartbeatLayer;
use crate::jitter::MAX_DURATION;
use crate::last_event_id::LAST_EVENT_ID;
use crate::stream::{EndReason, StreamState};
use crate::{SseGuardLayer, StreamError};
use http_body_util::{BodyExt, Empty};
use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use tokio::time::Instant;
use tower::ServiceExt;

pub(super) type TestRequest = Request<Empty<Bytes>>;

/// Given the number of requests before and the `Last-Event-ID`.
type Responder = dyn FnMut(usize, Option<&str>) -> Option<ScriptedUpstream> + Send;

/// Responds to each request, or fails.
#[derive(Clone)]
pub(super) struct Upstreams(Arc<Mutex<UpstreamsState>>);

struct UpstreamsState {
    respond: Box<Responder>,
    /// The `Last-Event-ID` and the time of each request.
    requests: Vec<(Option<String>, Instant)>,
}

impl Upstreams {
    /// Responds with the next script; fails when none is left.
    fn new(scripts: impl IntoIterator<Item = ScriptedUpstream>) -> Self {
        let mut scripts: VecDeque<_> = scripts.into_iter().collect();
        Self::responding(move |_, _| scripts.pop_front())
    }

    pub(super) fn respond_by(
        mut respond: impl FnMut(usize, Option<&str>) -> ScriptedUpstream + Send + 'static,
    ) -> Self {
        Self::responding(move |request, id| Some(respond(request, id)))
    }

    fn responding(
        respond: impl FnMut(usize, Option<&str>) -> Option<ScriptedUpstream> + Send + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(UpstreamsState {
            respond: Box::new(respond),
            requests: Vec::new(),
        })))
    }

    fn ids(&self) -> Vec<Option<String>> {
        let state = self.0.lock().unwrap();
        state.requests.iter().map(|(id, _)| id.clone()).collect()
    }

    /// The time between each request and the next.
    fn intervals(&self) -> Vec<Duration> {
        let state = self.0.lock().unwrap();
        let pairs = state.requests.windows(2);
        pairs.map(|pair| pair[1].1 - pair[0].1).collect()
    }
}

impl Service<TestRequest> for Upstreams {
    type Response = Response<ScriptedBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ScriptedBody>, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: TestRequest) -> Self::Future {
        let state = &mut *self.0.lock().unwrap();
        let id = request.headers().get(LAST_EVENT_ID);
        let id = id.map(|id| String::from_utf8(id.as_bytes().to_vec()).unwrap());
        let script = (state.respond)(state.requests.len(), id.as_deref());
        state.requests.push((id, Instant::now()));
        Box::pin(async move {
            match script {
                Some(script) => Ok(script.answer().await),
                None => Err(io::Error::other("away")),
            }
        })
    }
}

pub(super) fn get() -> TestRequest {
    let request = Request::get("/").header("accept", "text/event-stream");
    request.body(Empty::new()).unwrap()
}

async fn open_with(
    layer: ResumeLayer,
    upstreams: &Upstreams,
    request: TestRequest,
) -> TestResponse {
    let guard = SseGuardLayer::new().heartbeat(HeartbeatLayer::new(Duration::from_secs(15)));
    let service = guard.layer(layer.layer(upstreams.clone()));
    TestResponse::new(service.oneshot(request).await.unwrap())
}

async fn open(layer: ResumeLayer, upstreams: &Upstreams) -> TestResponse {
    open_with(layer, upstreams, get()).await
}

/// The text without its comments.
fn events(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !line.starts_with(':')).collect()
}

fn numbered(ids: impl IntoIterator<Item = u32>) -> String {
    let event = |id: u32| format!("id: {id}\ndata: {id}\n\n");
    ids.into_iter().map(event).collect()
}

fn sends(ids: impl IntoIterator<Item = u32>) -> ScriptedUpstream {
    ScriptedUpstream::new().send(&numbered(ids))
}

/// Sends these bytes in pieces of this length.
fn in_pieces(upstream: ScriptedUpstream, bytes: &str, len: usize) -> ScriptedUpstream {
    let pieces = bytes.as_bytes().chunks(len);
    pieces.fold(upstream, |upstream, piece| upstream.send_bytes(piece))
}
