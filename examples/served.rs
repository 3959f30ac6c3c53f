//! An axum app on the crate's own server: quiet streams without buffers, a client that stops
//! reading is reset, and a shutdown that no client takes for a failure.
//!
//! ```text
//! cargo run --example served --features axum,serve
//! curl -N -H 'accept: text/event-stream' http://127.0.0.1:3000/ticks
//! curl -N http://127.0.0.1:3000/flood | sleep 60
//! ```
//!
//! The second curl stops reading: after 10 s the server says that it has reset it. Press ctrl-c here:
//! the first gets a last `retry:` line and a proper end within 3 s, then the server is gone.

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::{Stream, StreamExt, stream};
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::serve::Server;
use sse_guard::{SseGuardLayer, StreamRegistry};
use std::convert::Infallible;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The stack logs how each stream ended.
    tracing_subscriber::fmt().init();
    let registry = StreamRegistry::new();
    let guard = SseGuardLayer::new()
        // Counts clients by the peer's address, which each request of the server carries.
        .limit(ConnectionLimitLayer::new())
        .registry(&registry);
    let app = Router::new()
        .route("/ticks", get(ticks))
        .route("/flood", get(flood))
        .layer(guard);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    tokio::spawn({
        let registry = registry.clone();
        async move {
            if let Err(error) = tokio::signal::ctrl_c().await {
                eprintln!("cannot listen for ctrl-c, so shutting down: {error}");
            }
            registry.drain(Duration::from_secs(3));
        }
    });
    Server::new()
        .threads(available_parallelism()?)
        .write_stall(Duration::from_secs(10))
        .serve_until_drained(listener, app, &registry)
        .await?;
    Ok(())
}

async fn ticks() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(20))).enumerate();
    Sse::new(ticks.map(|(n, _)| Ok(Event::default().id(n.to_string()).data("tick"))))
}

async fn flood() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::repeat_with(|| Ok(Event::default().data("drop"))))
}
