//! A small legacy-style SSE server with every habit that `sse-guard` hardens against.
//!
//! It is the upstream of `sse-guard demo`: open an endpoint straight and it goes wrong the way such
//! servers do, open it through the proxy and see what became of it. [`ENDPOINTS`] lists the habits.
//!
//! What a stream does is a list of [`Step`]s, played by the one body of this module, [`Script`].
//! One habit all streams share: they carry a `Content-Type` and nothing that keeps caches off.
//!
//! It is a demonstration for one machine, so [`serve`] refuses a listener that others can reach.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, warn};

/// What the origin offers: path, method, and a sentence on the habit behind it.
#[rustfmt::skip] // One line each: it is a table.
pub(crate) const ENDPOINTS: &[(&str, &str, &str)] = &[
    ("/", "GET", "a page that shows /feed or /quiet as a browser sees it"),
    ("/quiet", "GET", "an event, then 65 s of silence, and again: a 60 s idle timeout on the way kills it"),
    ("/feed", "GET", "an event every 200 ms, with ids that start again on each connection"),
    ("/dies", "GET", "three events and a half, then the connection breaks"),
    ("/hangs", "GET", "two events, then nothing for ever: a wedged server"),
    ("/pings", "GET", "two events, then only comments every 2 s: a wedged server that looks alive"),
    ("/resume", "GET", "an event a second, continued after the request's Last-Event-ID"),
    ("/v1/chat/completions", "POST", "an LLM's answer: 3 s of thought, then a token every 50 ms"),
    ("/slow-head", "GET", "20 s until the response head, then a feed"),
    ("/plain", "GET", "a plain JSON answer, which must pass untouched"),
    ("/crlf", "GET", "a feed with CRLF line ends, its bytes cut between CR and LF and inside a character"),
];

/// Longer than the 60 s after which nginx and ALB cut a silent stream, so that it is no photo finish.
const SILENCE: Duration = Duration::from_secs(65);
const FEED_PAUSE: Duration = Duration::from_millis(200);
const RESUME_PAUSE: Duration = Duration::from_secs(1);
const PING_PAUSE: Duration = Duration::from_secs(2);
const HEAD_PAUSE: Duration = Duration::from_secs(20);
const THINKING_PAUSE: Duration = Duration::from_secs(3);
const TOKEN_PAUSE: Duration = Duration::from_millis(50);
/// Enough for the pieces of an event to arrive in reads of their own.
const CUT_PAUSE: Duration = Duration::from_millis(20);

/// Goes into JSON as it is: no quotes, no backslashes.
const ANSWER: &str = "A model that thinks before it speaks sends nothing for a while, \
    and somebody has to keep the line open until it does.";

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
    /// Says nothing for so long.
    Wait(Duration),
    /// Fails, upon which hyper cuts the connection in the middle of the message.
    Break,
    /// Says nothing ever again, and does not end.
    Forever,
}

/// A response body that plays [`Step`]s, and ends cleanly after the last one.
///
/// It owns all it needs, so a dropped script leaves nothing behind.
struct Script {
    steps: Box<dyn Iterator<Item = Step> + Send>,
    sleep: Pin<Box<Sleep>>,
    state: State,
}

/// Where a [`Script`] is.
enum State {
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

/// Serves the [`ENDPOINTS`] until the listener fails for good, and returns that failure.
///
/// Refuses a listener that is not on the loopback interface. Dropping the future ends every
/// connection.
pub(crate) async fn serve(listener: TcpListener) -> io::Error {
    match listener.local_addr() {
        Ok(address) if address.ip().to_canonical().is_loopback() => {}
        Ok(address) => {
            let reason = format!("the demo origin serves loopback only, not {address}");
            return io::Error::new(io::ErrorKind::InvalidInput, reason);
        }
        Err(error) => return error,
    }

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
                connections.spawn(drive(io));
            }
            // The caller went away before we came: its failure, not the listener's.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                failures += 1;
                if failures == ACCEPT_ATTEMPTS {
                    return error;
                }
                // Mostly a lack of file descriptors, which only time mends.
                warn!(%error, "demo origin: can not accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn drive<I>(io: I)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "demo origin: connection ended");
    }
}

async fn answer<B>(request: Request<B>) -> Answer
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

/// The number that the client saw last, 0 if it says none that could be ours.
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
    let lines = ENDPOINTS
        .iter()
        .map(|(path, method, sentence)| format!("{method:<4} {path:<22} {sentence}\n"));
    "Not here. There is:\n\n".to_owned() + &lines.collect::<String>()
}

