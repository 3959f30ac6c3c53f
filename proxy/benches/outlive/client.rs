//! A client that believes nothing.

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::net::TcpStream;

/// Numbers that have to come one after the other, on one connection.
pub(crate) struct Numbers {
    body: Incoming,
    rest: String,
    /// The id of the event under way.
    id: Option<u64>,
    seen: u64,
    heartbeats: u64,
}

impl Numbers {
    pub(crate) async fn connect(proxy: SocketAddr) -> Self {
        let socket = TcpStream::connect(proxy).await.unwrap();
        let io = TokioIo::new(socket);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/")
            .header("host", "proxy.test")
            .header("accept", "text/event-stream")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            rest: String::new(),
            id: None,
            seen: 0,
            heartbeats: 0,
        }
    }

    /// Reads to `last`; tells how many heartbeats there were.
    pub(crate) async fn read(mut self, last: u64, delivered: Arc<AtomicU64>) -> u64 {
        while self.seen < last {
            let frame = self.body.frame().await;
            let frame = frame.unwrap_or_else(|| panic!("ended behind {}", self.seen));
            let data = frame.unwrap().into_data().unwrap();
            let before = self.seen;
            self.take(std::str::from_utf8(&data).unwrap());
            delivered.fetch_add(self.seen - before, Relaxed);
        }
        self.heartbeats
    }

    fn take(&mut self, text: &str) {
        self.rest.push_str(text);
        let rest = std::mem::take(&mut self.rest);
        for line in rest.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => self.line(line),
                None => self.rest = line.to_owned(),
            }
        }
    }

    fn line(&mut self, line: &str) {
        let number = |text: &str| -> u64 { text.parse().unwrap() };
        match line.split_once(": ") {
            Some(("", "heartbeat")) => self.heartbeats += 1,
            Some(("id", id)) => assert_eq!(self.id.replace(number(id)), None),
            Some(("data", data)) => assert_eq!(self.id, Some(number(data))),
            None if line.is_empty() => {
                assert_eq!(self.id.take(), Some(self.seen + 1), "not in order");
                self.seen += 1;
            }
            _ => panic!("{line:?} is none of the upstream's lines"),
        }
    }
}
