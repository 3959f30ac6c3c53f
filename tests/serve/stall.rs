//! Clients that read slowly, or do not read.

use super::*;
use crate::client::{Gone, wait_until};
use crate::server::{Running, start};
use sse_guard::{EndReason, SseGuardLayer, Stream};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use tower::ServiceBuilder;

const STALL: Duration = Duration::from_millis(200);

/// Events without end, each with its number, until `is_over` is set.
fn endless(is_over: Arc<AtomicBool>) -> impl futures_util::Stream<Item = Piece> + Send {
    stream::unfold((0, is_over), |(n, is_over)| async move {
        let goes_on = !is_over.load(SeqCst);
        goes_on.then(|| (data(numbered(n)), (n + 1, is_over)))
    })
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
fn stalled_stream_is_reset_after_write_stall() {
    let is_over = Arc::default();
    let (server, streams) = flood(STALL, None, &is_over);
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut client = server.send_request(&format!("GET / {version}\r\nHost: x\r\n\r\n"));
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        wait_until("the end", || stream.end_reason().is_some());
        assert_eq!(stream.end_reason(), Some(EndReason::ClientStalled));
        let (seen, gone) = client.raw_and_end();
        assert_eq!(gone, Gone::Reset);
        assert!(!seen.is_empty());
    }
}

#[test]
fn stalled_download_is_reset_after_response_stall() {
    let is_over = Arc::default();
    let (server, _streams) = flood(STALL, Some(STALL), &is_over);
    let unused = Arc::strong_count(&is_over);
    let mut client = server.get("/download");
    wait_until("the start", || Arc::strong_count(&is_over) > unused);
    wait_until("the end", || Arc::strong_count(&is_over) == unused);
    assert_eq!(client.raw_and_end().1, Gone::Reset);
}

#[test]
fn download_may_pause_for_longer_than_write_stall_and_user_timeout() {
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
fn trickling_client_is_stalled() {
    let server = Server::new()
        .notsent_lowat(1_024)
        .write_stall(Duration::from_secs(1));
    let large = format!("data: {}\n\n", "x".repeat(200_000));
    let pieces = stream::repeat_with(move || data(large.clone()));
    let (server, streams) = streaming(server, move || pieces.clone());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // With this little unsent data the kernel reports free space whenever the client has taken a few bytes.
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
fn slow_client_gets_every_event() {
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
    // Its connection stays open.
    client.send(&request("GET", "/", ""));
    client.head();
    assert_eq!(client.rest(), (Vec::new(), End::Clean));
}
