//! One layer alone: heartbeats as events, for client code that watches for them.
//!
//! ```text
//! cargo run --example one_layer
//! curl -N http://127.0.0.1:3000/
//! ```
//!
//! The answer takes 12 s. Meanwhile an event named `ping` comes at once and each 5 s, which a
//! browser sees by `source.addEventListener("ping", ..)`.

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use sse_guard::Event;
use sse_guard::heartbeat::{HeartbeatLayer, HeartbeatStyle};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = ServiceBuilder::new()
        .layer(
            HeartbeatLayer::new(Duration::from_secs(5))
                .style(HeartbeatStyle::event(&Event::new("ping", "{}")?))
                .immediate(true),
        )
        .service_fn(slow_answer);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Router::new().route_service("/", service)).await?;
    Ok(())
}

async fn slow_answer(
    _: Request,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let answer = stream::once(async {
        sleep(Duration::from_secs(12)).await;
        Ok(Frame::data(Bytes::from_static(b"data: 42\n\n")))
    });
    let mut response = Response::new(StreamBody::new(answer));
    let event_stream = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", event_stream);
    Ok(response)
}
