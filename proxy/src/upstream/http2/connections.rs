//! The HTTP/2 connections to one endpoint, and the attempts to make one.
//!
//! A stream takes the oldest connection with room, so that those that a peak has left become idle and close. Requests that
//! find no room share an attempt, and its failure.

use super::super::connect::{Connector, Established};
use super::super::error::Failure;
use super::super::pool::PoolReturn;
use super::Http2Options;
use super::connection::{SharedConnection, Slot};
use super::shared_failure::SharedFailure;
use crate::fd_limit;
use sse_guard::internal::lock;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long an upstream that has selected HTTP/1.1 is not offered HTTP/2 again.
const HTTP1_MEMORY: Duration = Duration::from_secs(60);
/// Connections that a request waits for while others take their room.
const MAX_ATTEMPTS: usize = 5;

/// The connections to an endpoint. Dropped, they end with their streams.
#[derive(Debug)]
pub(in crate::upstream) struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Http2Options,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The oldest first.
    connections: Vec<Arc<SharedConnection>>,
    attempts: Vec<Attempt>,
    next_attempt: u64,
    /// How many streams the last connection had room for.
    room: Option<usize>,
    /// The upstream has selected HTTP/1.1: none is made until then.
    http1_until: Option<Instant>,
}

/// A connection that is being made.
#[derive(Debug)]
struct Attempt {
    id: u64,
    waiting: usize,
    result: Outcome,
}

type Outcome = watch::Receiver<Option<Result<(), SharedFailure>>>;
type Done = watch::Sender<Option<Result<(), SharedFailure>>>;

/// What a request gets.
pub(super) enum Acquired {
    Slot(Slot),
    /// The upstream has selected HTTP/1.1.
    Http1,
}

/// A request of a route.
pub(in crate::upstream) struct Acquire<'a> {
    /// With the time limit of the route.
    pub(in crate::upstream) connector: &'a Connector,
    pub(in crate::upstream) idle_timeout: Duration,
    /// Where a connection of HTTP/1.1 goes.
    pub(in crate::upstream) http1: Option<PoolReturn>,
}

impl Connections {
    pub(in crate::upstream) fn new(options: Http2Options) -> Self {
        Self(Arc::new(Shared {
            options,
            state: Mutex::default(),
        }))
    }

    /// A stream of a connection other than `unsuitable`, made if there is none with room.
    pub(super) async fn acquire(
        &self,
        mut request: Acquire<'_>,
        unsuitable: Option<&Arc<SharedConnection>>,
    ) -> Result<Acquired, Failure> {
        for _ in 0..MAX_ATTEMPTS {
            let (mut outcome, begun) = {
                let mut state = lock(&self.0.state);
                if state
                    .http1_until
                    .is_some_and(|until| Instant::now() < until)
                {
                    return Ok(Acquired::Http1);
                }
                if let Some(slot) = state.slot(request.idle_timeout, unsuitable) {
                    return Ok(Acquired::Slot(slot));
                }
                let room = state.room.unwrap_or(self.0.options.max_streams as usize);
                match state.join(room) {
                    Some(outcome) => (outcome, None),
                    None if !fd_limit::has_room() => return Err(Failure::without_files()),
                    None => {
                        let (done, outcome) = watch::channel(None);
                        let id = state.add_attempt(outcome.clone());
                        (outcome, Some((done, id)))
                    }
                }
            };
            if let Some((done, id)) = begun {
                self.attempt(&mut request, done, id);
            }
            let result = match outcome.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            };
            match result {
                Some(Ok(())) => {}
                Some(Err(failure)) => return Err(failure.into()),
                None => return Err(Failure::Connect("the attempt was abandoned".into())),
            }
        }
        Err(Failure::Connect(
            "its connections have no room for another stream".into(),
        ))
    }

    /// Starts an attempt. It does not end with the request: others may wait for it.
    fn attempt(&self, request: &mut Acquire<'_>, done: Done, id: u64) {
        let connector = request.connector.clone();
        let (idle_timeout, http1) = (request.idle_timeout, request.http1.take());
        let shared = Arc::downgrade(&self.0);
        let guard = AttemptGuard {
            shared: shared.clone(),
            id,
        };
        tokio::spawn(async move {
            let established = Box::pin(connector.establish()).await;
            let Some(set) = shared.upgrade() else {
                return;
            };
            let mut driver = None;
            let result = match established {
                Ok(Established::Http2(handshake)) => {
                    let (connection, drive) = SharedConnection::start(*handshake, idle_timeout);
                    let mut state = lock(&set.state);
                    state.room = Some(connection.max_streams());
                    state.connections.push(connection);
                    driver = Some(Box::pin(drive));
                    Ok(())
                }
                Ok(Established::Http1(socket)) => {
                    if let Some(pool) = http1 {
                        pool.put(socket);
                    }
                    lock(&set.state).http1_until = Some(Instant::now() + HTTP1_MEMORY);
                    Ok(())
                }
                Err(failure) => Err(failure.into()),
            };
            // Before those that wait look for room.
            drop(guard);
            drop(set);
            let _ = done.send(Some(result));
            if let Some(driver) = driver {
                driver.await;
                if let Some(set) = shared.upgrade() {
                    lock(&set.state).remove_closed();
                }
            }
        });
    }

    /// Closes connections without streams.
    pub(in crate::upstream) fn close_idle(&self) {
        let connections = lock(&self.0.state).connections.clone();
        connections
            .iter()
            .for_each(|connection| connection.close_if_idle());
        lock(&self.0.state).remove_closed();
    }
}

impl State {
    fn remove_closed(&mut self) {
        self.connections.retain(|connection| connection.is_open());
        if self.connections.is_empty() {
            self.connections.shrink_to_fit();
        }
    }

    fn slot(
        &self,
        idle_timeout: Duration,
        unsuitable: Option<&Arc<SharedConnection>>,
    ) -> Option<Slot> {
        let is_suitable =
            |it: &&Arc<SharedConnection>| unsuitable.is_none_or(|other| !Arc::ptr_eq(it, other));
        let mut suitable = self.connections.iter().filter(is_suitable);
        suitable.find_map(|connection| connection.slot(idle_timeout))
    }

    /// The result of an attempt that has room for one more, if each has room for `room` requests.
    fn join(&mut self, room: usize) -> Option<Outcome> {
        let mut attempts = self.attempts.iter_mut();
        let attempt = attempts.find(|attempt| attempt.waiting < room)?;
        attempt.waiting += 1;
        Some(attempt.result.clone())
    }

    fn add_attempt(&mut self, result: Outcome) -> u64 {
        let id = self.next_attempt;
        self.next_attempt += 1;
        self.attempts.push(Attempt {
            id,
            waiting: 1,
            result,
        });
        id
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let connections = std::mem::take(&mut lock(&self.0.state).connections);
        connections.iter().for_each(|connection| connection.close());
    }
}

/// Removes an attempt that is over.
struct AttemptGuard {
    shared: Weak<Shared>,
    id: u64,
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            lock(&shared.state)
                .attempts
                .retain(|attempt| attempt.id != self.id);
        }
    }
}
