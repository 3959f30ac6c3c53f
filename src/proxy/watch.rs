//! A look at the config file from time to time.
//!
//! By its content, not by the notices of a file system: mounted configs are swapped by links, and
//! network file systems tell nobody.

use std::time::Duration;
use tokio::time::sleep;

/// What was seen last.
pub(super) struct Watch {
    file: Option<String>,
    seen: Option<Vec<u8>>,
}

impl Watch {
    /// What was in the file when the config was read is known: it may have changed since.
    pub(super) fn new(file: Option<String>, seen: Option<&str>) -> Self {
        let seen = seen.map(|text| text.as_bytes().to_vec());
        Self { file, seen }
    }

    /// What is in the file now is known, if it is watched: a pipe can be read once.
    pub(super) fn look(&mut self, every: Option<Duration>) {
        if every.is_some() {
            self.seen = self.read();
        }
    }

    fn read(&self) -> Option<Vec<u8>> {
        std::fs::read(self.file.as_ref()?).ok()
    }

    /// Until the file says something else, looking so often; for ever if there is none. One that is
    /// away for a moment is about to be replaced.
    pub(super) async fn changed(&self, every: Option<Duration>) {
        let (Some(every), true) = (every, self.file.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            sleep(every).await;
            let now = self.read();
            if now.is_some() && now != self.seen {
                return;
            }
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
    async fn a_change_is_seen_and_an_absence_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard.toml");
        fs::write(&path, "a").unwrap();
        let mut watch = Watch::new(path.to_str().map(str::to_owned), Some("a"));
        let hour = Duration::from_secs(3600);
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::remove_file(&path).unwrap();
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        fs::write(&path, "b").unwrap();
        assert!(timeout(hour, watch.changed(None)).await.is_err());
        watch.changed(SECOND).await;
        watch.look(SECOND);
        assert!(timeout(hour, watch.changed(SECOND)).await.is_err());
        assert!(
            timeout(hour, Watch::new(None, None).changed(SECOND))
                .await
                .is_err()
        );
    }
}
