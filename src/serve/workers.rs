//! Where connections run.
//!
//! A proxy's event costs little beside what it takes to wake another thread for it. So a connection
//! stays on the thread that it was given to, with both its sockets and its timers: one thread per
//! core, each with a runtime of its own, and connections go to the one that has the fewest.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The threads of a server, or none of its own. They end when this is dropped.
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
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

impl Workers {
    /// Connections run where they are accepted.
    pub(crate) fn here() -> Self {
        Self(Vec::new())
    }

    /// Starts `count` threads.
    pub(crate) fn start(count: NonZeroUsize) -> io::Result<Self> {
        (0..count.get())
            .map(|n| {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let handle = runtime.handle().clone();
                let (stop, stopped) = oneshot::channel::<()>();
                std::thread::Builder::new()
                    .name(format!("worker-{n}"))
                    .spawn(move || {
                        // Nothing is ever sent: its end is the word.
                        let _ = runtime.block_on(stopped);
                        runtime.shutdown_background();
                    })?;
                Ok(Worker {
                    runtime: handle,
                    connections: Arc::default(),
                    _stop: stop,
                })
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Runs a connection on the worker that has the fewest.
    pub(crate) fn spawn<F>(
        &self,
        socket: TcpStream,
        connection: impl FnOnce(TcpStream) -> F,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self
            .0
            .iter()
            .min_by_key(|worker| worker.connections.load(Relaxed));
        let Some(worker) = fewest else {
            tasks.spawn(connection(socket));
            return Ok(());
        };
        let place = Place::of(&worker.connections);
        let socket = socket.into_std()?;
        // Its events come to the thread that it is registered on.
        let connection = {
            let _here = worker.runtime.enter();
            connection(TcpStream::from_std(socket)?)
        };
        let connection = async move {
            let _place = place;
            connection.await;
        };
        tasks.spawn_on(connection, &worker.runtime);
        Ok(())
    }
}
