//! The library's server on real sockets: around an axum app and around a plain service, while it
//! stops, and with clients that are slow or do not read at all.

#![cfg(all(feature = "axum", feature = "serve"))]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use bytes::Bytes;
use client::{Client, End, Gone, PATIENCE, wait_until};
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use server::{Running, Stop, start};
use sse_guard::client_key::PeerAddr;
use sse_guard::heartbeat::HeartbeatLayer;
use sse_guard::rotation::RotationLayer;
use sse_guard::serve::{RequestBody, Server};
use sse_guard::{BoxError, EndReason, SseGuardLayer, Stream, StreamRegistry};
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::{Service, ServiceBuilder, service_fn};

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Piece = Result<Frame<Bytes>, BoxError>;

/// Where connections run on the server's own runtime, and on threads of theirs.
fn servers() -> [Server; 2] {
    [Server::new(), Server::new().threads(NonZeroUsize::new(2))]
}

fn request(method: &str, path: &str, body: &str) -> String {
    let len = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n{body}")
}

fn data(text: impl Into<Bytes>) -> Piece {
    Ok(Frame::data(text.into()))
}

fn respond(content_type: &str, body: Body) -> Response<Body> {
    let response = Response::builder().header("content-type", content_type);
    response.body(body).unwrap()
}

fn events(pieces: impl futures_util::Stream<Item = Piece> + Send + 'static) -> Response<Body> {
    respond("text/event-stream", StreamBody::new(pieces).boxed_unsync())
}

fn full(content_type: &str, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {});
    respond(content_type, body.boxed_unsync())
}

/// A service without layers and frameworks.
async fn plain(request: Request<RequestBody>) -> Result<Response<Body>, BoxError> {
    let one = stream::iter([data("data: 1\n\n")]);
    let two = stream::iter([data("data: 2\n\n")]);
    Ok(match request.uri().path() {
        "/short" => events(one.chain(two)),
        "/closes" => {
            let mut response = events(one.chain(two));
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert("connection", close);
            response
        }
        "/dies" => events(one.chain(stream::iter([Err("it died".into())]))),
        "/known" => full("text/event-stream", "data: 1\n\n"),
        "/peer" => {
            let peer: &PeerAddr = request.extensions().get().unwrap();
            full("text/plain", peer.to_string())
        }
        "/echo" => full(
            "text/plain",
            request.into_body().collect().await?.to_bytes(),
        ),
        "/fails" => return Err("no answer".into()),
        _ => full("text/plain", "plain"),
    })
}

/// Reads an answer of known length.
#[track_caller]
fn assert_text(client: &mut Client, text: &str) {
    let head = client.head();
    let length = format!("\ncontent-length: {}\n", text.len());
    assert!(
        head.starts_with("http/1.1 200 ok\n") && head.contains(&length),
        "{head}"
    );
    assert_eq!(client.bytes(text.len()), text.as_bytes());
}

#[track_caller]
fn assert_stream(client: &mut Client, text: &str, end: End) {
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
    let (seen, how) = client.rest();
    assert_eq!((std::str::from_utf8(&seen).unwrap(), how), (text, end));
}

#[test]
fn a_response_that_says_so_is_the_last_of_its_connection() {
    let server = start(Server::new(), service_fn(plain));
    let mut client = Client::connect(server.addr);
    client.send(&request("GET", "/closes", ""));
    client.send(&request("GET", "/short", ""));
    assert_stream(&mut client, "data: 1\n\ndata: 2\n\n", End::Clean);
    assert_eq!(client.raw(), b"");
}

#[test]
fn a_plain_service_streams_answers_and_takes_uploads_on_one_connection() {
    for server in servers() {
        let server = start(server, service_fn(plain));
        let mut client = Client::connect(server.addr);
        let peer = client.socket.local_addr().unwrap().to_string();
        let upload = "x".repeat(1 << 20);
        for _ in 0..3 {
            client.send(&request("GET", "/short", ""));
            assert_stream(&mut client, "data: 1\n\ndata: 2\n\n", End::Clean);
            client.send(&request("POST", "/short", "and nobody reads it"));
            assert_stream(&mut client, "data: 1\n\ndata: 2\n\n", End::Clean);
            client.send(&request("GET", "/peer", ""));
            assert_text(&mut client, &peer);
            client.send(&request("POST", "/echo", &upload));
            assert_text(&mut client, &upload);
            client.send(&request("GET", "/known", ""));
            assert_text(&mut client, "data: 1\n\n");
        }
        client.send(&request("GET", "/dies", ""));
        assert_stream(&mut client, "data: 1\n\n", End::Broken);
        let mut client = server.get("/fails");
        assert_eq!(client.raw(), b"");
        assert_text(&mut server.get("/plain"), "plain");
    }
}

