//! Connections of the load generator.

use crate::report::Report;
use crate::wire::{Response, WireError};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// Why a connection was of no use.
#[derive(Debug)]
pub enum Failure {
    /// Refused, no port left, ...
    Connect(io::Error),
    /// Nothing came in time.
    Timeout,
    /// A status other than 200.
    Status(u16),
    /// A 200 with something else than an event stream.
    NotEvents(String),
    /// The connection broke.
    Io(io::Error),
    /// The answer was no valid HTTP or ended before its end.
    Protocol(WireError),
    /// The TLS handshake failed.
    Tls(io::Error),
    /// The stream or connection of HTTP/2 failed.
    Http2(h2::Error),
    /// A proper end where more was due.
    Ended,
}

impl Failure {
    /// A short name to count it under.
    pub fn key(&self) -> String {
        match self {
            Self::Connect(e) => format!("connect: {}", e.kind()),
            Self::Timeout => "timeout".into(),
            Self::Status(s) => format!("status {s}"),
            Self::NotEvents(kind) => format!("content-type {kind:?}"),
            Self::Io(e) => format!("io: {}", e.kind()),
            Self::Protocol(e) => format!("protocol: {e}"),
            Self::Tls(e) => format!("tls: {e}"),
            Self::Http2(e) => format!("http2: {e}"),
            Self::Ended => "ended".into(),
        }
    }
}

impl From<WireError> for Failure {
    fn from(e: WireError) -> Self {
        Self::Protocol(e)
    }
}

/// How often each failure was seen.
#[derive(Debug, Default, Clone)]
pub struct Failures(BTreeMap<String, u64>);

impl Failures {
    /// Counts one.
    pub fn add(&mut self, failure: &Failure) {
        *self.0.entry(failure.key()).or_default() += 1;
    }

    /// Counts those of another, too.
    pub fn merge(&mut self, other: &Self) {
        for (key, n) in &other.0 {
            *self.0.entry(key.clone()).or_default() += n;
        }
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Writes how many, and why if there are any.
    pub fn report(&self, key: &str, report: &mut Report) {
        report.set(key, self.total());
        if self.total() > 0 {
            report.set(&format!("{key}_why"), serde_json::json!(self.0));
        }
    }
}

/// Opens connections to one server, each from the next of a range of source addresses.
#[derive(Debug, Clone, Copy)]
pub struct Dialer {
    /// The server.
    pub addr: SocketAddrV4,
    /// Size of the receive buffer, if not the kernel's default.
    pub receive_buffer: Option<u32>,
}

/// Source addresses, from 127.0.0.2 up, to have enough ports.
const SOURCES: usize = 64;

impl Dialer {
    /// Opens connection number `i`.
    pub async fn dial(&self, i: usize) -> Result<TcpStream, Failure> {
        let socket = TcpSocket::new_v4().map_err(Failure::Connect)?;
        if let Some(size) = self.receive_buffer {
            socket.set_recv_buffer_size(size).map_err(Failure::Connect)?;
        }
        let source = Ipv4Addr::new(127, 0, 0, 2 + (i % SOURCES) as u8);
        socket.bind(SocketAddr::from((source, 0))).map_err(Failure::Connect)?;
        let stream = socket.connect(SocketAddr::V4(self.addr)).await.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        Ok(stream)
    }
}

/// A GET request for an event stream.
pub fn get(addr: SocketAddrV4, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: text/event-stream\r\nUser-Agent: sseload\r\n\r\n")
        .into_bytes()
}

/// Runs `work`, for so long at most.
pub async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Failure::Timeout))
}

/// Sends a request and reads the whole answer: its status and body.
pub async fn fetch(addr: SocketAddrV4, request: &[u8]) -> Result<(u16, Vec<u8>)> {
    let work = async {
        let mut tcp = TcpStream::connect(SocketAddr::V4(addr)).await.with_context(|| addr.to_string())?;
        tcp.write_all(request).await?;
        let mut response = Response::default();
        let mut body = Vec::new();
        let mut buffer = [0; 4096];
        while !response.done() {
            let n = tokio::io::AsyncReadExt::read(&mut tcp, &mut buffer).await?;
            if n == 0 {
                response.at_eof()?;
                break;
            }
            response.feed(&buffer[..n], &mut |b| {
                body.extend_from_slice(b);
                Ok(())
            })?;
            ensure!(body.len() < 1 << 20, "answer too long");
        }
        Ok((response.status().context("no answer")?, body))
    };
    tokio::time::timeout(Duration::from_secs(10), work).await.context("no answer in 10 s")?
}

/// Counters of the origin, by `/stats`.
#[derive(Debug, Clone, Copy)]
pub struct OriginStats {
    /// Event streams being served.
    pub open_streams: i64,
    /// TCP connections, idle ones included.
    pub open_connections: i64,
    /// Events sent.
    pub events: i64,
    /// Bytes sent.
    pub bytes: i64,
    /// CPU time of the origin.
    pub cpu_s: f64,
}

impl OriginStats {
    /// Asks the origin.
    pub async fn get(addr: SocketAddrV4) -> Result<Self> {
        let request = format!("GET /stats HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        let (status, body) = fetch(addr, request.as_bytes()).await?;
        ensure!(status == 200, "/stats: status {status}");
        Self::parse(&body)
    }

    fn parse(body: &[u8]) -> Result<Self> {
        let json: serde_json::Value = serde_json::from_slice(body).context("/stats")?;
        let int = |key: &str| json[key].as_i64().with_context(|| format!("/stats: no {key}"));
        Ok(Self {
            open_streams: int("open_streams")?,
            open_connections: int("open_connections")?,
            events: int("events")?,
            bytes: int("bytes")?,
            cpu_s: json["cpu_s"].as_f64().context("/stats: no cpu_s")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats() {
        let body = br#"{"open_streams":3,"open_connections":4,"events":5,"bytes":6,"cpu_s":0.5}"#;
        let stats = OriginStats::parse(body).unwrap();
        assert_eq!((stats.open_streams, stats.open_connections, stats.events, stats.bytes), (3, 4, 5, 6));
        assert!(OriginStats::parse(b"{}").is_err());
        assert!(OriginStats::parse(b"x").is_err());
    }
}
