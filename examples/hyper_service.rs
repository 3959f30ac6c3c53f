//! The whole stack on plain hyper, with the peer's address set by the accept loop.
//!
//! ```text
//! cargo run --example hyper_service
//! curl -Ni http://127.0.0.1:3000/
//! ```
//!
//! An event comes each 20 s and a heartbeat after each 5 s of silence. A third curl at the same
//! time gets a 429.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sse_guard::SseGuardLayer;
use sse_guard::client_key::PeerAddr;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Made once: clones share counts and limits.
    let guard = SseGuardLayer::new()
        .limit(ConnectionLimitLayer::new().per_client(2))
        .heartbeat(HeartbeatLayer::new(Duration::from_secs(5)));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (socket, peer) = listener.accept().await?;
        let service = ServiceBuilder::new()
            // Outside the stack, which is to find it.
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr::from(peer));
                request
            })
            .layer(guard.clone())
            .service_fn(ticks);
        tokio::spawn(async move {
            let served = http1::Builder::new()
                .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
                .await;
            if let Err(error) = served {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn ticks(
    _: Request<Incoming>,
) -> http::Result<Response<impl Body<Data = Bytes, Error = Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(20))).enumerate();
    let events = ticks.map(|(n, _)| format!("id: {n}\ndata: tick\n\n").into());
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(StreamBody::new(events.map(|event| Ok(Frame::data(event)))))
}
