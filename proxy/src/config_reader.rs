//! Reads the config from its sources: at the start, and for each reload.

use super::config::{self, ConfigError, LoadedConfig};
use super::off_thread::OffThread;
use super::watch::{self, WatchedFile};
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
    /// The files that the config names, and those of the config before if it cannot be used.
    pub(super) files: Vec<WatchedFile>,
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

    /// Reads all of it, off this thread: a path may block, and a long file takes its time. `known` are the files that
    /// the config before names.
    pub(super) async fn read(&self, known: Vec<String>) -> ReadConfig {
        let (reader, names) = (self.clone(), known.clone());
        let read = self.thread.run(move || {
            // First, so that what changes meanwhile is seen.
            let seen = reader.file().and_then(|file| watch::regular_text(&file));
            let mut files: Vec<_> = names.iter().map(|name| WatchedFile::new(name)).collect();
            let loaded = config::load(&reader.matches, config::process_env(), &reader.defaults);
            match &loaded {
                Ok(loaded) => files = watched(loaded.files(), &files),
                Err(error) => {
                    let new = error.files.iter().filter(|name| !names.contains(name));
                    files.extend(new.map(|name| WatchedFile::new(name)));
                }
            }
            ReadConfig {
                loaded,
                seen,
                files,
            }
        });
        read.await.unwrap_or_else(|hung| ReadConfig {
            loaded: Err(config::hung(&self.matches, config::process_env(), &hung)),
            seen: None,
            files: known.iter().map(|name| WatchedFile::unread(name)).collect(),
        })
    }
}

/// The files of these names, as they were before if they are among those.
fn watched(names: Vec<String>, before: &[WatchedFile]) -> Vec<WatchedFile> {
    let file = |name: String| {
        let known = before.iter().find(|file| file.name() == name);
        known.cloned().unwrap_or_else(|| WatchedFile::new(&name))
    };
    names.into_iter().map(file).collect()
}