#[test]
fn an_axum_app_streams_answers_and_takes_uploads_on_one_connection() {
    let event = || stream::iter([Ok::<_, Infallible>(Event::default().data("1"))]);
    let app = Router::new()
        .route("/short", get(move || async move { Sse::new(event()) }))
        .route(
            "/held",
            get(move || async move { Sse::new(event().chain(stream::pending())) }),
        )
        .route("/echo", post(|body: Bytes| async { body }))
        .route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        )
        .layer(SseGuardLayer::new().heartbeat(HeartbeatLayer::new(Duration::from_millis(5))));
    let server = start(Server::new(), app);
    let mut client = Client::connect(server.addr);
    let peer = client.socket.local_addr().unwrap().to_string();
    for _ in 0..3 {
        client.send(&request("GET", "/short", ""));
        assert_stream(&mut client, "data: 1\n\n", End::Clean);
        client.send(&request("GET", "/peer", ""));
        assert_text(&mut client, &peer);
        client.send(&request("POST", "/echo", "hello"));
        assert_text(&mut client, "hello");
    }
    client.send(&request("GET", "/held", ""));
    let head = client.head();
    assert!(head.contains("x-accel-buffering: no\n"), "{head}");
    client.read_until("data: 1\n\n: heartbeat\n");
    client.read_until(": heartbeat\n");
}

#[test]
fn heads_that_do_not_end_or_are_too_long_are_given_up() {
    let server = Server::new()
        .head_timeout(Duration::from_millis(200))
        .max_head(8 * 1024);
    let server = start(server, service_fn(plain));
    assert_eq!(server.ask("GET / HTTP/1.1\r\nX-A: ").raw(), b"");
    let long = format!("GET / HTTP/1.1\r\nX-A: {}", "x".repeat(16 * 1024));
    let head = server.ask(&long).head();
    assert!(head.starts_with("http/1.1 431 "), "{head}");
}

