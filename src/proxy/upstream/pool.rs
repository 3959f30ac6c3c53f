//! Upstream connections between two requests: bare sockets, which hold no buffer and no task, and
//! belong to no thread.

use super::pins::Lease;
use crate::lock::lock;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Connections that are kept per upstream.
const MOST: usize = 64;
/// How long an idle connection is kept.
const KEEP: Duration = Duration::from_secs(60);

/// The idle connections to one upstream, the newest last.
#[derive(Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Idle>>);

#[derive(Debug, Default)]
pub(super) struct Idle {
    sockets: Vec<(Instant, TcpStream)>,
    /// A task waits to close the old ones.
    watched: bool,
}

/// Where a connection goes when another request may follow on it.
#[derive(Debug)]
pub(super) enum Home {
    /// To whatever request comes next, if the pool is still there by then.
    Pool(Weak<Mutex<Idle>>),
    /// To the next request of its client. A box, as quiet streams hold this.
    Client(Box<Lease>),
}

impl Pool {
    pub(super) fn home(&self) -> Home {
        Home::Pool(Arc::downgrade(&self.0))
    }

    /// Closes all connections.
    pub(super) fn clear(&self) {
        let sockets = std::mem::take(&mut lock(&self.0).sockets);
        drop(sockets);
    }

    /// A connection that the upstream has neither closed nor spoken on.
    pub(super) fn take(&self) -> Option<tokio::net::TcpStream> {
        loop {
            let (since, socket) = lock(&self.0).sockets.pop()?;
            if since.elapsed() < KEEP && is_quiet(&socket) {
                return tokio::net::TcpStream::from_std(socket).ok();
            }
        }
    }
}

/// Whether the other side has neither closed the connection nor sent anything.
pub(super) fn is_quiet<'a, S>(socket: &'a S) -> bool
where
    socket2::SockRef<'a>: From<&'a S>,
{
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let peeked = socket2::SockRef::from(socket).peek(&mut byte);
    matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

impl Home {
    pub(super) fn put(self, socket: tokio::net::TcpStream) {
        let pool = match self {
            Self::Pool(pool) => pool,
            Self::Client(lease) => return lease.put(socket),
        };
        let (Some(idle), Ok(socket)) = (pool.upgrade(), socket.into_std()) else {
            return;
        };
        let mut list = lock(&idle);
        if list.sockets.len() == MOST {
            list.sockets.remove(0);
        }
        list.sockets.push((Instant::now(), socket));
        if !std::mem::replace(&mut list.watched, true) {
            tokio::spawn(close_old(pool));
        }
    }
}

/// Until none is left.
async fn close_old(idle: Weak<Mutex<Idle>>) {
    loop {
        let oldest = {
            let Some(idle) = idle.upgrade() else { return };
            let mut list = lock(&idle);
            list.sockets.retain(|(since, _)| since.elapsed() < KEEP);
            match list.sockets.first() {
                Some((since, _)) => *since,
                None => {
                    list.watched = false;
                    list.sockets.shrink_to_fit();
                    return;
                }
            }
        };
        sleep_until(oldest + KEEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use tokio::net::TcpStream;

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(ours, listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_that_the_upstream_has_closed_or_spoken_on_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (good, _theirs) = pair(&listener).await;
        let (closed, closes) = pair(&listener).await;
        let (spoken, speaks) = pair(&listener).await;
        let address = good.local_addr().unwrap();
        drop(closes);
        speaks.try_write(b"x").unwrap();
        // Loopback delivers before the calls return.
        for socket in [good, closed, spoken] {
            pool.home().put(socket);
        }
        assert_eq!(pool.take().unwrap().local_addr().unwrap(), address);
        assert!(pool.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn old_connections_are_closed_though_nobody_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (ours, mut theirs) = pair(&listener).await;
        pool.home().put(ours);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(pool.take().is_none());
        assert!(!lock(&pool.0).watched);
    }

    #[tokio::test]
    async fn a_cleared_pool_has_closed_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (ours, mut theirs) = pair(&listener).await;
        pool.home().put(ours);
        pool.clear();
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn the_newest_are_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let mut theirs = Vec::new();
        for _ in 0..=MOST {
            let (ours, other) = pair(&listener).await;
            pool.home().put(ours);
            theirs.push(other);
        }
        assert_eq!(lock(&pool.0).sockets.len(), MOST);
        assert_eq!(theirs[0].read(&mut [0]).await.unwrap(), 0);
    }
}
