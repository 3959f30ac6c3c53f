//! The origin server: raw HTTP/1.1 over tokio, so that it costs much less than what it measures.
//!
//! | path | answer |
//! | --- | --- |
//! | `/idle` | one event, then silence |
//! | `/tick?interval_ms=&size=` | an event each interval, numbered per connection |
//! | `/burst?events=&size=&chunk=` | so many events (0: without end) as fast as the reader takes them |
//! | `/hold` | none, until the connection ends |
//! | `/plain` | a short text |
//! | `/stats` | counters as JSON |
//!
//! A connection that begins as HTTP/2 by prior knowledge has `/idle` and `/tick`.
//!
//! Streams go out chunked. An event is one chunk and one write, but for `/burst`, whose writes are 64 KiB
//! and whose chunks are `chunk` bytes wherever events end, or one event each with `chunk=0`.

mod http2;

use crate::clock::now_ns;
use crate::event::{self, Stamp};
use crate::listen;
use crate::procfs::Tree;
use anyhow::Result;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddrV4;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

const MAX_HEAD: usize = 32 << 10;
const WRITE: usize = 64 << 10;

/// Counters of the whole server.
#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    open_connections: AtomicU64,
    open_streams: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
}

/// Counts one up for as long as it lives.
struct Up<'a>(&'a AtomicU64);

impl<'a> Up<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Serves until the process is ended.
pub async fn serve(address: SocketAddrV4) -> Result<()> {
    let listener = listen(address)?;
    println!("origin on {}", listener.local_addr()?);
    let counters = Arc::new(Counters::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let number = counters.accepted.fetch_add(1, Relaxed);
                let counters = counters.clone();
                tokio::spawn(async move {
                    let _open = Up::new(&counters.open_connections);
                    let _ = stream.set_nodelay(true);
                    let mut first = [0; 3];
                    // An error here is the peer's going away: nothing to tell.
                    if matches!(stream.peek(&mut first).await, Ok(3)) && &first == b"PRI" {
                        let _ = http2::serve(&counters, stream).await;
                        return;
                    }
                    let _ = Connection { counters: &counters, stream, number, input: Vec::new() }.run().await;
                });
            }
            // Out of files: wait for some to come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// What of a request matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    path: String,
    query: String,
    close: bool,
}

/// Parses the head of a request, which has no body; `None` while incomplete, else the request and the
/// head's length.
fn parse_request(input: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(input).map_err(io::Error::other)? else { return Ok(None) };
    if head.version != Some(1) || head.method != Some("GET") {
        return Err(io::Error::other("only GET by HTTP/1.1"));
    }
    let (path, query) = head.path.map_or(("/", ""), |target| target.split_once('?').unwrap_or((target, "")));
    let close = head.headers.iter().any(|h| {
        h.name.eq_ignore_ascii_case("connection") && h.value.to_ascii_lowercase().windows(5).any(|w| w == b"close")
    });
    Ok(Some((Request { path: path.to_owned(), query: query.to_owned(), close }, length)))
}

/// A number of the query string, without any percent-decoding.
fn param<T: FromStr>(request: &Request, key: &str, default: T) -> T {
    let mut pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(k, _)| *k == key).and_then(|(_, v)| v.parse().ok()).unwrap_or(default)
}

/// Appends `data` as one chunk.
fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    use io::Write;
    write!(out, "{:x}\r\n", data.len()).expect("writing to memory");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

struct Connection<'a> {
    counters: &'a Counters,
    stream: TcpStream,
    /// How many were accepted before it.
    number: u64,
    /// Received, and not yet used.
    input: Vec<u8>,
}

