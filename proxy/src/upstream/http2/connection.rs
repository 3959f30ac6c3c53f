//! A connection that streams share, and the task that drives it.

use super::handshake::Handshake;
use super::io::{Http2Io, TlsEnd};
use bytes::Bytes;
use h2::SendStream;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::Request;
use metrics::gauge;
use sse_guard::internal::{PingTimer, lock};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the upstream has to close a connection without streams after GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Upstreams count requests that are reset ahead of their response, and close a connection on which they are many:
/// CVE-2023-44487. A connection with this many, and this share of all of its requests, takes no more streams: a client that
/// cancels its requests must not end the streams of others.
const MAX_EARLY_RESETS: u32 = 50;
const MAX_EARLY_SHARE: u32 = 4;

/// A connection, as its streams and the set of connections hold it.
#[derive(Debug)]
pub(super) struct SharedConnection {
    state: Mutex<State>,
    max_streams: usize,
}

#[derive(Debug)]
struct State {
    /// None once it takes no more streams.
    sender: Option<SendRequest<Bytes>>,
    streams: usize,
    /// Requests that were sent.
    requests: u32,
    /// Those that were reset ahead of their response.
    early_resets: u32,
    /// Without a stream since then.
    idle_since: Instant,
    /// When it is closed, if it has no stream until then.
    idle_until: Instant,
    /// Of the task that drives it.
    driver: Option<Waker>,
    is_ping_timeout: bool,
}

/// The right to one stream of a connection.
#[derive(Debug)]
pub(super) struct Slot {
    connection: Arc<SharedConnection>,
    /// How long the connection is kept after its last stream, in milliseconds.
    idle_millis: u32,
}

impl SharedConnection {
    /// A connection that was just established, and the future that drives it to its end.
    pub(super) fn start(
        handshake: Handshake,
        idle_timeout: Duration,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let Handshake {
            sender,
            mut connection,
            options,
            tls_end,
        } = handshake;
        let now = Instant::now();
        let this = Arc::new(Self {
            state: Mutex::new(State {
                sender: Some(sender),
                streams: 0,
                requests: 0,
                early_resets: 0,
                idle_since: now,
                idle_until: now + Duration::from_millis(millis(idle_timeout).into()),
                driver: None,
                is_ping_timeout: false,
            }),
            max_streams: options.max_streams as usize,
        });
        let ping = options.ping.and_then(|interval| {
            let ping_pong = connection.ping_pong()?;
            Some(PingTimer::new(ping_pong, interval))
        });
        (this.clone(), drive(this, connection, ping, tls_end))
    }

    /// A stream of it, unless it takes no more of them, or was idle for this timeout.
    pub(super) fn slot(self: &Arc<Self>, idle_timeout: Duration) -> Option<Slot> {
        let mut state = lock(&self.state);
        if state.streams == 0 && state.requests > 0 && state.idle_since.elapsed() >= idle_timeout {
            return None;
        }
        if !state.has_room(self.max_streams) {
            return None;
        }
        state.streams += 1;
        Some(Slot {
            connection: self.clone(),
            idle_millis: millis(idle_timeout),
        })
    }

    /// How many streams it has at the most, by our limit and by that of the upstream.
    pub(super) fn max_streams(&self) -> usize {
        let state = lock(&self.state);
        let theirs = state
            .sender
            .as_ref()
            .map(SendRequest::current_max_send_streams);
        theirs.unwrap_or(usize::MAX).min(self.max_streams)
    }

    /// Whether it may still take streams.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.state).sender.is_some()
    }

    pub(super) fn is_ping_timeout(&self) -> bool {
        lock(&self.state).is_ping_timeout
    }

    /// Takes no more streams, and closes the connection behind the last one.
    pub(super) fn close(&self) {
        self.close_if(|_| true);
    }

    /// Closes the connection if it has no streams.
    pub(super) fn close_if_idle(&self) {
        self.close_if(|state| state.streams == 0);
    }

    fn close_if(&self, is_to_close: impl FnOnce(&State) -> bool) {
        let (sender, driver) = {
            let mut state = lock(&self.state);
            if !is_to_close(&state) {
                return;
            }
            (state.sender.take(), state.driver.take())
        };
        drop(sender);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// At most 49 days.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl State {
    fn has_room(&mut self, max_streams: usize) -> bool {
        let streams = self.streams;
        let Some(sender) = &mut self.sender else {
            return false;
        };
        // It has got a GOAWAY, or has ended: the driver will notice, too.
        let is_open = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        let is_open = !matches!(is_open, Poll::Ready(Err(_)));
        is_open && streams < max_streams.min(sender.current_max_send_streams())
    }
}

impl Slot {
    pub(super) fn connection(&self) -> &Arc<SharedConnection> {
        &self.connection
    }

