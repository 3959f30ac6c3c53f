//! Reads the config from its sources: at the start, and for each reload.

use super::config::{self, ConfigError, LoadedConfig};
use super::off_thread::OffThread;
use super::watch;
use clap::ArgMatches;

/// Where the config comes from, each time it is read.
#[derive(Clone)]
pub(super) struct ConfigReader {
    pub(super) matches: ArgMatches,
    /// Of this run, above those of the keys.
    pub(super) defaults: Vec<(&'static str, String)>,
    thread: OffThread,
}

/// The result of reading the config.
pub(super) struct ReadConfig {
    pub(super) loaded: Result<LoadedConfig, ConfigError>,
    /// The previous text of the file, if it can be read twice.
    pub(super) seen: Option<String>,
}

impl ConfigReader {
    /// The name of the config file, if there is one.
    pub(super) fn file(&self) -> Option<String> {
        config::file_name(&self.matches, config::process_env())
    }

    pub(super) fn new(matches: ArgMatches, defaults: Vec<(&'static str, String)>) -> Self {
        Self {
            matches,
            defaults,
            thread: OffThread::default(),
        }
    }

    /// Reads all of it, off this thread: a path may block, and a long file takes its time.
    pub(super) async fn read(&self) -> ReadConfig {
        let reader = self.clone();
        let read = self.thread.run(move || ReadConfig {
            seen: reader.file().and_then(|file| watch::regular_text(&file)),
            loaded: config::load(&reader.matches, config::process_env(), &reader.defaults),
        });
        read.await.unwrap_or_else(|hung| ReadConfig {
            loaded: Err(config::hung(&self.matches, config::process_env(), &hung)),
            seen: None,
        })
    }
}
