//! Where connections run.
//!
//! A proxy's event costs little beside what it takes to wake another thread for it. So a connection
//! stays on the thread that it was given to, with both its sockets, its timers and its memory: one
//! thread per core, each with a runtime of its own, and connections go to the one that has the
//! fewest.

use super::registry::Closer;
use super::transport::Io;
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

/// The threads of a server, or none of its own. What runs there ends when this is dropped.
pub(super) enum Workers {
    /// Connections run where they are accepted.
    Here(JoinSet<()>),
    Own(Vec<Worker>),
}

/// What a worker does is made there: memory that one thread takes and another gives back stays with
/// the first until it comes by.
type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    connections: Arc<AtomicUsize>,
}

/// A connection's place in the count of its worker.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

pin_project! {
    /// A connection in its place. An async block would have room for it twice.
    struct Placed<F> {
        #[pin]
        connection: F,
        place: Place,
    }
}

impl<F: Future<Output = ()>> Future for Placed<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().connection.poll(cx)
    }
}

/// When a worker releases memory.
#[derive(Debug, Default)]
struct Released {
    /// Connections at the last tick.
    open: usize,
    /// Their number had changed by then.
    has_changed: bool,
}

impl Released {
    /// Whether connections have closed, or their number has settled: a burst of new ones leaves behind what their
    /// requests were parsed into, and those that close leave tasks that end later. To be called at each tick.
    fn is_due(&mut self, open: usize) -> bool {
        let before = std::mem::replace(&mut self.open, open);
        let had_changed = std::mem::replace(&mut self.has_changed, open != before);
        open < before || open == before && had_changed
    }
}

impl Workers {
    /// Connections run where they are accepted.
    pub(super) fn here() -> Self {
        Self::Here(JoinSet::new())
    }

    /// Starts `count` threads, which call `release_memory` after connections have closed or a burst of new ones is over.
    pub(super) fn start(count: NonZeroUsize, release_memory: fn()) -> io::Result<Self> {
        let workers = (0..count.get()).map(|n| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (jobs, mut todo) = mpsc::unbounded_channel::<Job>();
            let connections = Arc::<AtomicUsize>::default();
            let count = connections.clone();
            std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || {
                    runtime.block_on(async {
                        let mut seconds = interval(Duration::from_secs(1));
                        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        let mut released = Released::default();
                        loop {
                            tokio::select! {
                                job = todo.recv() => match job {
                                    Some(job) => job(),
                                    None => break,
                                },
                                _ = seconds.tick() => {
                                    if released.is_due(count.load(Relaxed)) {
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
        workers.collect::<io::Result<_>>().map(Self::Own)
    }

    /// Runs a connection on the worker that has the fewest.
    pub(super) fn spawn<F>(
        &mut self,
        io: Io,
        closer: Closer,
        connection: impl FnOnce(Io) -> io::Result<F> + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let workers = match self {
            Self::Here(tasks) => {
                closer.task(tasks.spawn(connection(io)?));
                return Ok(());
            }
            Self::Own(workers) => workers,
        };
        let fewest = |worker: &&Worker| worker.connections.load(Relaxed);
        let Some(worker) = workers.iter().min_by_key(fewest) else {
            return Ok(());
        };
        let place = Place::of(&worker.connections);
        // Its events come to the thread that it is registered on.
        let io = io.detach()?;
        let job = move || match io.attach().and_then(connection) {
            Ok(connection) => {
                let task = tokio::spawn(Placed { connection, place });
                closer.task(task.abort_handle());
            }
            Err(error) => tracing::debug!(%error, "a client disconnected at once"),
        };
        worker
            .jobs
            .send(Box::new(padded(job)))
            .map_err(|_| io::Error::other("the thread has ended"))
    }

    /// Until one has ended that has to be cleared away.
    pub(super) async fn reap(&mut self) {
        match self {
            Self::Here(tasks) if !tasks.is_empty() => drop(tasks.join_next().await),
            _ => pending().await,
        }
    }
}

/// Makes a job larger than the connection's entry in the registry, which is allocated next to it: else the queue of a
/// burst would leave holes among the entries.
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
    fn memory_is_released_when_connections_close_and_when_their_number_settles() {
        let mut released = Released::default();
        let open = [0, 100, 5000, 5000, 5000, 4999, 4999, 6000, 2, 2];
        let is_due = open.map(|open| released.is_due(open));
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
