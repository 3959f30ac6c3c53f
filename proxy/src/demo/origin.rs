//! A small SSE server without any protection: the upstream of `sse-guard demo`.
//!
//! [`ENDPOINTS`] lists its streams, each with a fault that `sse-guard` hardens against.
//!
//! What a stream does is a list of [`Step`]s, played by the one body of this module, [`Script`].
//! All streams carry a `Content-Type` and no header against caches.
//!
//! It is a demonstration for one machine, so [`serve`] refuses a listener that others can reach.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, ORIGIN,
};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, warn};

/// A path of the origin, and what a client sees of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    pub(crate) about: &'static str,
    /// Behind a load balancer with an idle timeout.
    pub(crate) without: &'static str,
    /// With `sse-guard` between them.
    pub(crate) with: &'static str,
}

const fn get(
    path: &'static str,
    about: &'static str,
    without: &'static str,
    with: &'static str,
) -> Endpoint {
    Endpoint {
        path,
        method: "GET",
        about,
        without,
        with,
    }
}

/// What the origin serves, the page first.
pub(crate) const ENDPOINTS: &[Endpoint] = &[
    get(
        "/",
        "a page that shows each stream without and with sse-guard",
        "",
        "",
    ),
    get(
        "/quiet",
        "an event, then 65 s of silence, and again",
        "The load balancer closes the idle connection; the client reconnects and never gets the second event.",
        "Heartbeats keep the connection open, and the second event arrives after 65 s.",
    ),
    get(
        "/feed",
        "an event every 200 ms, with ids that start again on each connection",
        "Works: data is always flowing.",
        "The same events.",
    ),
    get(
        "/named",
        "events named price and trade, and unnamed ones",
        "Works: data is always flowing.",
        "The same events, with the same names.",
    ),
    get(
        "/dies",
        "three events and a half, then the connection breaks",
        "The client gets half an event and an error, and reconnects.",
        "The half event is dropped, and the error stays an error; the client reconnects.",
    ),
    get(
        "/hangs",
        "two events, then nothing: a hung upstream",
        "The load balancer closes each connection after 10 s; the hung upstream goes unnoticed.",
        "After idle.event_timeout (70 s) the stream ends with a retry: line; the dashboard shows upstream_idle.",
    ),
    get(
        "/pings",
        "two events, then only comments every 2 s: a hung upstream that looks alive",
        "The connection stays open without events.",
        "Comments do not count as events: after 70 s the stream ends with a retry: line.",
    ),
    get(
        "/resume",
        "an event each second, continued after the request's Last-Event-ID",
        "Works: data is always flowing.",
        "The same events; after rotation.max_age (3 min) the client reconnects and continues with the next id.",
    ),
    Endpoint {
        path: "/v1/chat/completions",
        method: "POST",
        about: "an answer of a model: 12 s without data, then a token every 50 ms",
        without: "The load balancer closes the connection before the first token; the answer is lost.",
        with: "Heartbeats keep the connection open until the first token.",
    },
    get(
        "/slow-head",
        "20 s until the response head, then a feed",
        "The load balancer closes the connection before the response begins.",
        "sse-guard responds after 3 s (early.enabled) and sends heartbeats until the upstream does.",
    ),
    get(
        "/untyped",
        "a stream with the Content-Type text/event-streams, silent after its first event",
        "The load balancer closes the idle connection.",
        "Not handled as an event stream, so no heartbeats; the dashboard lists it as not protected.",
    ),
    get(
        "/plain",
        "a JSON response, no event stream",
        "A response of 15 bytes.",
        "The same bytes: other responses pass through unchanged.",
    ),
    get(
        "/crlf",
        "a feed with CRLF line ends, its bytes cut between CR and LF and inside a character",
        "Works in a client whose parser is correct.",
        "The same events, each sent whole.",
    ),
];

/// Longer than the 60 s after which nginx and ALB cut a silent stream, so that the result is unambiguous.
const SILENCE: Duration = Duration::from_secs(65);
const FEED_PAUSE: Duration = Duration::from_millis(200);
const RESUME_PAUSE: Duration = Duration::from_secs(1);
const PING_PAUSE: Duration = Duration::from_secs(2);
const HEAD_PAUSE: Duration = Duration::from_secs(20);
const THINKING_PAUSE: Duration = Duration::from_secs(12);
const NAMED_PAUSE: Duration = Duration::from_millis(700);
const TOKEN_PAUSE: Duration = Duration::from_millis(50);
/// Enough for the pieces of an event to arrive in reads of their own.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// Goes into JSON unchanged: no quotes, no backslashes.
const ANSWER: &str = "A model that thinks sends nothing for a while, and the connection has to \
    stay open until it does.";

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_LIMIT: usize = 1024 * 1024;
const MAX_CONNECTIONS: usize = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const ACCEPT_ATTEMPTS: u32 = 10;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// One thing that a stream does.
enum Step {
    /// Sends these bytes as one chunk.
    Send(Bytes),
    /// Sends nothing for this long.
    Wait(Duration),
    /// Fails, upon which hyper cuts the connection in the middle of the message.
    Break,
    /// Sends nothing, and does not end.
    Forever,
}

/// A response body that plays [`Step`]s, and ends cleanly after the last one.
///
/// It owns all it needs, so a dropped script leaves nothing behind.
struct Script {
    steps: Box<dyn Iterator<Item = Step> + Send>,
    sleep: Pin<Box<Sleep>>,
    state: PlayState,
}

