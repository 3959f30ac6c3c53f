//! A connection to an upstream that sends frames by hand, on paused time.

use super::connection::{SharedConnection, Slot};
use super::exchange::{SendOptions, exchange};
use super::*;
use crate::config::Http2Mode;
use crate::upstream::outgoing::{Outgoing, nothing};
use http::Request;
use http::uri::Scheme;
use http_body_util::BodyExt;
use sse_guard::UpstreamFault;
use sse_guard::internal::Upload;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// The head of an event stream on stream 1, without fields.
const HEAD: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x01\x88";
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

fn options() -> Http2Options {
    Http2Options {
        mode: Http2Mode::On,
        max_streams: 10,
        ping: Some(Duration::from_secs(30)),
        max_head: 8192,
    }
}

/// A connection, the task that drives it, and the upstream's side, which has read the client's preface.
async fn connect() -> (Arc<SharedConnection>, JoinHandle<()>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap());
    let (ours, theirs) = tokio::join!(ours, listener.accept());
    let mut theirs = theirs.unwrap().0;
    theirs.write_all(SETTINGS).await.unwrap();
    let handshake = Handshake::new(ours.unwrap().into(), options(), None).await;
    let (connection, drive) = SharedConnection::start(handshake.unwrap(), IDLE_TIMEOUT);
    theirs.read_exact(&mut [0; 24]).await.unwrap();
    (connection, tokio::spawn(drive), theirs)
}

async fn get(slot: Slot) -> http::Response<crate::upstream::UpstreamBody> {
    let mut request = Request::new(nothing());
    *request.uri_mut() = http::Uri::from_static("/");
    let upload = Upload::default();
    let options = SendOptions {
        upload: &upload,
        scheme: &Scheme::HTTP,
        max_head: 8192,
    };
    let result = exchange(slot, Outgoing::new(request), options).await;
    result.map_err(|failed| failed.error).unwrap()
}

/// Reads frames, and answers the first request. Returns the time of the connection's end.
async fn read_frames(socket: TcpStream) -> Instant {
    answer_pings(socket, None).await
}

/// The same; answers PINGs and counts them, if there is a count.
async fn answer_pings(mut socket: TcpStream, pings: Option<Arc<AtomicUsize>>) -> Instant {
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return Instant::now();
        }
        let len = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        socket.read_exact(&mut payload).await.unwrap();
        match (head[3], head[4]) {
            (1, _) => socket.write_all(HEAD).await.unwrap(),
            (6, 0) => {
                if let Some(pings) = &pings {
                    pings.fetch_add(1, Relaxed);
                    head[4] = 1;
                    // At once: Nagle's algorithm would hold a second write back.
                    let answer = [&head[..], &payload].concat();
                    socket.write_all(&answer).await.unwrap();
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn upstream_that_does_not_answer_a_ping_loses_its_streams() {
    let (connection, driver, theirs) = connect().await;
    let upstream = tokio::spawn(read_frames(theirs));
    let response = get(connection.slot(IDLE_TIMEOUT).unwrap()).await;
    tokio::time::pause();
    let start = Instant::now();
    let error = response.into_body().collect().await.unwrap_err();
    // The little that had passed when the clock stopped is not among it.
    assert!((45..=50).contains(&start.elapsed().as_secs()));
    let kind = error.downcast_ref().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::TimedOut), "{error}");
    assert!(connection.slot(IDLE_TIMEOUT).is_none());
    driver.await.unwrap();
    upstream.await.unwrap();
    assert_eq!(UpstreamFault::TimedOut.as_str(), "timed_out");
}

#[tokio::test]
async fn upstream_that_answers_each_ping_keeps_its_streams() {
    let (connection, _driver, theirs) = connect().await;
    let pings = Arc::<AtomicUsize>::default();
    let _upstream = tokio::spawn(answer_pings(theirs, Some(pings.clone())));
    let response = get(connection.slot(IDLE_TIMEOUT).unwrap()).await;
    tokio::time::pause();
    while pings.load(Relaxed) < 9 {
        tokio::time::advance(Duration::from_secs(5)).await;
        // Time stands still while a task is ready, so that the answer arrives.
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
        assert!(connection.is_open());
    }
    drop(response);
}

#[tokio::test]
async fn connection_closes_when_it_is_idle_and_not_before() {
    let (connection, driver, theirs) = connect().await;
    let upstream = tokio::spawn(read_frames(theirs));
    tokio::time::pause();
    let start = Instant::now();
    for _ in 0..3 {
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
        drop(connection.slot(IDLE_TIMEOUT).unwrap());
    }
    driver.await.unwrap();
    let ended = upstream.await.unwrap() - start;
    assert_eq!(ended.as_secs(), 3 * 30 + 60);
    assert!(connection.slot(IDLE_TIMEOUT).is_none());
}

#[tokio::test]
async fn connection_has_as_many_streams_as_the_options_allow() {
    let (connection, _driver, theirs) = connect().await;
    let _upstream = tokio::spawn(read_frames(theirs));
    let mut slots: Vec<_> = (0..10)
        .map(|_| connection.slot(IDLE_TIMEOUT).unwrap())
        .collect();
    assert!(connection.slot(IDLE_TIMEOUT).is_none());
    slots.pop();
    assert!(connection.slot(IDLE_TIMEOUT).is_some());
}

#[tokio::test]
async fn connection_that_was_idle_for_longer_is_not_for_a_route_with_a_shorter_timeout() {
    let (connection, _driver, theirs) = connect().await;
    let _upstream = tokio::spawn(read_frames(theirs));
    drop(get(connection.slot(IDLE_TIMEOUT).unwrap()).await);
    tokio::time::pause();
    tokio::time::sleep(IDLE_TIMEOUT / 2).await;
    assert!(connection.slot(IDLE_TIMEOUT / 2).is_none());
    assert!(connection.slot(IDLE_TIMEOUT).is_some());
}