/// Streams that are told what to send; the head of `/late` waits for that, too.
fn told() -> (
    Receiver<UnboundedSender<Piece>>,
    impl Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static,
) {
    let (new, streams) = channel();
    let service = service_fn(move |request: Request<RequestBody>| {
        let new = new.clone();
        async move {
            let (pieces, mut body) = unbounded_channel();
            new.send(pieces).unwrap();
            let first = match request.uri().path() {
                "/late" => body.recv().await,
                _ => None,
            };
            let rest = UnboundedReceiverStream::new(body);
            Ok::<_, Infallible>(events(stream::iter(first).chain(rest)))
        }
    });
    (streams, service)
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_for_nothing_else() {
    for server in servers() {
        let (streams, service) = told();
        let server = start(server, service);
        let mut reads = server.get("/");
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        stream.send(data("data: 1\n\n")).unwrap();
        reads.head();
        reads.read_until("data: 1\n\n");
        let mut waits = server.get("/late");
        let late = streams.recv_timeout(PATIENCE).unwrap();
        let mut idle = Client::connect(server.addr);
        let mut was_served = server.get("/");
        drop(streams.recv_timeout(PATIENCE).unwrap());
        assert_stream(&mut was_served, "", End::Clean);

        let Running { addr, stop, done } = server;
        stop.send(Stop::Properly).unwrap();
        assert_eq!(idle.raw_and_end(), (Vec::new(), Gone::Closed));
        assert_eq!(was_served.raw_and_end(), (Vec::new(), Gone::Closed));
        wait_until("nobody listens", || TcpStream::connect(addr).is_err());
        assert!(done.try_recv().is_err());
        stream.send(data("data: 2\n\n")).unwrap();
        drop(stream);
        assert_eq!(reads.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
        assert_eq!(reads.raw_and_end(), (Vec::new(), Gone::Closed));
        assert!(done.try_recv().is_err());
        late.send(data("data: 1\n\n")).unwrap();
        drop(late);
        assert_stream(&mut waits, "data: 1\n\n", End::Clean);
        assert_eq!(waits.raw_and_end(), (Vec::new(), Gone::Closed));
        done.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn a_response_behind_which_the_connection_closes_says_so() {
    let server = start(Server::new(), service_fn(plain));
    // By the client's wish, and since the request is not valid.
    for request in [
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ] {
        let mut client = server.ask(request);
        let head = client.head();
        assert!(head.contains("\nconnection: close\n"), "{request}: {head}");
        client.raw();
    }
    // The service reads nothing of the body, and too much of it is missing to skip it.
    for rest in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = server.ask(&format!("POST / HTTP/1.1\r\nHost: x\r\n{rest}\r\n\r\n"));
        let head = client.head();
        assert!(head.contains("\nconnection: close\n"), "{rest}: {head}");
        assert_eq!(client.raw(), b"plain");
    }
    let mut client = server.ask(&request("POST", "/", "a small one"));
    for _ in 0..2 {
        let head = client.head();
        assert!(!head.contains("connection"), "{head}");
        assert_eq!(client.bytes(5), b"plain");
        client.send(&request("POST", "/", "a small one"));
    }
}

#[test]
fn a_response_under_way_when_the_server_stops_says_that_its_connection_closes() {
    for server in servers() {
        let (asked, requests) = channel();
        let service = service_fn(move |_: Request<RequestBody>| {
            let (answer, answered) = tokio::sync::oneshot::channel::<()>();
            asked.send(answer).unwrap();
            async move {
                answered.await.unwrap();
                Ok::<_, Infallible>(full("text/plain", "plain"))
            }
        });
        let server = start(server, service);
        let mut client = server.get("/");
        let answer = requests.recv_timeout(PATIENCE).unwrap();
        let Running { addr, stop, done } = server;
        stop.send(Stop::Properly).unwrap();
        wait_until("nobody listens", || TcpStream::connect(addr).is_err());
        answer.send(()).unwrap();
        let head = client.head();
        assert!(head.contains("\nconnection: close\n"), "{head}");
        assert_eq!(client.raw_and_end(), (b"plain".to_vec(), Gone::Closed));
        done.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn a_drain_serves_all_but_new_streams_until_its_window_is_over() {
    for server in servers() {
        let registry = StreamRegistry::new();
        let guard = SseGuardLayer::new().rotation(RotationLayer::new().registry(&registry));
        let service = ServiceBuilder::new()
            .layer(guard)
            .service(service_fn(plain));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let handle = registry.clone();
        let (is_done, done) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let served = server.serve_until_drained(listener, service, &handle);
                served.await.unwrap();
            });
            let _ = is_done.send(());
        });
        let ask = |request: &str| {
            let mut client = Client::connect(addr);
            client.send(request);
            client
        };
        let mut kept = ask(&request("GET", "/text", ""));
        assert_text(&mut kept, "plain");
        let mut idle = ask(&request("GET", "/text", ""));
        assert_text(&mut idle, "plain");
        registry.drain(Duration::from_secs(1));
        let feed = "GET /stream HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
        wait_until("the server drains", || {
            let mut late = ask(feed);
            let head = late.head();
            assert!(head.contains("text/event-stream"), "{head}");
            head.contains("connection: close") && late.raw().starts_with(b"retry: ")
        });
        kept.send(&request("GET", "/text", ""));
        assert!(kept.head().contains("connection: close"));
        assert_eq!(kept.raw(), b"plain");
        assert_eq!(idle.raw_and_end(), (Vec::new(), Gone::Closed));
        done.recv_timeout(PATIENCE).unwrap();
        assert!(TcpStream::connect(addr).is_err());
    }
}

#[test]
fn to_stop_waiting_cuts_streams_off() {
    for server in servers() {
        let (streams, service) = told();
        let server = start(server, service);
        let mut chunked = server.get("/");
        let one = streams.recv_timeout(PATIENCE).unwrap();
        let mut closes = server.ask("GET / HTTP/1.0\r\n\r\n");
        let two = streams.recv_timeout(PATIENCE).unwrap();
        for stream in [&one, &two] {
            stream.send(data("data: 1\n\n")).unwrap();
        }
        chunked.head();
        chunked.read_until("data: 1\n\n");
        closes.head();
        assert_eq!(closes.bytes(9), b"data: 1\n\n");
        let Running { stop, done, .. } = server;
        stop.send(Stop::Now).unwrap();
        done.recv_timeout(PATIENCE).unwrap();
        assert_eq!(chunked.rest(), (Vec::new(), End::Broken));
        // One without chunks must not take that for an end.
        assert_eq!(closes.raw_and_end(), (Vec::new(), Gone::Reset));
        wait_until("their end here", || one.is_closed() && two.is_closed());
    }
}

const STALL: Duration = Duration::from_millis(200);

/// Events without end, each with its number, until they are told to end.
fn endless(is_over: Arc<AtomicBool>) -> impl futures_util::Stream<Item = Piece> + Send {
    stream::unfold((0, is_over), |(n, is_over)| async move {
        let goes_on = !is_over.load(SeqCst);
        goes_on.then(|| (data(numbered(n)), (n + 1, is_over)))
    })
}

fn numbered(n: usize) -> String {
    format!("id: {n}\ndata: {}\n\n", "x".repeat(1_000))
}

/// A server of endless events, and the records of its streams.
fn flood(
    stall: Duration,
    stall_of_others: Option<Duration>,
    is_over: &Arc<AtomicBool>,
) -> (Running, Receiver<Stream>) {
    let is_over = is_over.clone();
    let server = Server::new()
        .write_stall(stall)
        .response_stall(stall_of_others)
        .user_timeout(Duration::from_secs(1));
    streaming(server, move || endless(is_over.clone()))
}

/// A server of these pieces, events or a download, and the records of its streams.
fn streaming<P>(
    server: Server,
    pieces: impl Fn() -> P + Clone + Send + Sync + 'static,
) -> (Running, Receiver<Stream>)
where
    P: futures_util::Stream<Item = Piece> + Send + 'static,
{
    let (opened, streams) = channel();
    let service = service_fn(move |request: Request<RequestBody>| {
        let mut response = events(pieces());
        if request.uri().path() == "/download" {
            response.headers_mut().remove("content-type");
        }
        async { Ok::<_, Infallible>(response) }
    });
    let service = ServiceBuilder::new()
        .map_response(move |response: Response<_>| {
            if let Some(stream) = response.extensions().get::<Stream>() {
                opened.send(stream.clone()).unwrap();
            }
            response
        })
        .layer(SseGuardLayer::new())
        .service(service);
    (start(server, service), streams)
}

#[test]
fn a_client_that_does_not_read_is_reset_and_its_stream_has_stalled() {
    let is_over = Arc::default();
    let (server, streams) = flood(STALL, None, &is_over);
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut client = server.ask(&format!("GET / {version}\r\nHost: x\r\n\r\n"));
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        wait_until("the end", || stream.end_reason().is_some());
        assert_eq!(stream.end_reason(), Some(EndReason::ClientStalled));
        let (seen, gone) = client.raw_and_end();
        assert_eq!(gone, Gone::Reset);
        assert!(!seen.is_empty());
    }
}

