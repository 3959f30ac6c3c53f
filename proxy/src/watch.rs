//! Watches the config file, and the files that it names, for changes.
//!
//! By its content, not by notifications of a file system: mounted configs are swapped by links, and
//! network file systems do not notify.

use super::config::read_text;
use super::off_thread::{OffThread, ReadError};
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// Bytes of a file that count. Larger ones are refused.
const MAX_FILE: u64 = 8 << 20;

/// A certificate or a key, with what it contained when the config was read. Not its bytes, which may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WatchedFile {
    name: String,
    /// Nothing if it cannot be read.
    hash: Option<u64>,
}

impl WatchedFile {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hash: hash_of(name),
        }
    }

    /// Whatever it contains is a change.
    pub(super) fn unread(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hash: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// One that is away for a moment is about to be replaced.
    fn has_changed(&self) -> bool {
        let now = hash_of(&self.name);
        now.is_some() && now != self.hash
    }
}

fn hash_of(name: &str) -> Option<u64> {
    let is_regular = Path::new(name).metadata().is_ok_and(|file| file.is_file());
    let mut file = File::open(name).ok().filter(|_| is_regular)?.take(MAX_FILE);
    let (mut hasher, mut bytes) = (DefaultHasher::new(), [0; 4096]);
    loop {
        match file.read(&mut bytes).ok()? {
            0 => return Some(hasher.finish()),
            len => hasher.write(&bytes[..len]),
        }
    }
}

/// The last known text of the file, and the others that it names.
pub(super) struct ConfigWatch {
    file: Option<String>,
    seen: Option<String>,
    others: Vec<WatchedFile>,
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
    pub(super) fn new(file: Option<String>, seen: Option<&str>, others: Vec<WatchedFile>) -> Self {
        Self {
            file,
            seen: seen.map(str::to_owned),
            others,
            reads: OffThread::default(),
            has_warned: false,
        }
    }

    /// Sets the current text of the file, and the files that it names.
    pub(super) fn saw(&mut self, text: Option<String>, others: Vec<WatchedFile>) {
        self.seen = text;
        self.others = others;
    }

    /// Waits until one of the files has other contents, checking at this interval; forever without a file.
    /// One that is away for a moment is about to be replaced.
    pub(super) async fn changed(&mut self, every: Option<Duration>) {
        let Some(every) = every.filter(|_| self.file.is_some() || !self.others.is_empty()) else {
            return std::future::pending().await;
        };
        loop {
            sleep(every).await;
            let (file, seen, others) = (self.file.clone(), self.seen.clone(), self.others.clone());
            let has_changed = move || {
                let now = file.and_then(|file| regular_text(&file));
                now.is_some() && now != seen || others.iter().any(WatchedFile::has_changed)
            };
            match self.reads.run(has_changed).await {
                Ok(true) => return,
                Ok(false) => self.has_warned = false,
                Err(hung) => self.warn(&hung),
            }
        }
    }

    /// Once for each time that it hangs.
    fn warn(&mut self, hung: &ReadError) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let others = self.others.iter().map(WatchedFile::name);
            let files: Vec<_> = self.file.as_deref().into_iter().chain(others).collect();
            let files = files.join(", ");
            tracing::warn!("cannot watch {files} for changes: {hung}; does a file system hang?");
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
        let mut watch = ConfigWatch::new(path.to_str().map(str::to_owned), Some("a"), Vec::new());
        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::remove_file(&path).unwrap();
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::write(&path, "b").unwrap();
        assert!(timeout(hour, watch.changed(None)).await.is_err());
        watch.changed(SECOND).await;
        watch.saw(Some("b".to_owned()), Vec::new());
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        assert!(
            timeout(
                hour,
                ConfigWatch::new(None, None, Vec::new()).changed(SECOND)
            )
            .await
            .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn change_of_a_file_that_the_config_names_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.pem");
        let name = path.to_str().unwrap();
        fs::write(&path, "a").unwrap();
        let mut watch = ConfigWatch::new(None, None, vec![WatchedFile::new(name)]);
        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::remove_file(&path).unwrap();
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::write(&path, "b").unwrap();
        watch.changed(SECOND).await;
        watch.saw(None, vec![WatchedFile::new(name)]);
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
    }
}
