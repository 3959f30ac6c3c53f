//! Upstream connections between two requests: bare sockets, which hold no buffer and no task, and
//! belong to no thread.

use super::pins::Lease;
use http::HeaderMap;
use sse_guard::internal::{DetachedIo, lock};
use sse_guard::serve::Io;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Connections that are kept per endpoint.
const MAX_IDLE: usize = 64;
/// A connection is given up this long before the upstream closes it: a request that arrives while it closes
/// is lost.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// The idle connections to one endpoint, the newest last.
#[derive(Debug, Default)]
pub(super) struct Pool(Arc<Mutex<IdleConnections>>);

/// A pool as one route uses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoutePool<'a> {
    pool: &'a Pool,
    /// A connection that was idle for longer is not taken, and one that is returned is not kept for longer.
    idle_timeout: Duration,
}

#[derive(Debug, Default)]
pub(super) struct IdleConnections {
    /// In the order in which they were returned.
    connections: Vec<IdleConnection>,
    /// The time at which the task that closes them wakes, while there is one.
    watched: Option<Instant>,
    /// Wakes that task earlier.
    earlier: Arc<Notify>,
}

#[derive(Debug)]
struct IdleConnection {
    since: Instant,
    /// When it is closed, which is not the order of the list.
    until: Instant,
    socket: DetachedIo,
}

impl IdleConnection {
    fn close(self) {
        self.socket.close();
    }
}

/// Where a connection goes when another request may follow on it.
#[derive(Debug)]
pub(super) enum PoolReturn {
    /// To the next request within this time in milliseconds, if the pool still exists by then.
    Pool(Weak<Mutex<IdleConnections>>, u32),
    /// To the next request of its client. A box, as quiet streams hold this.
    Client(Box<Lease>),
}

impl Pool {
    pub(super) fn for_route(&self, idle_timeout: Duration) -> RoutePool<'_> {
        RoutePool {
            pool: self,
            idle_timeout,
        }
    }

    /// Closes all connections.
    pub(super) fn clear(&self) {
        let connections = std::mem::take(&mut lock(&self.0).connections);
        connections.into_iter().for_each(IdleConnection::close);
    }
}

impl RoutePool<'_> {
    /// Where a connection goes whose upstream has sent this response; nowhere if it may be closed at any time.
    pub(super) fn pool_return(&self, response: &HeaderMap) -> Option<PoolReturn> {
        let promised =
            keep_alive(response).map(|timeout| timeout.saturating_sub(KEEP_ALIVE_MARGIN));
        let keep = promised.map_or(self.idle_timeout, |timeout| timeout.min(self.idle_timeout));
        let millis = u32::try_from(keep.as_millis()).unwrap_or(u32::MAX);
        (millis > 0).then(|| PoolReturn::Pool(Arc::downgrade(&self.pool.0), millis))
    }

    /// A connection that the upstream has neither closed nor sent anything on.
    pub(super) fn take(&self) -> Option<Io> {
        loop {
            let now = Instant::now();
            let is_young = |it: &mut IdleConnection| now - it.since < self.idle_timeout;
            let mut idle = lock(&self.pool.0).connections.pop_if(is_young)?;
            if now < idle.until && idle.socket.is_quiet() {
                return idle.socket.attach().ok();
            }
            idle.close();
        }
    }
}

/// The `timeout` parameter of `Keep-Alive` (RFC 2068 section 19.7.1.1): how long the upstream keeps an idle
/// connection open. Node.js sends 5 s, Apache and gunicorn as they are configured.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("keep-alive").iter();
    let parameters = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let timeouts = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        let seconds = value.trim().trim_matches('"').parse().ok();
        seconds.filter(|_| is_timeout).map(Duration::from_secs)
    });
    timeouts.min()
}

impl PoolReturn {
    pub(super) fn put(self, socket: Io) {
        let (pool, millis) = match self {
            Self::Pool(pool, millis) => (pool, millis),
            Self::Client(lease) => return lease.put(socket),
        };
        let (Some(idle), Ok(socket)) = (pool.upgrade(), socket.detach()) else {
            return;
        };
        let since = Instant::now();
        let until = since + Duration::from_millis(millis.into());
        let mut list = lock(&idle);
        if list.connections.len() == MAX_IDLE {
            list.connections.remove(0).close();
        }
        list.connections.push(IdleConnection {
            since,
            until,
            socket,
        });
        match list.watched {
            None => {
                list.watched = Some(until);
                let earlier = list.earlier.clone();
                tokio::spawn(close_old(pool, until, earlier));
            }
            Some(next) if until < next => list.earlier.notify_one(),
            Some(_) => {}
        }
    }
}