#[test]
fn a_client_that_does_not_read_a_download_is_reset_where_that_is_bounded() {
    let is_over = Arc::default();
    let (server, _streams) = flood(STALL, Some(STALL), &is_over);
    let unused = Arc::strong_count(&is_over);
    let mut client = server.get("/download");
    wait_until("the start", || Arc::strong_count(&is_over) > unused);
    wait_until("the end", || Arc::strong_count(&is_over) == unused);
    assert_eq!(client.raw_and_end().1, Gone::Reset);
}

#[test]
fn a_download_may_pause_for_longer_than_a_stream_and_than_the_user_timeout() {
    let is_over = Arc::new(AtomicBool::new(false));
    let (server, streams) = flood(STALL, None, &is_over);
    let mut download = server.get("/download");
    download.head();
    // The client does not read while streams stall one after the other.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let _unread = server.get("/");
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        wait_until("the end", || stream.end_reason().is_some());
        assert_eq!(stream.end_reason(), Some(EndReason::ClientStalled));
    }
    is_over.store(true, SeqCst);
    let (seen, end) = download.rest();
    assert_eq!(end, End::Clean);
    let count = seen.len() / numbered(0).len() + 1;
    let whole: String = (0..2 * count).map(numbered).collect();
    assert!(count > 60 && whole.as_bytes().starts_with(&seen), "{count}");
    // A stream on the same connection is bounded again.
    is_over.store(false, SeqCst);
    download.send(&request("GET", "/", ""));
    let stream = streams.recv_timeout(PATIENCE).unwrap();
    wait_until("the end", || stream.end_reason().is_some());
    assert_eq!(stream.end_reason(), Some(EndReason::ClientStalled));
}

