//! The whole stack over an axum app: heartbeats, limits, and a shutdown that no client takes for
//! a failure.
//!
//! ```text
//! cargo run --example axum_app --features axum
//! curl -N -H 'accept: text/event-stream' http://127.0.0.1:3000/ticks
//! curl http://127.0.0.1:3000/
//! ```
//!
//! An event comes each 20 s and a heartbeat after each 5 s of silence. Press ctrl-c here: curl, which
//! accepts an event stream as an `EventSource` does, gets a last `retry:` line and a proper end within 3 s, then the server is gone.

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::{Stream, StreamExt};
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::heartbeat::HeartbeatLayer;
use sse_guard::rotation::RotationLayer;
use sse_guard::{SseGuardLayer, StreamRegistry};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = StreamRegistry::new();
    let guard = SseGuardLayer::new()
        // Clients connect directly here, so their peer address identifies them.
        .limit(ConnectionLimitLayer::new())
        .heartbeat(HeartbeatLayer::new(Duration::from_secs(5)))
        .rotation(
            RotationLayer::new()
                .max_age(Duration::from_secs(3600), 0.1)
                .registry(&registry),
        );
    let app = Router::new()
        .route("/ticks", get(ticks))
        .route("/", get(|| async { "The ticks are at /ticks.\n" }))
        .layer(guard);

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    // The peer's address is what the limit counts clients by.
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(asked_to_go(registry))
    .await?;
    Ok(())
}

// No `keep_alive` of axum's: the stack fills the silences.
async fn ticks() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(20))).enumerate();
    Sse::new(ticks.map(|(n, _)| Ok(Event::default().id(n.to_string()).data("tick"))))
}

/// Until the drain's window is over: streams end over it, clients that come back meanwhile are put off
/// until after it, and other requests are served. Axum then takes no new connections and waits for the
/// open ones.
async fn asked_to_go(registry: StreamRegistry) {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("cannot listen for ctrl-c, so shutting down: {error}");
    }
    registry.drain(Duration::from_secs(3));
    registry.window_over().await;
}