/// Closes connections at their times, until none is left.
async fn close_old(idle: Weak<Mutex<IdleConnections>>, first: Instant, earlier: Arc<Notify>) {
    let mut next = first;
    loop {
        tokio::select! {
            () = sleep_until(next) => {}
            () = earlier.notified() => {}
        }
        let Some(idle) = idle.upgrade() else { return };
        let mut list = lock(&idle);
        let now = Instant::now();
        let old = list.connections.extract_if(.., |idle| idle.until <= now);
        old.for_each(IdleConnection::close);
        list.watched = list.connections.iter().map(|idle| idle.until).min();
        match list.watched {
            Some(until) => next = until,
            None => {
                list.connections.shrink_to_fit();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use tokio::net::TcpStream;

    const KEEP: Duration = Duration::from_secs(60);

    /// Of a response with this `Keep-Alive`.
    fn pool_return(pool: &Pool, keep_alive: &'static str) -> PoolReturn {
        let value = http::HeaderValue::from_static(keep_alive);
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("keep-alive"), value)]);
        pool.for_route(KEEP).pool_return(&headers).unwrap()
    }

    async fn pair(listener: &TcpListener) -> (Io, TcpStream) {
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (ours.unwrap().into(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn connection_that_the_upstream_has_closed_or_sent_on_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (good, _theirs) = pair(&listener).await;
        let (closed, closes) = pair(&listener).await;
        let (sent, sends) = pair(&listener).await;
        let address = good.socket().local_addr().unwrap();
        drop(closes);
        sends.try_write(b"x").unwrap();
        // Loopback delivers before the calls return.
        for socket in [good, closed, sent] {
            pool_return(&pool, "").put(socket);
        }
        let taken = pool.for_route(KEEP).take().unwrap();
        assert_eq!(taken.socket().local_addr().unwrap(), address);
        assert!(pool.for_route(KEEP).take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_closed_at_its_timeout_without_a_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (ours, mut theirs) = pair(&listener).await;
        pool_return(&pool, "").put(ours);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(pool.for_route(KEEP).take().is_none());
        assert!(lock(&pool.0).watched.is_none());
    }

    #[tokio::test]
    async fn pool_closes_its_connections_when_it_is_cleared() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (ours, mut theirs) = pair(&listener).await;
        pool_return(&pool, "").put(ours);
        pool.clear();
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(pool.for_route(KEEP).take().is_none());
    }

    #[tokio::test]
    async fn pool_keeps_the_newest_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let mut theirs = Vec::new();
        for _ in 0..=MAX_IDLE {
            let (ours, other) = pair(&listener).await;
            pool_return(&pool, "").put(ours);
            theirs.push(other);
        }
        assert_eq!(lock(&pool.0).connections.len(), MAX_IDLE);
        assert_eq!(theirs[0].read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_closed_at_its_own_time_whatever_the_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let start = Instant::now();
        let mut theirs = Vec::new();
        for keep_alive in [
            "",
            "timeout=5, max=100",
            "timeout=90",
            "max=1, Timeout=\"20\"",
        ] {
            let (ours, other) = pair(&listener).await;
            pool_return(&pool, keep_alive).put(ours);
            theirs.push(other);
        }
        // A second ahead of the upstream's own time, and no later than the pool's.
        for (place, seconds) in [(1, 4), (3, 19), (0, 60), (2, 60)] {
            assert_eq!(theirs[place].read(&mut [0]).await.unwrap(), 0);
            assert_eq!(start.elapsed().as_secs(), seconds, "{place}");
        }
        assert!(lock(&pool.0).watched.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_kept_and_taken_by_the_idle_timeout_of_each_user() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(60));
        let (ours, _theirs) = pair(&listener).await;
        let headers = HeaderMap::new();
        pool.for_route(long)
            .pool_return(&headers)
            .unwrap()
            .put(ours);
        tokio::time::advance(short).await;
        assert!(pool.for_route(short).take().is_none(), "idle for too long");
        let socket = pool.for_route(long).take().unwrap();
        pool.for_route(short)
            .pool_return(&headers)
            .unwrap()
            .put(socket);
        tokio::time::advance(short).await;
        assert!(pool.for_route(long).take().is_none(), "closed by then");
    }

    #[test]
    fn connection_that_may_close_at_once_is_not_kept() {
        let pool = Pool::default();
        for (value, is_kept) in [
            ("timeout=1", false),
            ("timeout=0", false),
            ("timeout=x", true),
        ] {
            let value = http::HeaderValue::from_static(value);
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static("keep-alive"), value)]);
            assert_eq!(
                pool.for_route(KEEP).pool_return(&headers).is_some(),
                is_kept
            );
        }
    }
}