impl Script {
    fn new(steps: impl Iterator<Item = Step> + Send + 'static) -> Self {
        Self {
            steps: Box::new(steps),
            // Not with the timer wheel until a first `Wait` sets and polls it.
            sleep: Box::pin(sleep(Duration::ZERO)),
            state: State::Playing,
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
                State::Playing => match self.steps.next() {
                    Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Step::Wait(pause)) => {
                        self.sleep.as_mut().reset(Instant::now() + pause);
                        self.state = State::Waiting;
                    }
                    Some(Step::Break) => {
                        self.state = State::Done;
                        return Poll::Ready(Some(Err(Broken)));
                    }
                    Some(Step::Forever) => self.state = State::Wedged,
                    None => self.state = State::Done,
                },
                State::Waiting => {
                    ready!(self.sleep.as_mut().poll(cx));
                    self.state = State::Playing;
                }
                // Nothing will wake us, and nothing needs to: hyper drops us with the connection.
                State::Wedged => return Poll::Pending,
                State::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the demo breaks this stream on purpose")
    }
}

impl Error for Broken {}

/// Nothing from elsewhere, so that it works on a machine without a network.
const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>sse-guard demo</title>
<link rel="icon" href="data:,">
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
  #log { font: 13px/1.5 ui-monospace, monospace; padding: 0; list-style: none; white-space: pre-wrap; }
  .error { color: #b3261e; }
  .open { color: #146c2e; }
</style>
<h1>sse-guard demo</h1>
<form id="form">
  <label><input type="radio" name="path" value="/feed" checked> /feed, five events a second</label><br>
  <label><input type="radio" name="path" value="/quiet"> /quiet, an event every 65 s</label><br>
  <button>Open</button> <button type="button" id="close">Close</button>
</form>
<p><output id="state">closed</output>; <output id="counts"></output></p>
<ul id="log"></ul>
<script>
  const $ = id => document.getElementById(id);
  const LINES = 200;
  let source, events, errors, reconnects, opened, last;

  function log(kind, text) {
    const line = document.createElement("li");
    line.className = kind;
    line.textContent = new Date().toLocaleTimeString() + "  " + text;
    $("log").prepend(line);
    while ($("log").childElementCount > LINES) $("log").lastChild.remove();
    $("counts").textContent = `${events} events, ${errors} errors, ${reconnects} reconnects`;
  }

  function disconnect() {
    if (source) source.close();
    source = undefined;
    $("state").textContent = "closed";
  }

  function connect(path) {
    disconnect();
    events = errors = reconnects = 0;
    opened = false;
    last = performance.now();
    source = new EventSource(path);
    $("state").textContent = "connecting";
    log("", "connecting to " + path);
    source.onopen = () => {
      if (opened) reconnects++;
      log("open", opened ? "open again" : "open");
      opened = true;
      $("state").textContent = "open";
    };
    source.onmessage = event => {
      const now = performance.now();
      events++;
      log("event", `id ${event.lastEventId}  ${event.data}  +${((now - last) / 1000).toFixed(1)} s`);
      last = now;
    };
    source.onerror = event => {
      errors++;
      const over = event.target.readyState === EventSource.CLOSED;
      const text = over ? "error; the browser gave up for ever" : "error; the browser reconnects";
      $("state").textContent = over ? "given up" : "reconnecting";
      log("error", text);
    };
  }

  $("form").onsubmit = event => {
    event.preventDefault();
    connect(new FormData(event.target).get("path"));
  };
  $("close").onclick = disconnect;
</script>
</html>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LONG: Duration = Duration::from_secs(86_400);

    async fn get(path: &str) -> Answer {
        answer(Request::get(path).body(Empty::<Bytes>::new()).unwrap()).await
    }

    async fn resume(last_event_id: &str) -> Answer {
        let request = Request::get("/resume").header("Last-Event-ID", last_event_id);
        answer(request.body(Empty::<Bytes>::new()).unwrap()).await
    }

    async fn post<B>(body: B) -> Answer
    where
        B: Body<Data: Buf, Error: Into<BoxError>>,
    {
        answer(Request::post("/v1/chat/completions").body(body).unwrap()).await
    }

    /// The next chunk as text, and how long it took to come.
    async fn chunk<B>(body: &mut B) -> (String, Duration)
    where
        B: Body<Data = Bytes, Error: fmt::Debug> + Unpin,
    {
        let asked = Instant::now();
        let frame = body.frame().await.expect("a frame").expect("no error");
        let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8");
        (text, asked.elapsed())
    }

    async fn is_silent_for(body: &mut (impl Body + Unpin), time: Duration) -> bool {
        timeout(time, body.frame()).await.is_err()
    }

    /// All that comes over the wire in answer to `request`, until the server hangs up.
    async fn exchange(request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(1024);
        let talk = async move {
            client.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            client.read_to_string(&mut response).await.unwrap();
            response
        };
        tokio::join!(talk, drive(server)).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_script_sends_waits_and_ends() {
        let minute = Duration::from_secs(60);
        let steps = [send("a"), Step::Wait(minute), send("b")];
        let mut script = Script::new(steps.into_iter());
        assert_eq!(chunk(&mut script).await, ("a".to_owned(), Duration::ZERO));
        assert_eq!(chunk(&mut script).await, ("b".to_owned(), minute));
        assert!(!script.is_end_stream());
        assert!(script.frame().await.is_none());
        assert!(script.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_script_waits_anew_each_time() {
        let second = Duration::from_secs(1);
        let mut script = Script::new(numbered(1, second));
        assert_eq!(chunk(&mut script).await.1, Duration::ZERO);
        sleep(LONG).await;
        assert_eq!(chunk(&mut script).await.1, second);
        assert_eq!(chunk(&mut script).await.1, second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_script_fails_once_and_is_over() {
        let mut script = Script::new([Step::Break, send("never")].into_iter());
        assert!(script.frame().await.unwrap().is_err());
        assert!(script.is_end_stream());
        assert!(script.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wedged_script_never_ends() {
        let mut script = Script::new([Step::Forever, send("never")].into_iter());
        assert!(is_silent_for(&mut script, LONG).await);
        assert!(is_silent_for(&mut script, LONG).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_script_leaves_nothing_behind() {
        let token = Arc::new(());
        let held = Arc::clone(&token);
        let steps = std::iter::repeat_with(move || {
            let _ = &held;
            Step::Wait(LONG)
        });
        let mut script = Script::new(steps);
        assert!(is_silent_for(&mut script, Duration::from_secs(1)).await);
        assert_eq!(Arc::strong_count(&token), 2);
        drop(script);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn every_endpoint_of_the_table_answers() {
        for (path, method, _) in ENDPOINTS {
            let request = Request::builder().method(*method).uri(*path);
            let answer = answer(request.body(Empty::<Bytes>::new()).unwrap()).await;
            assert_eq!(answer.status(), StatusCode::OK, "{method} {path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn anything_else_is_told_what_there_is() {
        for path in ["/nowhere", "/v1/chat/completions", "/feed/"] {
            let answer = get(path).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            let text = answer.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8(text.to_vec()).unwrap();
            for (path, method, sentence) in ENDPOINTS {
                assert!(text.contains(&format!("{method:<4} {path} ")), "{text}");
                assert!(text.contains(sentence));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_says_its_type_and_no_more() {
        let answer = get("/feed").await;
        assert_eq!(answer.headers().len(), 1);
        assert_eq!(
            answer.headers()[CONTENT_TYPE],
            "text/event-stream; charset=utf-8"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn feed_speaks_five_times_a_second() {
        let mut body = get("/feed").await.into_body();
        let first = "id: 1\ndata: event 1\n\n".to_owned();
        let second = "id: 2\ndata: event 2\n\n".to_owned();
        assert_eq!(chunk(&mut body).await, (first, Duration::ZERO));
        assert_eq!(chunk(&mut body).await, (second, FEED_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_outlasts_a_minute() {
        let mut body = get("/quiet").await.into_body();
        for _ in 0..3 {
            chunk(&mut body).await;
            assert!(is_silent_for(&mut body, Duration::from_secs(60)).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dies_within_its_fourth_event() {
        let response = exchange("GET /dies HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert_eq!(response.matches("\n\n").count(), 3);
        // The half event is on the wire, the chunk of length 0 that would end the message is not.
        assert!(response.ends_with("half an ev\r\n"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn hangs_after_two_events() {
        let mut body = get("/hangs").await.into_body();
        chunk(&mut body).await;
        chunk(&mut body).await;
        assert!(is_silent_for(&mut body, LONG).await);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_go_on_where_events_do_not() {
        let mut body = get("/pings").await.into_body();
        chunk(&mut body).await;
        chunk(&mut body).await;
        chunk(&mut body).await;
        for _ in 0..100 {
            let ping = (": upstream ping\n\n".to_owned(), PING_PAUSE);
            assert_eq!(chunk(&mut body).await, ping);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn resume_continues_after_the_last_event_id() {
        let mut body = resume("41").await.into_body();
        let next = ("id: 42\ndata: event 42\n\n".to_owned(), Duration::ZERO);
        assert_eq!(chunk(&mut body).await, next);
        assert_eq!(chunk(&mut body).await.1, RESUME_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn resume_starts_at_one_without_an_id_of_ours() {
        for id in ["", "-1", "abc", "18446744073709551616"] {
            let mut body = resume(id).await.into_body();
            assert!(chunk(&mut body).await.0.starts_with("id: 1\n"), "{id}");
        }
        let mut body = get("/resume").await.into_body();
        assert!(chunk(&mut body).await.0.starts_with("id: 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn resume_has_an_end_of_numbers() {
        let mut body = resume("18446744073709551615").await.into_body();
        assert!(body.frame().await.is_none());
        let mut body = resume("18446744073709551614").await.into_body();
        chunk(&mut body).await;
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn chat_thinks_then_speaks_then_is_done() {
        let mut body = post(Full::new(Bytes::from_static(b"{}"))).await.into_body();
        let (role, thought) = chunk(&mut body).await;
        assert_eq!(thought, THINKING_PAUSE);
        assert!(
            role.contains(r#""delta":{"role":"assistant","content":""}"#),
            "{role}"
        );

        let mut said = String::new();
        while said != ANSWER {
            let (event, pause) = chunk(&mut body).await;
            assert_eq!(pause, TOKEN_PAUSE);
            let (_, rest) = event
                .split_once(r#""delta":{"content":""#)
                .expect("a token");
            let (token, rest) = rest.split_once('"').unwrap();
            assert_eq!(rest, "},\"finish_reason\":null}]}\n\n");
            said += token;
        }

        assert!(
            chunk(&mut body)
                .await
                .0
                .contains(r#""delta":{},"finish_reason":"stop"}]}"#)
        );
        assert_eq!(chunk(&mut body).await.0, "data: [DONE]\n\n");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn chat_takes_a_mebibyte_and_no_more() {
        let fits = post(Full::new(Bytes::from(vec![b' '; BODY_LIMIT]))).await;
        assert_eq!(fits.status(), StatusCode::OK);
        let exceeds = post(Full::new(Bytes::from(vec![b' '; BODY_LIMIT + 1]))).await;
        assert_eq!(exceeds.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn chat_gives_up_on_a_body_that_fails_or_stalls() {
        let fails = post(Script::new([Step::Break].into_iter())).await;
        assert_eq!(fails.status(), StatusCode::BAD_REQUEST);
        let stalls = post(Script::new([Step::Forever].into_iter())).await;
        assert_eq!(stalls.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_head_takes_its_time() {
        let asked = Instant::now();
        let mut body = get("/slow-head").await.into_body();
        assert_eq!(asked.elapsed(), HEAD_PAUSE);
        assert_eq!(chunk(&mut body).await.1, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn plain_has_a_length_and_an_end() {
        let response = exchange("GET /plain HTTP/1.1\r\nConnection: close\r\n\r\n").await;
        assert!(
            response.contains("content-type: application/json\r\n"),
            "{response}"
        );
        assert!(response.contains("content-length: 15\r\n"), "{response}");
        assert!(
            response.ends_with("\r\n\r\n{\"plain\":true}\n"),
            "{response}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn crlf_cuts_line_ends_and_characters() {
        let mut body = get("/crlf").await.into_body();
        let mut chunks = Vec::new();
        for _ in 0..10 {
            chunks.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert!(
            chunks
                .iter()
                .all(|chunk| !chunk.windows(2).any(|pair| pair == b"\r\n"))
        );
        assert!(
            chunks
                .iter()
                .any(|chunk| std::str::from_utf8(chunk).is_err())
        );
        let whole = String::from_utf8(chunks.concat()).unwrap();
        assert_eq!(
            whole,
            "id: 1\r\ndata: café\r\n\r\nid: 2\r\ndata: café\r\n\r\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn head_of_an_endless_stream_has_an_end() {
        let response = exchange("HEAD /hangs HTTP/1.1\r\nConnection: close\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\n"), "{response}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_comes_is_cut() {
        let (_client, server) = tokio::io::duplex(1024);
        let started = Instant::now();
        drive(server).await;
        assert_eq!(started.elapsed(), HEAD_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_ends_its_connection() {
        for path in ["/hangs", "/slow-head"] {
            let (mut client, server) = tokio::io::duplex(1024);
            let connection = tokio::spawn(drive(server));
            let request = format!("GET {path} HTTP/1.1\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            sleep(Duration::from_secs(5)).await;
            assert!(!connection.is_finished());
            let left = Instant::now();
            drop(client);
            connection.await.unwrap();
            assert_eq!(left.elapsed(), Duration::ZERO, "{path}");
        }
    }

    #[tokio::test]
    async fn serve_ends_its_connections_with_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener));
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET /quiet HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut response = vec![0; 1024];
        assert!(client.read(&mut response).await.unwrap() > 0);
        server.abort();
        let end = timeout(Duration::from_secs(10), client.read_to_end(&mut response)).await;
        // By a close or a reset, as the kernel has it.
        assert!(end.is_ok());
    }

    #[tokio::test]
    async fn serve_refuses_to_be_seen_from_elsewhere() {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        assert_eq!(serve(listener).await.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_answer_needs_no_escapes_in_json() {
        assert!(
            ANSWER
                .chars()
                .all(|c| !c.is_control() && c != '"' && c != '\\')
        );
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        assert!(!PAGE.contains("//"));
        assert!(!PAGE.contains("import"));
    }
}