#[test]
fn a_client_that_trickles_has_stalled() {
    let server = Server::new()
        .notsent_lowat(1_024)
        .write_stall(Duration::from_secs(1));
    let large = format!("data: {}\n\n", "x".repeat(200_000));
    let pieces = stream::repeat_with(move || data(large.clone()));
    let (server, streams) = streaming(server, move || pieces.clone());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // With as little unsent the kernel tells of room whenever the client has taken a few bytes.
    socket.set_recv_buffer_size(2_304).unwrap();
    socket.connect(&server.addr.into()).unwrap();
    let mut client = TcpStream::from(socket);
    let get = request("GET", "/", "");
    client.write_all(get.as_bytes()).unwrap();
    let stream = streams.recv_timeout(PATIENCE).unwrap();
    wait_until("the end", || {
        // The client's pace: it takes something all the time, and too little.
        thread::sleep(Duration::from_millis(150));
        let _ = client.read(&mut [0; 500]);
        stream.end_reason().is_some()
    });
    assert_eq!(stream.end_reason(), Some(EndReason::ClientStalled));
}

#[test]
fn a_client_that_reads_slowly_gets_every_event() {
    let stall = Duration::from_millis(700);
    let is_over = Arc::new(AtomicBool::new(false));
    let (server, streams) = flood(stall, None, &is_over);
    let mut client = server.get("/");
    let stream = streams.recv_timeout(PATIENCE).unwrap();
    client.head();
    let (start, mut seen) = (Instant::now(), Vec::new());
    let (mut next, mut paused_at) = (0, 0);
    loop {
        let chunk = client.chunk().unwrap();
        if chunk.is_empty() {
            break;
        }
        seen.extend(chunk);
        while let Some(rest) = seen.strip_prefix(numbered(next).as_bytes()) {
            seen = rest.to_vec();
            next += 1;
        }
        // The client's pace. The server waits for room all the time, and for long in all.
        if next - paused_at >= 100 {
            paused_at = next;
            thread::sleep(Duration::from_millis(5));
        }
        if start.elapsed() > 3 * stall {
            is_over.store(true, SeqCst);
        }
    }
    assert!(seen.is_empty(), "behind event {next}: {} bytes", seen.len());
    assert_eq!(stream.events(), next as u64);
    assert_eq!(stream.end_reason(), Some(EndReason::UpstreamEnd));
    // Its connection lives on.
    client.send(&request("GET", "/", ""));
    client.head();
    assert_eq!(client.rest(), (Vec::new(), End::Clean));
}

#[test]
fn what_was_sent_ahead_of_an_end_reaches_a_client_that_reads_late() {
    const COUNT: usize = 8_000;
    for dies in [false, true] {
        let (streams, service) = told();
        let server = start(Server::new(), service);
        let mut client = server.get("/");
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        for n in 0..COUNT {
            stream.send(data(numbered(n))).unwrap();
        }
        if dies {
            stream.send(Err("it died".into())).unwrap();
        }
        drop(stream);
        let sent: String = (0..COUNT).map(numbered).collect();
        client.head();
        let (seen, end) = client.rest();
        assert!(
            seen == sent.as_bytes(),
            "{} of {} bytes",
            seen.len(),
            sent.len()
        );
        assert_eq!(end, if dies { End::Broken } else { End::Clean });
    }
}
