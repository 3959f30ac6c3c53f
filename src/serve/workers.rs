//! The threads that run connections.
//!
//! To wake another thread costs more than to forward an event. So a connection stays on one thread, with both its
//! sockets, its timers and its memory. Each thread has a runtime of its own, and gets a new connection if it has the
//! fewest.

use super::io::Io;
use super::registry::CloseHandle;
use pin_project_lite::pin_project;
use std::future::{Future, pending};
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Dropping it ends all connections.
pub(super) enum Workers {
    /// Connections run on the runtime that accepts them.
    CurrentRuntime(JoinSet<()>),
    Threads(Vec<Worker>),
}

/// Creates a connection on the thread that runs it: an allocator returns memory that another thread frees to the first
/// one late.
type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    connections: Arc<AtomicUsize>,
}

/// Counts a connection of a worker until it is dropped.
struct CountGuard(Arc<AtomicUsize>);

impl CountGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pin_project! {
    /// Not an async block, which would reserve space for the connection twice.
    struct CountedConnection<F> {
        #[pin]
        connection: F,
        guard: CountGuard,
    }
}

impl<F: Future<Output = ()>> Future for CountedConnection<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().connection.poll(cx)
    }
}

/// Determines when a worker releases memory.
#[derive(Debug, Default)]
struct ReleaseTrigger {
    /// Number of connections at the last tick.
    open: usize,
    /// That number differed from the one before.
    has_changed: bool,
}

impl ReleaseTrigger {
    /// Returns true if connections have closed, or their number has settled: a burst of new ones leaves the buffers in
    /// which their requests were parsed, and closed ones leave tasks that end later. Must be called at each tick.
    fn is_due(&mut self, open: usize) -> bool {
        let before = std::mem::replace(&mut self.open, open);
        let had_changed = std::mem::replace(&mut self.has_changed, open != before);
        open < before || open == before && had_changed
    }
}

impl Workers {
    pub(super) fn current_runtime() -> Self {
        Self::CurrentRuntime(JoinSet::new())
    }

    /// Starts `count` threads, which call `release_memory` after connections have closed or a burst of new ones is over.
    pub(super) fn start(count: NonZeroUsize, release_memory: fn()) -> io::Result<Self> {
        let workers = (0..count.get()).map(|n| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
            let connections = Arc::<AtomicUsize>::default();
            let count = connections.clone();
            std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || {
                    runtime.block_on(async {
                        let mut seconds = interval(Duration::from_secs(1));
                        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        let mut release = ReleaseTrigger::default();
                        loop {
                            tokio::select! {
                                job = queue.recv() => match job {
                                    Some(job) => job(),
                                    None => break,
                                },
                                _ = seconds.tick() => {
                                    if release.is_due(count.load(Relaxed)) {
                                        release_memory();
                                    }
                                }
                            }
                        }
                    });
                    runtime.shutdown_background();
                })?;
            Ok(Worker { jobs, connections })
        });
        workers.collect::<io::Result<_>>().map(Self::Threads)
    }

    /// Runs a connection on the worker that has the fewest.
    pub(super) fn spawn<F>(
        &mut self,
        io: Io,
        close_handle: CloseHandle,
        connection: impl FnOnce(Io) -> io::Result<F> + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let workers = match self {
            Self::CurrentRuntime(tasks) => {
                close_handle.set_task(tasks.spawn(connection(io)?));
                return Ok(());
            }
            Self::Threads(workers) => workers,
        };
        let fewest = |worker: &&Worker| worker.connections.load(Relaxed);
        let Some(worker) = workers.iter().min_by_key(fewest) else {
            return Ok(());
        };
        let guard = CountGuard::new(&worker.connections);
        // The socket must be registered with the runtime of the thread that runs it.
        let io = io.detach()?;
        let job = move || match io.attach().and_then(connection) {
            Ok(connection) => {
                let task = tokio::spawn(CountedConnection { connection, guard });
                close_handle.set_task(task.abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "a client disconnected before its connection was set up");
            }
        };
        worker
            .jobs
            .send(Box::new(padded(job)))
            .map_err(|_| io::Error::other("the thread has ended"))
    }

    /// Removes the next connection that ends from the set of tasks.
    pub(super) async fn reap(&mut self) {
        match self {
            Self::CurrentRuntime(tasks) if !tasks.is_empty() => drop(tasks.join_next().await),
            _ => pending().await,
        }
    }
}

/// Makes a job larger than the connection's record in the registry, which is allocated next to it: otherwise the jobs of a
/// burst would leave gaps between the records.
fn padded(job: impl FnOnce() + Send + 'static) -> impl FnOnce() + Send + 'static {
    let padding = [const { MaybeUninit::<u64>::uninit() }; 6];
    move || {
        let _ = &padding;
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_due_when_connections_close_and_when_their_number_settles() {
        let mut release = ReleaseTrigger::default();
        let open = [0, 100, 5000, 5000, 5000, 4999, 4999, 6000, 2, 2];
        let is_due = open.map(|open| release.is_due(open));
        let expected = [
            false, false, false, true, false, true, true, false, true, true,
        ];
        assert_eq!(is_due, expected);
    }

    #[test]
    fn padded_job_is_larger_than_its_job() {
        let bytes = [0u8; 100];
        let job = move || _ = std::hint::black_box(bytes);
        let size = size_of_val(&job);
        assert_eq!(size_of_val(&padded(job)), (size + 48).next_multiple_of(8));
    }
}
