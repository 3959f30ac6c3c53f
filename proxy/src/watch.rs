//! Watches the config file for changes.
//!
//! By its content, not by notifications of a file system: mounted configs are swapped by links, and
//! network file systems do not notify.

use super::config::read_text;
use super::off_thread::{OffThread, ReadError};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// The last known text of the file.
pub(super) struct ConfigWatch {
    file: Option<String>,
    seen: Option<String>,
    reads: OffThread,
    /// It has been logged that the file hangs.
    has_warned: bool,
}

/// The text of a file that can be read twice: not of a pipe, because the reload needs its text.
pub(super) fn regular_text(file: &str) -> Option<String> {
    let is_regular = Path::new(file).metadata().is_ok_and(|file| file.is_file());
    is_regular.then(|| read_text(file).ok()).flatten()
}

impl ConfigWatch {
    /// What was in the file when the config was read is known: it may have changed since.
    pub(super) fn new(file: Option<String>, seen: Option<&str>) -> Self {
        Self {
            file,
            seen: seen.map(str::to_owned),
            reads: OffThread::default(),
            has_warned: false,
        }
    }

    /// Sets the current text of the file.
    pub(super) fn saw(&mut self, text: Option<String>) {
        self.seen = text;
    }

    /// Waits until the file has another text, checking at this interval; forever without a file.
    /// One that is away for a moment is about to be replaced.
    pub(super) async fn changed(&mut self, every: Option<Duration>) {
        let (Some(every), Some(file)) = (every, self.file.clone()) else {
            return std::future::pending().await;
        };
        loop {
            sleep(every).await;
            let file = file.clone();
            match self.reads.run(move || regular_text(&file)).await {
                Ok(now) if now.is_some() && now != self.seen => return,
                Ok(_) => self.has_warned = false,
                Err(hung) => self.warn(&hung),
            }
        }
    }

    /// Once for each time that it hangs.
    fn warn(&mut self, hung: &ReadError) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let file = self.file.as_deref().unwrap_or_default();
            tracing::warn!("cannot watch {file} for changes: {hung}; does its file system hang?");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::time::timeout;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    #[tokio::test(start_paused = true)]
    async fn change_is_seen_and_an_absence_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard.toml");
        fs::write(&path, "a").unwrap();
        let mut watch = ConfigWatch::new(path.to_str().map(str::to_owned), Some("a"));
        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::remove_file(&path).unwrap();
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::write(&path, "b").unwrap();
        assert!(timeout(hour, watch.changed(None)).await.is_err());
        watch.changed(SECOND).await;
        watch.saw(Some("b".to_owned()));
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        assert!(
            timeout(hour, ConfigWatch::new(None, None).changed(SECOND))
                .await
                .is_err()
        );
    }
}
