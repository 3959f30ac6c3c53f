//! Limits by account: clients that show a known API key are counted by whose it is, all others by
//! their address.
//!
//! ```text
//! cargo run --example custom_key --features axum
//! for n in 1 2 3; do
//!     curl -sm 3 -o /dev/null -w '%{http_code}\n' -H 'x-api-key: k-123' http://127.0.0.1:3000/ &
//! done; wait
//! ```
//!
//! That prints 429 once and 200 twice: two streams an account. With `k-456` in the third one it is
//! still a stream too many, since both keys are acme's. Without a key it is the address that counts.

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use futures_util::{Stream, StreamExt};
use http::Request;
use sse_guard::client_key::{ClientKey, KeyExtractor, PeerIp};
use sse_guard::connection_limit::ConnectionLimitLayer;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;

#[derive(Clone)]
struct ByApiKey {
    /// Whose key it is. The account, not the key, is what tables and logs get to see.
    accounts: Arc<HashMap<&'static str, Arc<str>>>,
    by_ip: PeerIp,
}

impl KeyExtractor for ByApiKey {
    fn key<B>(&self, request: &Request<B>) -> Option<ClientKey> {
        let shown = request.headers().get("x-api-key");
        // A key that nobody has is no key: made-up ones would be a limit each.
        let account = shown.and_then(|key| self.accounts.get(key.to_str().ok()?));
        match account {
            Some(account) => Some(ClientKey::Name(account.clone())),
            None => self.by_ip.key(request),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let acme = Arc::<str>::from("acme");
    let by_key = ByApiKey {
        accounts: Arc::new(HashMap::from([("k-123", acme.clone()), ("k-456", acme)])),
        by_ip: PeerIp::new(),
    };
    let app = Router::new()
        .route("/", get(ticks))
        .layer(ConnectionLimitLayer::with_extractor(by_key).per_client(2));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(
        listener,
        app.into_make_service_with_connect_info::<SocketAddr>(),
    )
    .await?;
    Ok(())
}

async fn ticks() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(1)));
    Sse::new(ticks.map(|_| Ok(Event::default().data("tick"))))
}
