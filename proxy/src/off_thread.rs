//! Reads that may block: of a pipe without a writer, or on a file system that hangs.
//!
//! They run on a thread of their own and are waited for no longer than a deadline. A thread that hangs
//! cannot be ended, so there is one at most: while it hangs, no other read begins.

use sse_guard::internal::lock;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a read may take.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one read at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct OffThread {
    /// When the read that runs has begun.
    running: Arc<Mutex<Option<Instant>>>,
}

/// Why the result is missing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("no data for {READ_TIMEOUT:?}")]
    Now,
    #[error("the read that began {} s ago still hangs", .0.as_secs())]
    Before(Duration),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Gives the place free when the read ends, also by a panic.
struct RunningRead(Arc<Mutex<Option<Instant>>>);

impl Drop for RunningRead {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

impl OffThread {
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let running = {
            let mut running = lock(&self.running);
            if let Some(since) = *running {
                return Err(ReadError::Before(since.elapsed()));
            }
            *running = Some(Instant::now());
            RunningRead(self.running.clone())
        };
        let (done, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("config".to_owned())
            .spawn(move || {
                let read = read();
                // The receiver of the result may begin the next one.
                drop(running);
                let _ = done.send(read);
            })?;
        match timeout(READ_TIMEOUT, result).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(_)) | Err(_) => Err(ReadError::Now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn while_one_read_hangs_no_other_begins() {
        let reads = OffThread::default();
        assert_eq!(reads.run(|| 1).await.unwrap(), 1);
        let (end, hang) = channel::<()>();
        // From here on time passes as soon as nothing else is to be done.
        tokio::time::pause();
        let hangs = reads.run(move || hang.recv().is_ok());
        assert!(matches!(hangs.await, Err(ReadError::Now)));
        for _ in 0..3 {
            let next = reads.run(|| panic!("it begins"));
            assert!(matches!(next.await, Err(ReadError::Before(_))));
        }
        tokio::time::resume();
        drop(end);
        while lock(&reads.running).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(reads.run(|| 2).await.unwrap(), 2);
    }
}