impl Connection<'_> {
    async fn run(mut self) -> io::Result<()> {
        while let Some(request) = self.request().await? {
            match request.path.as_str() {
                "/idle" | "/tick" | "/burst" => {
                    let _open = Up::new(&self.counters.open_streams);
                    let out = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                        Transfer-Encoding: chunked\r\n\r\n"
                        .to_vec();
                    match request.path.as_str() {
                        "/idle" => self.idle(out).await?,
                        "/tick" => self.tick(&request, out).await?,
                        _ => self.burst(&request, out).await?,
                    }
                    self.write(b"0\r\n\r\n").await?;
                }
                "/hold" => {
                    let _open = Up::new(&self.counters.open_streams);
                    self.unless_gone(std::future::pending::<()>()).await?;
                }
                "/plain" => self.whole("200 OK", "plain\n").await?,
                "/stats" => self.whole("200 OK", &format!("{}\n", self.stats())).await?,
                _ => self.whole("404 Not Found", "not found\n").await?,
            }
            if request.close {
                break;
            }
        }
        Ok(())
    }

    /// Reads one request; `None` at the end of the connection.
    async fn request(&mut self) -> io::Result<Option<Request>> {
        let (request, length) = loop {
            match parse_request(&self.input)? {
                Some(found) => break found,
                None if self.input.len() > MAX_HEAD => return Err(io::Error::other("request head too long")),
                None if self.more().await? == 0 => return Ok(None),
                None => {}
            }
        };
        self.input.drain(..length);
        if self.input.is_empty() {
            // Idle streams should not hold on to it.
            self.input = Vec::new();
        }
        Ok(Some(request))
    }

    async fn more(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 4096];
        let n = self.stream.read(&mut buffer).await?;
        self.input.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    fn stats(&self) -> serde_json::Value {
        let c = self.counters;
        serde_json::json!({
            "cpu_s": Tree(std::process::id()).cpu().unwrap_or(0.0),
            "open_connections": c.open_connections.load(Relaxed),
            "open_streams": c.open_streams.load(Relaxed),
            "events": c.events.load(Relaxed),
            "bytes": c.bytes.load(Relaxed),
        })
    }

    /// A response with its length.
    async fn whole(&mut self, status: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let out = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}");
        self.write(out.as_bytes()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.counters.bytes.fetch_add(bytes.len() as u64, Relaxed);
        Ok(())
    }

    /// Waits for `until`, or for the peer to go away, which is an error.
    async fn unless_gone<T>(&mut self, until: impl Future<Output = T>) -> io::Result<T> {
        let mut until = pin!(until);
        loop {
            let stream = &self.stream;
            // `until` first, so that a ready event never waits for the reading side.
            let value = poll_fn(|cx| match until.as_mut().poll(cx) {
                Poll::Ready(value) => Poll::Ready(Ok(Some(value))),
                Poll::Pending => stream.poll_read_ready(cx).map_ok(|()| None),
            })
            .await?;
            if let Some(value) = value {
                return Ok(value);
            }
            let mut buffer = [0; 256];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(n) if self.input.len() + n <= MAX_HEAD => self.input.extend_from_slice(&buffer[..n]),
                Ok(_) => return Err(io::Error::other("too much sent ahead")),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends `out`, which holds `events` events, and empties it.
    async fn send(&mut self, out: &mut Vec<u8>, events: u64) -> io::Result<()> {
        self.write(out).await?;
        out.clear();
        self.counters.events.fetch_add(events, Relaxed);
        Ok(())
    }

    async fn idle(&mut self, mut out: Vec<u8>) -> io::Result<()> {
        push_event(&mut out, &mut Vec::new(), Stamp { seq: 0, t: now_ns() }, 0);
        self.send(&mut out, 1).await?;
        drop(out);
        self.unless_gone(std::future::pending()).await
    }

    async fn tick(&mut self, request: &Request, mut out: Vec<u8>) -> io::Result<()> {
        let every = Duration::from_secs_f64(param(request, "interval_ms", 1000.0_f64).clamp(0.1, 1e9) / 1e3);
        let size = param(request, "size", 200);
        let mut clock = interval_at(Instant::now() + tick_phase(every, self.number), every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut plain = Vec::new();
        for seq in 0.. {
            // The first event goes out at once, with the head.
            if seq > 0 {
                self.unless_gone(clock.tick()).await?;
            }
            push_event(&mut out, &mut plain, Stamp { seq, t: now_ns() }, size);
            self.send(&mut out, 1).await?;
        }
        Ok(())
    }

    async fn burst(&mut self, request: &Request, mut out: Vec<u8>) -> io::Result<()> {
        let size = param(request, "size", 200);
        let chunk = NonZeroUsize::new(param(request, "chunk", 0));
        let events = match param(request, "events", 1000_u64) {
            0 => u64::MAX,
            n => n,
        };
        let mut plain = Vec::new();
        let (mut seq, mut t, mut sent) = (0, now_ns(), 0);
        while seq < events {
            let stamp = Stamp { seq, t };
            seq += 1;
            match chunk {
                Some(chunk) => {
                    event::encode(&mut plain, stamp, size);
                    let whole = plain.len() / chunk * chunk.get();
                    plain[..whole].chunks(chunk.get()).for_each(|c| push_chunk(&mut out, c));
                    plain.drain(..whole);
                }
                None => push_event(&mut out, &mut plain, stamp, size),
            }
            if out.len() >= WRITE {
                self.send(&mut out, seq - sent).await?;
                (sent, t) = (seq, now_ns());
            }
        }
        if !plain.is_empty() {
            push_chunk(&mut out, &plain);
        }
        self.send(&mut out, seq - sent).await
    }
}

/// When the first tick is: streams that open together must not tick together. They are spread by the golden ratio.
fn tick_phase(every: Duration, number: u64) -> Duration {
    every.mul_f64((number as f64 * 0.618_033_988_75).fract())
}

/// Appends one event as one chunk; `plain` is scratch space.
fn push_event(out: &mut Vec<u8>, plain: &mut Vec<u8>, stamp: Stamp, size: usize) {
    plain.clear();
    event::encode(plain, stamp, size);
    push_chunk(out, plain);
    plain.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let input = b"GET /tick?interval_ms=1.5&size=3 HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\nGET";
        let (request, length) = parse_request(input).unwrap().unwrap();
        assert_eq!((request.path.as_str(), request.close, length), ("/tick", true, input.len() - 3));
        assert_eq!(param(&request, "interval_ms", 20.0), 1.5);
        assert_eq!(param(&request, "none", 7_u64), 7);
        for cut in 0..length {
            assert!(parse_request(&input[..cut]).unwrap().is_none());
        }
        for bad in ["\0\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"] {
            assert!(parse_request(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn chunks() {
        let mut out = Vec::new();
        push_chunk(&mut out, &[b'x'; 26]);
        assert_eq!(out, [b"1a\r\n".as_slice(), &[b'x'; 26], b"\r\n"].concat());
    }
}