/// Where a [`Script`] is.
enum PlayState {
    Playing,
    Waiting,
    Wedged,
    Done,
}

/// The error of [`Step::Break`].
#[derive(Debug)]
struct Broken;

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

/// Numbered events from `first` on, each followed by `pause`.
fn numbered(first: u64, pause: Duration) -> impl Iterator<Item = Step> + Send + 'static {
    (first..=u64::MAX).flat_map(move |n| {
        [
            send(format!("id: {n}\ndata: event {n}\n\n")),
            Step::Wait(pause),
        ]
    })
}

fn named() -> impl Iterator<Item = Step> + Send + 'static {
    (1_u64..).flat_map(|n| {
        let name = match n % 3 {
            0 => "",
            1 => "event: price\n",
            _ => "event: trade\n",
        };
        let event = format!("{name}id: {n}\ndata: {{\"symbol\":\"ACME\",\"value\":{n}}}\n\n");
        [send(event), Step::Wait(NAMED_PAUSE)]
    })
}

fn dies() -> impl Iterator<Item = Step> + Send + 'static {
    // hyper flushes what it has while the body waits; broken at once, the half event would not
    // reach the wire.
    let last_words = [
        send("id: 4\ndata: half an ev"),
        Step::Wait(FEED_PAUSE),
        Step::Break,
    ];
    numbered(1, FEED_PAUSE).take(6).chain(last_words)
}

fn pings() -> impl Iterator<Item = Step> + Send + 'static {
    let pings = std::iter::repeat_with(|| [Step::Wait(PING_PAUSE), send(": upstream ping\n\n")]);
    numbered(1, FEED_PAUSE).take(4).chain(pings.flatten())
}

/// A token stream in the shape of OpenAI's chat completions.
fn chat() -> impl Iterator<Item = Step> + Send + 'static {
    let chunk = |delta: &str, finish_reason: &str| {
        send(format!(
            "data: {{\"id\":\"chatcmpl-demo\",\"object\":\"chat.completion.chunk\",\
             \"created\":1700000000,\"model\":\"demo\",\"choices\":[{{\"index\":0,\
             \"delta\":{delta},\"finish_reason\":{finish_reason}}}]}}\n\n"
        ))
    };
    let role = chunk(r#"{"role":"assistant","content":""}"#, "null");
    let stop = chunk("{}", "\"stop\"");
    let tokens = ANSWER.split_inclusive(' ').flat_map(move |token| {
        [
            Step::Wait(TOKEN_PAUSE),
            chunk(&format!("{{\"content\":\"{token}\"}}"), "null"),
        ]
    });
    [Step::Wait(THINKING_PAUSE), role]
        .into_iter()
        .chain(tokens)
        .chain([Step::Wait(TOKEN_PAUSE), stop, send("data: [DONE]\n\n")])
}

fn crlf() -> impl Iterator<Item = Step> + Send + 'static {
    (1_u64..).flat_map(|n| {
        [
            send(format!("id: {n}\r")),
            Step::Wait(CUT_PAUSE),
            send(&b"\ndata: caf\xC3"[..]),
            Step::Wait(CUT_PAUSE),
            send(&b"\xA9\r"[..]),
            Step::Wait(CUT_PAUSE),
            // Complete for a parser that takes the CR for a line end, with one more LF to come.
            send("\n\r"),
            Step::Wait(CUT_PAUSE),
            send("\n"),
            Step::Wait(FEED_PAUSE),
        ]
    })
}

fn send(bytes: impl Into<Bytes>) -> Step {
    Step::Send(bytes.into())
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

fn listing() -> String {
    ENDPOINTS.iter().fold(
        "404: no such path. Paths of the demo:\n\n".to_owned(),
        |text, endpoint| {
            let Endpoint {
                path,
                method,
                about,
                ..
            } = endpoint;
            text + &format!("{method:<4} {path:<22} {about}\n")
        },
    )
}

impl Script {
    fn new(steps: impl Iterator<Item = Step> + Send + 'static) -> Self {
        Self {
            steps: Box::new(steps),
            // Not with the timer wheel until a first `Wait` sets and polls it.
            sleep: Box::pin(sleep(Duration::ZERO)),
            state: PlayState::Playing,
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.state {
                PlayState::Playing => match self.steps.next() {
                    Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Step::Wait(pause)) => {
                        self.sleep.as_mut().reset(Instant::now() + pause);
                        self.state = PlayState::Waiting;
                    }
                    Some(Step::Break) => {
                        self.state = PlayState::Done;
                        return Poll::Ready(Some(Err(Broken)));
                    }
                    Some(Step::Forever) => self.state = PlayState::Wedged,
                    None => self.state = PlayState::Done,
                },
                PlayState::Waiting => {
                    ready!(self.sleep.as_mut().poll(cx));
                    self.state = PlayState::Playing;
                }
                // Nothing will wake us, and nothing needs to: hyper drops us with the connection.
                PlayState::Wedged => return Poll::Pending,
                PlayState::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, PlayState::Done)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the demo breaks this stream on purpose")
    }
}

impl Error for Broken {}

/// Nothing from elsewhere, so that it works on a machine without a network.
const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("demo.js");

#[cfg(test)]
mod tests;
