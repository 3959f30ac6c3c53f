//! The admin address: metrics, health, the table of live streams, and commands.
//!
//! | path | |
//! | --- | --- |
//! | `GET /` | the dashboard, in a browser |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 as long as the process answers |
//! | `GET /readyz` | 200 if new streams are welcome, else 503; the JSON lists each part, route and upstream with its state |
//! | `GET /api/summary` | numbers of now |
//! | `GET /api/history` | numbers of each of the last 900 seconds |
//! | `GET /api/streams` | live streams: filter, sort, page |
//! | `GET /api/streams/{id}` | one of them |
//! | `DELETE /api/streams/{id}` | ends it, with a `retry:` line; breaks off an answer in pieces |
//! | `GET /api/ends` | streams that have ended, the latest first |
//! | `POST /api/send` | puts an event into live streams |
//! | `POST /api/drain` | stops the proxy as SIGTERM does |
//! | `POST /api/reload` | reads the config again, as SIGHUP does |
//! | `GET /api/config` | the effective values and where it was set, without secrets |
//! | `GET /api/live` | an event stream: a summary each second, and each end |
//!
//! Everything except the dashboard's page and the health checks requires the token, if one is set.

mod access;
mod config;
mod ended;
mod error;
mod exporter;
mod filter;
mod heads;
mod health;
mod history;
mod live;
mod page;
mod send;
mod server;
mod streams;
mod summary;
mod time;

pub(super) use exporter::Exporter;
pub(super) use server::AdminServer;

use super::control::Command;
use super::state::ProxyState;
use axum::routing::{get, post};
use history::History;
use sse_guard::StreamRegistry;
use sse_guard::internal::LogLimits;
use sse_guard::internal::{CloseReason, ConnectionRegistry};
use sse_guard::metrics::LogLimit;
use sse_guard::serve::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// For connections to a listener that is given up.
const OLD_CONNECTIONS_GRACE: Duration = Duration::from_secs(2);

/// Above it the oldest of those that serve no request are closed, or else the newcomer. With few files
/// it is a part of these.
const MAX_CONNECTIONS: usize = 64;
/// Except for this many, which may be about to send one.
const MIN_IDLE: usize = 8;
/// A client that takes nothing for this long is reset.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// State that the admin address serves and changes.
pub(super) struct Admin {
    state: Arc<ProxyState>,
    exporter: Exporter,
    history: History,
    started: Instant,
    commands: mpsc::Sender<Command>,
    /// Programs use the API, too: each of many events is sent by a request.
    log_limits: LogLimits<LoggedAction>,
    /// The summary of each second, for all live feeds.
    summaries: watch::Sender<Arc<str>>,
}

type SharedAdmin = Arc<Admin>;

/// Limits of the log lines about admin requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoggedAction {
    Send,
    End,
}

impl Admin {
    /// `commands` takes those of the operator.
    pub(super) fn new(
        state: Arc<ProxyState>,
        exporter: Exporter,
        commands: mpsc::Sender<Command>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state,
            exporter,
            history: History::default(),
            started: Instant::now(),
            commands,
            log_limits: LogLimits::new(LogLimit::per_kind),
            summaries: watch::Sender::new(Arc::from("")),
        })
    }

    /// Serves until `stop`, and gives connections a moment to end then.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        super::fd_limit::keep_some();
        let server = Server::new().response_stall(WRITE_STALL);
        let most = super::fd_limit::for_admin(MAX_CONNECTIONS);
        let connections = ConnectionRegistry::new(most, MIN_IDLE.min(most / 2), CloseReason::Total);
        let served = server.serve_in(&connections, listener, self.app(), stop.cancelled());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(OLD_CONNECTIONS_GRACE).await;
        };
        tokio::select! {
            result = served => if let Err(error) = result {
                tracing::error!(%error, "the admin address stopped serving");
            },
            () = late => {}
        }
    }

    /// Keeps the history. To be called each second.
    pub(super) fn second(&self) {
        self.history.note(&self.state.carryover.snapshot());
        if self.summaries.receiver_count() > 0 {
            let summary = summary::of(self).to_string();
            self.summaries.send_replace(summary.into());
        }
        self.exporter.tidy();
    }

    fn streams(&self) -> &StreamRegistry {
        &self.state.carryover.drain
    }

    fn app(self: &Arc<Self>) -> axum::Router {
        let guarded = axum::Router::new()
            .route("/metrics", get(exporter::metrics))
            .route("/api/summary", get(summary::summary))
            .route("/api/history", get(history::history))
            .route("/api/streams", get(streams::list))
            .route("/api/streams/{id}", get(streams::one).delete(streams::end))
            .route("/api/ends", get(ended::ends))
            .route("/api/send", post(send::send))
            .route("/api/drain", post(health::drain))
            .route("/api/reload", post(config::reload))
            .route("/api/config", get(config::config))
            .route("/api/live", get(live::live).layer(live::guard()))
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                access::authorize,
            ));
        axum::Router::new()
            .route("/", get(page::page))
            .route("/assets/{name}", get(page::asset))
            .route("/healthz", get(health::healthz))
            .route("/readyz", get(health::readyz))
            .merge(guarded)
            .fallback(error::unknown)
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                access::same_site,
            ))
            .layer(axum::middleware::from_fn(access::valid))
            .with_state(self.clone())
    }
}
