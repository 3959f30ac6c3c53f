//! Whether an upstream can be reached: by the requests that go to it, and once these fail, by trying.

use crate::lock::lock;
use crate::proxy::config::host_and_port;
use http::Uri;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Failures in a row that are no accident.
const ENOUGH: u32 = 3;
/// Between two tries.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// After so long one that did not answer is asked again.
const DOUBT: Duration = Duration::from_secs(30);
/// What a try may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of one upstream. A clone is another handle to it.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: Uri,
    state: Mutex<State>,
}

/// How an upstream is.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct State {
    /// Nobody has found out otherwise.
    pub(in crate::proxy) is_reachable: bool,
    pub(in crate::proxy) since: Instant,
    /// Requests that it answered, with whatever status.
    pub(in crate::proxy) answered: u64,
    /// Requests that it did not answer.
    pub(in crate::proxy) failed: u64,
    pub(in crate::proxy) last_failure: Option<String>,
    in_a_row: u32,
    /// It can not be connected to, which is found out without a request.
    is_away: bool,
    tried: Option<Instant>,
}

impl Health {
    pub(in crate::proxy) fn of(url: &Uri) -> Self {
        Self(Arc::new(Shared {
            url: url.clone(),
            state: Mutex::new(State {
                is_reachable: true,
                since: Instant::now(),
                answered: 0,
                failed: 0,
                last_failure: None,
                in_a_row: 0,
                is_away: false,
                tried: None,
            }),
        }))
    }

    pub(in crate::proxy) fn url(&self) -> &Uri {
        &self.0.url
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(in crate::proxy) fn state(&self) -> State {
        self.lock().clone()
    }

    pub(super) fn answered(&self) {
        let mut state = self.lock();
        state.answered += 1;
        self.welcome(state, "the upstream is back");
    }

    fn welcome(&self, mut state: MutexGuard<'_, State>, why: &str) {
        state.in_a_row = 0;
        if !std::mem::replace(&mut state.is_reachable, true) {
            state.since = Instant::now();
            drop(state);
            tracing::info!(upstream = %self.0.url, "{why}");
        }
    }

    /// `is_away` if it could not even be connected to.
    pub(super) fn failed(&self, failure: &impl ToString, is_away: bool) {
        let mut state = self.lock();
        state.failed += 1;
        state.in_a_row += 1;
        state.is_away = is_away;
        state.last_failure = Some(failure.to_string());
        if state.in_a_row >= ENOUGH && std::mem::replace(&mut state.is_reachable, false) {
            state.since = Instant::now();
            let failure = state.last_failure.clone().unwrap_or_default();
            drop(state);
            tracing::warn!(
                upstream = %self.0.url,
                failure,
                "the upstream has failed {ENOUGH} requests in a row: readiness is red until it \
                 answers, can be connected to again, or {DOUBT:?} have passed"
            );
        }
    }

    /// Tries to connect if it is said to be away: a balancer that looks at our readiness sends no
    /// requests by which we would learn that it is back.
    pub(in crate::proxy) fn probe(&self) {
        let mut state = self.lock();
        let is_due = state.tried.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
        if state.is_reachable || !is_due {
            return;
        }
        if !state.is_away {
            // It takes connections and does not answer: that it does again only a request can tell.
            if state.since.elapsed() >= DOUBT {
                self.welcome(state, "the upstream is given another chance");
            }
            return;
        }
        state.tried = Some(Instant::now());
        drop(state);
        let health = self.clone();
        tokio::spawn(async move {
            let connect = TcpStream::connect(host_and_port(&health.0.url));
            if let Ok(Ok(_)) = tokio::time::timeout(PROBE_TIMEOUT, connect).await {
                let state = health.lock();
                health.welcome(state, "the upstream can be connected to again");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn health(address: &str) -> Health {
        Health::of(&format!("http://{address}/base").parse().unwrap())
    }

    #[test]
    fn failures_in_a_row_make_it_unreachable_and_an_answer_reachable() {
        let health = health("app");
        for _ in 0..5 {
            health.failed(&"refused", true);
            health.failed(&"refused", true);
            assert!(health.state().is_reachable);
            health.answered();
        }
        for _ in 0..ENOUGH {
            health.failed(&"refused", true);
        }
        let state = health.state();
        assert!(!state.is_reachable);
        assert_eq!((state.answered, state.failed), (5, 13));
        assert_eq!(state.last_failure.as_deref(), Some("refused"));
        health.answered();
        assert!(health.state().is_reachable);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_not_back_because_it_can_be_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = health(&listener.local_addr().unwrap().to_string());
        for _ in 0..ENOUGH {
            health.failed(&"no answer", false);
        }
        health.probe();
        let asked = std::pin::pin!(listener.accept());
        assert!(futures_util::FutureExt::now_or_never(asked).is_none());
        assert!(!health.state().is_reachable);
    }

    #[tokio::test]
    async fn one_that_is_back_is_found_without_a_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = health(&listener.local_addr().unwrap().to_string());
        for _ in 0..ENOUGH {
            health.failed(&"refused", true);
        }
        health.probe();
        listener.accept().await.unwrap();
        while !health.state().is_reachable {
            tokio::task::yield_now().await;
        }
    }
}
