//! A small SSE server without any protection: the upstream of `sse-guard demo`.
//!
//! [`ENDPOINTS`] lists its streams, each with a fault that `sse-guard` hardens against.
//!
//! What a stream does is a list of [`Step`]s, played by the one body of this module, [`Script`].
//! All streams carry a `Content-Type` and no header against caches.
//!
//! It is a demonstration for one machine, so [`serve`] refuses a listener that others can reach.

mod endpoints;
mod script;
mod streams;

pub(crate) use endpoints::{ENDPOINTS, Endpoint};

use endpoints::listing;
use script::{Script, Step};
use streams::{FEED_PAUSE, RESUME_PAUSE, SILENCE, chat, crlf, dies, named, numbered, pings, send};

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, ORIGIN,
};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

const HEAD_PAUSE: Duration = Duration::from_secs(20);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_LIMIT: usize = 1024 * 1024;
const MAX_CONNECTIONS: usize = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const ACCEPT_ATTEMPTS: u32 = 10;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

type BoxError = Box<dyn Error + Send + Sync>;
type Answer = Response<Either<Full<Bytes>, Script>>;

/// What the page needs to open the streams. It is served as JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    /// Base URL of the origin behind a load balancer.
    pub(crate) direct: String,
    /// Base URL of the proxy behind a load balancer.
    pub(crate) guarded: String,
    /// URL of the proxy's own dashboard.
    pub(crate) dashboard: Option<String>,
    pub(crate) proxy: SocketAddr,
    pub(crate) upstream: SocketAddr,
    /// The load balancer's idle timeout.
    pub(crate) idle_s: u64,
}

/// Serves the [`ENDPOINTS`] until the listener fails for good, and returns that failure.
///
/// Refuses a listener that is not on the loopback interface. Dropping the future ends every
/// connection.
pub(crate) async fn serve(listener: TcpListener, setup: Setup) -> io::Error {
    match listener.local_addr() {
        Ok(address) if address.ip().to_canonical().is_loopback() => {}
        Ok(address) => {
            let reason = format!("the demo origin serves loopback only, not {address}");
            return io::Error::new(io::ErrorKind::InvalidInput, reason);
        }
        Err(error) => return error,
    }

    let setup: Arc<str> = json!({
        "streams": &ENDPOINTS[1..],
        "direct": setup.direct,
        "guarded": setup.guarded,
        "dashboard": setup.dashboard,
        "proxy": setup.proxy,
        "upstream": setup.upstream,
        "idle_s": setup.idle_s,
    })
    .to_string()
    .into();
    let mut connections = JoinSet::new();
    let mut failures = 0;
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((io, _)) => {
                failures = 0;
                // Nagle's algorithm would join again what /crlf cuts.
                if let Err(error) = io.set_nodelay(true) {
                    debug!(%error, "demo origin: no TCP_NODELAY");
                }
                connections.spawn(drive(io, setup.clone()));
            }
            // The caller went away before we came: its failure, not the listener's.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                failures += 1;
                if failures == ACCEPT_ATTEMPTS {
                    return error;
                }
                // Mostly a lack of file descriptors, which only time mends.
                warn!(%error, "demo origin: cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn drive<I>(io: I, setup: Arc<str>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(request, &setup).await));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "demo origin: connection ended");
    }
}

/// Lets the demo's page read the answer, which comes from another port than the page.
async fn answer<B>(request: Request<B>, setup: &str) -> Answer
where
    B: Body<Data: Buf, Error: Into<BoxError>>,
{
    let is_from_page = request.headers().contains_key(ORIGIN);
    let mut answer = answer_alone(request, setup).await;
    if is_from_page {
        let any = HeaderValue::from_static("*");
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, any);
    }
    answer
}

async fn answer_alone<B>(request: Request<B>, setup: &str) -> Answer
where
    B: Body<Data: Buf, Error: Into<BoxError>>,
{
    let (head, body) = request.into_parts();
    // hyper drops the body of an answer to HEAD.
    let method = if head.method == Method::HEAD {
        Method::GET
    } else {
        head.method
    };

    match (method.as_str(), head.uri.path()) {
        ("GET", "/") => whole(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        ("GET", "/demo.js") => whole(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
        ("GET", "/demo.json") => whole(StatusCode::OK, "application/json", setup.to_owned()),
        // The preflight of a request with Last-Event-ID.
        ("OPTIONS", _) => whole(StatusCode::NO_CONTENT, "text/plain", ""),
        ("GET", "/named") => stream(named()),
        ("GET", "/untyped") => {
            let steps = [send("data: a line\n\n"), Step::Forever];
            let mut answer = stream(steps.into_iter());
            let media_type = HeaderValue::from_static("text/event-streams");
            answer.headers_mut().insert(CONTENT_TYPE, media_type);
            answer
        }
        ("GET", "/quiet") => stream(numbered(1, SILENCE)),
        ("GET", "/feed") => stream(numbered(1, FEED_PAUSE)),
        ("GET", "/dies") => stream(dies()),
        ("GET", "/hangs") => stream(numbered(1, FEED_PAUSE).take(4).chain([Step::Forever])),
        ("GET", "/pings") => stream(pings()),
        ("GET", "/resume") => match last_event_id(&head.headers).checked_add(1) {
            Some(next) => stream(numbered(next, RESUME_PAUSE)),
            None => stream([].into_iter()),
        },
        ("POST", "/v1/chat/completions") => match discard(body).await {
            Ok(()) => stream(chat()),
            Err(status) => whole(status, "text/plain", status.as_str().to_owned()),
        },
        ("GET", "/slow-head") => {
            sleep(HEAD_PAUSE).await;
            stream(numbered(1, FEED_PAUSE))
        }
        ("GET", "/plain") => whole(StatusCode::OK, "application/json", "{\"plain\":true}\n"),
        ("GET", "/crlf") => stream(crlf()),
        _ => whole(StatusCode::NOT_FOUND, "text/plain", listing()),
    }
}

/// The number that the client saw last, 0 if it sends none of this origin.
fn last_event_id(headers: &HeaderMap) -> u64 {
    let value = headers
        .get(LAST_EVENT_ID)
        .and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Reads a request body to its end, within bounds of size and time.
async fn discard<B>(body: B) -> Result<(), StatusCode>
where
    B: Body<Data: Buf, Error: Into<BoxError>>,
{
    match timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

fn stream(steps: impl Iterator<Item = Step> + Send + 'static) -> Answer {
    let mut answer = Response::new(Either::Right(Script::new(steps)));
    let media_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

fn whole(status: StatusCode, media_type: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(text.into())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

/// Nothing from elsewhere, so that it works on a machine without a network.
const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("demo.js");

#[cfg(test)]
mod tests;
