//! The library's server on real sockets, with an axum app and with a plain service.

#![cfg(all(feature = "axum", feature = "serve"))]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

#[path = "../support/client.rs"]
mod client;
#[cfg(feature = "http2")]
#[path = "../support/http2.rs"]
mod http2_client;
#[path = "../support/server.rs"]
mod server;

#[cfg(feature = "http2")]
mod http2;
mod requests;
mod stall;
mod stop;
#[cfg(feature = "tls")]
mod tls;

use bytes::Bytes;
use client::{Client, End, PATIENCE};
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use sse_guard::BoxError;
use sse_guard::client_key::PeerAddr;
use sse_guard::serve::{RequestBody, Server};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, channel};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::{Service, service_fn};

type Body = UnsyncBoxBody<Bytes, BoxError>;
type Piece = Result<Frame<Bytes>, BoxError>;

/// Servers whose connections run on the current runtime, and on threads.
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
        "/fails" => return Err("no response".into()),
        _ => full("text/plain", "plain"),
    })
}

/// Reads a response of known length.
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

/// A service whose streams the test controls; the head of `/late` waits for the first piece.
fn controlled() -> (
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

fn numbered(n: usize) -> String {
    format!("id: {n}\ndata: {}\n\n", "x".repeat(1_000))
}