    /// Whether the connection has not been used before.
    pub(super) fn is_first(&self) -> bool {
        lock(&self.connection.state).requests == 0
    }

    /// Opens the stream. An error means that nothing was sent.
    pub(super) fn send(
        &self,
        head: Request<()>,
        is_over: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let sender = {
            let mut state = lock(&self.connection.state);
            state.requests = state.requests.saturating_add(1);
            state.sender.clone()
        };
        match sender {
            // A clone is not bound to the request before, which may wait for the upstream's limit.
            Some(mut sender) => sender.send_request(head, is_over),
            None => Err(h2::Reason::REFUSED_STREAM.into()),
        }
    }

    /// The stream is reset ahead of its response.
    pub(super) fn note_early_reset(&self) {
        let is_too_many = {
            let mut state = lock(&self.connection.state);
            state.early_resets += 1;
            state.early_resets >= MAX_EARLY_RESETS
                && state.early_resets >= state.requests / MAX_EARLY_SHARE
        };
        if is_too_many {
            self.connection.close();
        }
    }

    /// One more, for a second part of the stream.
    pub(super) fn another(&self) -> Self {
        lock(&self.connection.state).streams += 1;
        Self {
            connection: self.connection.clone(),
            idle_millis: self.idle_millis,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = lock(&self.connection.state);
        state.streams -= 1;
        if state.streams > 0 {
            return;
        }
        state.idle_since = Instant::now();
        state.idle_until = state.idle_since + Duration::from_millis(self.idle_millis.into());
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// Counts the connections.
struct CountGuard;

impl CountGuard {
    fn new() -> Self {
        gauge!("sse_guard_upstream_shared_connections").increment(1.0);
        Self
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        gauge!("sse_guard_upstream_shared_connections").decrement(1.0);
    }
}

async fn drive(
    shared: Arc<SharedConnection>,
    connection: Connection<Http2Io, Bytes>,
    ping: Option<PingTimer>,
    tls_end: TlsEnd,
) {
    let _count = CountGuard::new();
    let mut driver = Driver {
        shared: &shared,
        connection,
        ping,
        closing_since: None,
    };
    let mut timer = pin!(sleep_until(Instant::now()));
    let end = poll_fn(|cx| driver.poll(timer.as_mut(), cx)).await;
    // Before the streams end with the connection: they read it.
    lock(&shared.state).is_ping_timeout = matches!(end, End::PingTimeout);
    shared.close();
    drop(driver);
    match (end, tls_end.take()) {
        (End::PingTimeout, _) => {
            tracing::debug!(
                "an upstream has not responded to a PING: its HTTP/2 connection is dropped"
            );
        }
        (_, Some(error)) => tracing::debug!(%error, "an upstream's HTTP/2 connection failed"),
        (End::Failed(error), None) => {
            tracing::debug!(%error, "an upstream's HTTP/2 connection failed");
        }
        (End::Closed, None) => {}
    }
}

/// How a connection ends.
enum End {
    Closed,
    Failed(h2::Error),
    PingTimeout,
}

struct Driver<'a> {
    shared: &'a SharedConnection,
    connection: Connection<Http2Io, Bytes>,
    ping: Option<PingTimer>,
    /// It takes no more streams since then.
    closing_since: Option<Instant>,
}

impl Driver<'_> {
    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match Pin::new(&mut self.connection).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Closed),
                Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                Poll::Pending => {}
            }
            let Some(deadline) = self.idle_deadline(cx) else {
                return match &mut self.ping {
                    Some(ping) => ping.poll_dead(cx).map(|()| End::PingTimeout),
                    None => Poll::Pending,
                };
            };
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.closing_since.is_some() {
                return Poll::Ready(End::Closed);
            }
            // The crate sends GOAWAY, and ends the connection, once nothing can open streams.
            self.shared.close_if_idle();
        }
    }

    /// When the connection is to end; `None` if it has streams.
    fn idle_deadline(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        let mut state = lock(&self.shared.state);
        match &mut state.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.driver = Some(cx.waker().clone()),
        }
        let is_closing = match &mut state.sender {
            None => true,
            // By a GOAWAY of the upstream.
            Some(sender) => matches!(sender.poll_ready(cx), Poll::Ready(Err(_))),
        };
        let closed = state.sender.take_if(|_| is_closing);
        if is_closing {
            self.closing_since.get_or_insert_with(Instant::now);
        }
        let deadline = match self.closing_since {
            Some(since) => state.idle_since.max(since) + CLOSE_TIMEOUT,
            None => state.idle_until,
        };
        let is_idle = state.streams == 0;
        drop(state);
        drop(closed);
        is_idle.then_some(deadline)
    }
}
