//! The library's server around any service.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use super::client::Client;
use bytes::Bytes;
use http::{Request, Response};
use sse_guard::BoxError;
use sse_guard::serve::{RequestBody, Server};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use tokio::sync::oneshot;
use tower::Service;

/// A server on a thread of its own.
pub struct Running {
    pub addr: SocketAddr,
    pub stop: oneshot::Sender<Stop>,
    pub done: Receiver<()>,
}

#[derive(Debug)]
pub enum Stop {
    /// Waits for what is under way.
    Properly,
    /// Does not.
    Now,
}

pub fn start<S, B>(server: Server, service: S) -> Running
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    let (stop, stops) = oneshot::channel();
    let (addr, done) = on_a_thread(async move |listener| {
        let (word, properly) = oneshot::channel::<()>();
        let word_comes = async {
            if let Ok(Stop::Properly) = stops.await {
                drop(word);
                std::future::pending::<()>().await;
            }
        };
        let properly = async { drop(properly.await) };
        tokio::select! {
            result = server.serve_until(listener, service, properly) => result.unwrap(),
            () = word_comes => {}
        }
    });
    Running { addr, stop, done }
}

/// Runs what serves a listener on a runtime and a thread of its own. The listener's address, and when it is done.
pub fn on_a_thread(
    serve: impl AsyncFnOnce(tokio::net::TcpListener) + Send + 'static,
) -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (is_done, done) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            serve(tokio::net::TcpListener::from_std(listener).unwrap()).await;
        });
        let _ = is_done.send(());
    });
    (addr, done)
}

impl Running {
    pub fn send_request(&self, request: &str) -> Client {
        let mut client = Client::connect(self.addr);
        client.send(request);
        client
    }

    pub fn get(&self, path: &str) -> Client {
        self.send_request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }
}
