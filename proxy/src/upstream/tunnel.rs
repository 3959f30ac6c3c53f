//! Upgraded connections: bytes are copied until either side ends or the idle timeout fires.

use super::http1::Switched;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use metrics::{counter, gauge};
use sse_guard::connection_limit::InFlightGuard;
use sse_guard::internal::lock;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

/// All tunnels of the proxy; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunnels(Arc<SharedTunnels>);

#[derive(Debug, Default)]
struct SharedTunnels {
    tasks: TaskTracker,
    open: Mutex<OpenTunnels>,
}

#[derive(Debug, Default)]
struct OpenTunnels {
    tunnels: HashMap<u64, Arc<Activity>>,
    next: u64,
}

/// When bytes came last, from either side.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// In nanoseconds from the start.
    last: AtomicU64,
    close: Notify,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            close: Notify::new(),
        }
    }

    fn came(&self) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last.store(nanos, Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_nanos(self.last.load(Relaxed))
    }

    /// Waits until nothing has arrived for this long.
    async fn idle(&self, timeout: Option<Duration>) {
        let Some(timeout) = timeout else {
            return std::future::pending().await;
        };
        loop {
            let last = self.last();
            let Some(deadline) = last.checked_add(timeout) else {
                return std::future::pending().await;
            };
            sleep_until(deadline).await;
            if self.last() == last {
                return;
            }
        }
    }
}

/// A tunnel's place among those that are open, given up on drop.
pub(crate) struct TunnelGuard {
    id: u64,
    activity: Arc<Activity>,
    tunnels: Tunnels,
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        let mut open = lock(&self.tunnels.0.open);
        open.tunnels.remove(&self.id);
        if open.tunnels.is_empty() {
            open.tunnels.shrink_to(16);
        }
        drop(open);
        gauge!("sse_guard_tunnels").decrement(1.0);
    }
}

impl Tunnels {
    pub(crate) fn enter(&self) -> TunnelGuard {
        let activity = Arc::new(Activity::new());
        let mut open = lock(&self.0.open);
        let id = open.next;
        open.next += 1;
        open.tunnels.insert(id, activity.clone());
        drop(open);
        gauge!("sse_guard_tunnels").increment(1.0);
        TunnelGuard {
            id,
            activity,
            tunnels: self.clone(),
        }
    }

    /// Connects both sides, once they have switched protocols. `held` is the request's place in its
    /// client's count. Returns what ends it at once.
    pub(super) fn open(
        &self,
        client: OnUpgrade,
        upstream: Switched,
        idle_timeout: Option<Duration>,
        held: Option<InFlightGuard>,
    ) -> AbortHandle {
        let place = self.enter();
        let task = self.0.tasks.spawn(async move {
            let _held = held;
            let Ok(client) = client.await else {
                tracing::debug!("the client disconnected before the protocol switch was complete");
                return;
            };
            tokio::select! {
                result = pass(client, upstream, &place.activity) => if let Err(error) = result {
                    tracing::debug!(%error, "tunnel ended");
                },
                () = place.activity.idle(idle_timeout) => close("idle"),
                () = place.activity.close.notified() => close("shortage"),
            }
        });
        task.abort_handle()
    }

    /// Closes at most `most` of those that were idle for `idle`, the longest idle first. Returns how
    /// many.
    pub(crate) fn close_idle(&self, most: usize, idle: Duration) -> usize {
        let open = lock(&self.0.open);
        let mut tunnels: Vec<Arc<Activity>> = open.tunnels.values().cloned().collect();
        drop(open);
        let now = Instant::now();
        tunnels.retain(|tunnel| now.saturating_duration_since(tunnel.last()) >= idle);
        tunnels.sort_by_key(|tunnel| tunnel.last());
        tunnels.truncate(most);
        for tunnel in &tunnels {
            tunnel.close.notify_one();
        }
        tunnels.len()
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0.open).tunnels.len()
    }

    /// How many are being closed. It takes the notifications that close them.
    #[cfg(test)]
    pub(crate) fn closing(&self) -> usize {
        let open = lock(&self.0.open);
        let is_closing = |tunnel: &&Arc<Activity>| {
            let notified = std::pin::pin!(tunnel.close.notified());
            notified.enable()
        };
        open.tunnels.values().filter(is_closing).count()
    }

    /// Lets [`wait`](Self::wait) end once those that are open have ended.
    pub(crate) fn close(&self) {
        self.0.tasks.close();
    }

    /// Waits until all have ended.
    pub(crate) async fn wait(&self) {
        self.0.tasks.wait().await;
    }
}

fn close(reason: &'static str) {
    counter!("sse_guard_tunnels_closed_total", "reason" => reason).increment(1);
    tracing::debug!(reason, "closing a tunnel");
}

async fn pass(client: Upgraded, upstream: Switched, activity: &Activity) -> io::Result<()> {
    let Switched {
        socket,
        ahead,
        lease: _lease,
    } = upstream;
    let mut client = ActivitySide::new(TokioIo::new(client), activity);
    let mut upstream = ActivitySide::new(socket, activity);
    client.write_all(&ahead).await?;
    drop(ahead);
    copy_bidirectional(&mut client, &mut upstream).await?;
    Ok(())
}

/// One side of a tunnel, which records when bytes come.
struct ActivitySide<'a, S> {
    side: S,
    activity: &'a Activity,
}

impl<'a, S> ActivitySide<'a, S> {
    fn new(side: S, activity: &'a Activity) -> Self {
        Self { side, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ActivitySide<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.side).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.came();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ActivitySide<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.side).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tunnel_stays_open_while_bytes_come_from_either_side() {
        let activity = Arc::new(Activity::new());
        let start = Instant::now();
        let idle = tokio::spawn({
            let activity = activity.clone();
            async move { activity.idle(Some(Duration::from_secs(10))).await }
        });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            let (mut ours, mut theirs) = tokio::io::duplex(16);
            let mut side = ActivitySide::new(&mut ours, &activity);
            tokio::io::AsyncWriteExt::write_all(&mut theirs, b"x")
                .await
                .unwrap();
            tokio::io::AsyncReadExt::read_u8(&mut side).await.unwrap();
        }
        idle.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 37);
    }

    #[tokio::test(start_paused = true)]
    async fn tunnels_are_closed_by_idle_time_and_never_while_busy() {
        let tunnels = Tunnels::default();
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(tunnels.enter());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        places[0].activity.came();
        assert_eq!(tunnels.close_idle(1, Duration::from_secs(5)), 1);
        assert_eq!(tunnels.closing(), 1);
        drop(places.remove(1));
        assert_eq!(tunnels.close_idle(9, Duration::from_secs(5)), 1);
        places.clear();
        assert_eq!(tunnels.len(), 0);
    }
}
