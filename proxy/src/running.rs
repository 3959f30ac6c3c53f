//! The current config of the proxy, and its reload.
//!
//! New streams use the current config; live ones keep the config that they opened with. What
//! streams of both have in common is in [`Common`]: one drain, one count of each limit, the same
//! numbers.

use super::budget::{Budgets, Holders};
use super::config::{self, Config, ConfigError, Loaded, Rate};
use super::ended::EndedStreams;
use super::judge::Judge;
use super::listen::{ListenError, Listener, listen};
use super::off_thread::OffThread;
use super::phase::Phases;
use super::router::{Limit, Router};
use super::upstream::Tunnels;
use super::watch;
use arc_swap::ArcSwap;
use clap::ArgMatches;
use http::Uri;
use sse_guard::EventError;
use sse_guard::StreamRegistry;
use sse_guard::connection_limit::RejectReason;
use sse_guard::internal::LogLimits;
use sse_guard::internal::Registry;
use sse_guard::internal::lock;
use sse_guard::metrics::{LogLimit, MetricsLayer, Snapshot};
use sse_guard::resume::Admission;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Where the config comes from, each time it is read.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) matches: ArgMatches,
    /// Of this run, above those of the keys.
    pub(super) defaults: Vec<(&'static str, String)>,
    reads: OffThread,
}

/// The result of reading the config.
pub(super) struct Reading {
    pub(super) loaded: Result<Loaded, ConfigError>,
    /// The previous text of the file, if it can be read twice.
    pub(super) seen: Option<String>,
}

impl Source {
    /// The name of the config file, if there is one.
    pub(super) fn file(&self) -> Option<String> {
        config::file_name(&self.matches, config::process_env())
    }

    pub(super) fn new(matches: ArgMatches, defaults: Vec<(&'static str, String)>) -> Self {
        Self {
            matches,
            defaults,
            reads: OffThread::default(),
        }
    }

    /// Reads all of it, off this thread: a path may block, and a long file takes its time.
    pub(super) async fn read(&self) -> Reading {
        let source = self.clone();
        let read = self.reads.run(move || Reading {
            seen: source.file().and_then(|file| watch::regular_text(&file)),
            loaded: config::load(&source.matches, config::process_env(), &source.defaults),
        });
        read.await.unwrap_or_else(|hung| Reading {
            loaded: Err(config::hung(&self.matches, config::process_env(), &hung)),
            seen: None,
        })
    }
}

/// How fast, and how many at once.
type Pace = (Option<Rate>, NonZeroU32);

/// State that is kept across reloads.
#[derive(Default)]
pub(super) struct Common {
    pub(super) drain: StreamRegistry,
    /// Of clients.
    pub(super) connections: Registry,
    pub(super) budgets: Budgets,
    pub(super) judge: Judge,
    /// Connections that have switched protocols.
    pub(super) tunnels: Tunnels,
    /// Only with an admin address, which reads it.
    ended: Option<Arc<EndedStreams>>,
    /// The numbers of each path that has been a route.
    books: Mutex<Vec<(String, MetricsLayer)>>,
    /// The counts of each path that has some of its own, and those that routes share.
    limits: Mutex<Vec<(Option<String>, Limit)>>,
    /// Where streams wait to reconnect, at the rate of a config.
    queues: Mutex<Vec<(Uri, Pace, Admission)>>,
    log_limit: Mutex<Option<(Rate, LogLimit)>>,
    /// For lines about rejected requests.
    pub(super) rejections: Arc<LogLimits<RejectReason>>,
    phases: Phases,
    pub(super) inherited: Inherited,
}

/// Which sockets the service manager passed; the config's addresses do not apply to them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inherited {
    pub(super) listen: bool,
    pub(super) admin: bool,
}

impl Common {
    pub(super) fn new(ended: Option<Arc<EndedStreams>>, inherited: Inherited) -> Self {
        Self {
            ended,
            inherited,
            ..Self::default()
        }
    }

    /// What gives way when room is short.
    pub(super) fn holders(&self, ipv6_prefix: u8) -> Holders<'_> {
        Holders {
            connections: &self.connections,
            tunnels: &self.tunnels,
            streams: &self.drain,
            ipv6_prefix,
        }
    }

    fn books(&self) -> MutexGuard<'_, Vec<(String, MetricsLayer)>> {
        lock(&self.books)
    }

    /// The layer that has counted this route's streams so far, or a new one.
    pub(super) fn metrics(&self, path: &str) -> MetricsLayer {
        let mut books = self.books();
        if let Some((_, layer)) = books.iter().find(|(known, _)| known == path) {
            return layer.clone();
        }
        let mut layer = MetricsLayer::new().route(path);
        if let Some(ended) = self.ended.clone() {
            layer = layer
                .keep_heads()
                .on_end(move |stream| ended.add(stream));
        }
        books.push((path.to_owned(), layer.clone()));
        layer
    }

    /// These limits, counting on where those of this path have counted.
    pub(super) fn limit(&self, path: Option<&str>, limit: Limit) -> Limit {
        let mut limits = lock(&self.limits);
        let known = limits
            .iter_mut()
            .find(|(known, _)| known.as_deref() == path);
        match known {
            Some((_, known)) => {
                *known = limit.counting_with(known);
                known.clone()
            }
            None => {
                limits.push((path.map(str::to_owned), limit.clone()));
                limit
            }
        }
    }

    /// The queue of all streams that have lost this upstream.
    pub(super) fn queue(&self, upstream: &Uri, resume: &config::Resume) -> Admission {
        let pace = (resume.rate, resume.max_concurrent);
        let mut queues = lock(&self.queues);
        let known = queues
            .iter()
            .find(|(url, known, _)| url == upstream && *known == pace);
        if let Some((_, _, queue)) = known {
            return queue.clone();
        }
        let gap = resume.rate.map(|rate| rate.per / rate.count.get());
        let at_once = usize::try_from(resume.max_concurrent.get()).unwrap_or(usize::MAX);
        let queue = Admission::new(gap.unwrap_or_default(), at_once);
        queues.push((upstream.clone(), pace, queue.clone()));
        queue
    }

    /// Streams that hold a slot.
    pub(super) fn slots(&self) -> u64 {
        let limits = lock(&self.limits);
        limits.iter().map(|(_, limit)| limit.active()).sum()
    }

    /// The same for as long as the rate is.
    pub(super) fn log_limit(&self, rate: Option<Rate>) -> Option<LogLimit> {
        let rate = rate?;
        let mut known = lock(&self.log_limit);
        if let Some((_, limit)) = known.as_ref().filter(|(known, _)| *known == rate) {
            return Some(limit.clone());
        }
        let limit = LogLimit::new(rate.count, rate.per);
        *known = Some((rate, limit.clone()));
        Some(limit)
    }

    pub(super) fn ended(&self) -> Option<&Arc<EndedStreams>> {
        self.ended.as_ref()
    }

    /// The numbers of all routes that there have been.
    pub(super) fn snapshot(&self) -> Snapshot {
        let books = self.books();
        let all = books.iter().map(|(_, layer)| layer.snapshot());
        all.fold(Snapshot::default(), |sum, route| sum + route)
    }

    pub(super) fn phases(&self) -> &Phases {
        &self.phases
    }
}

/// A config and the router built from it.
pub(super) struct Current {
    pub(super) loaded: Loaded,
    pub(super) router: Router,
    pub(super) since: Instant,
}

impl Current {
    fn new(loaded: Loaded, common: &Common, old: Option<&Self>) -> Result<Self, EventError> {
        Ok(Self {
            router: Router::new(&loaded.config, common, old)?,
            loaded,
            since: Instant::now(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.loaded.config
    }
}

/// The current config, replaced by reloads.
pub(super) struct Running {
    source: Source,
    pub(super) common: Common,
    current: ArcSwap<Current>,
    refused: Mutex<Option<String>>,
}

/// Why a reload failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("config: {0}")]
    Event(#[from] EventError),
}

/// The result of a reload.
#[derive(Debug, Default)]
pub(super) struct Reloaded {
    /// The keys that have another value now; `route` for the keys of a route.
    pub(super) changed: Vec<&'static str>,
    /// Those of them that require a restart.
    pub(super) waiting: Vec<&'static str>,
    /// In place of the one there is.
    pub(super) listener: Option<Listener>,
    /// In place of the one there is, or none from now on.
    pub(super) admin: Option<Option<Listener>>,
}

/// Threads are started once, and so is the log.
const AT_START: [&str; 2] = ["threads", "log.format"];

impl Running {
    pub(super) fn new(source: Source, loaded: Loaded, common: Common) -> Result<Self, EventError> {
        let current = Current::new(loaded, &common, None)?;
        Ok(Self {
            source,
            common,
            current: ArcSwap::from_pointee(current),
            refused: Mutex::default(),
        })
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Why the last reload was refused, if it was.
    pub(super) fn last_refusal(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    /// Reads the config again, for [`reload`](Self::reload).
    pub(super) fn read(&self) -> impl Future<Output = Reading> + 'static {
        let source = self.source.clone();
        async move { source.read().await }
    }

    /// Uses this config for new streams. Atomic: on an error the old config stays in use completely.
    pub(super) fn reload(
        &self,
        loaded: Result<Loaded, ConfigError>,
    ) -> Result<Reloaded, ReloadError> {
        let result = loaded.map_err(Into::into);
        let result = result.and_then(|loaded| self.try_reload(loaded));
        *lock(&self.refused) = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn try_reload(&self, loaded: Loaded) -> Result<Reloaded, ReloadError> {
        let old = self.current();
        let changed = loaded.changes_from(&old.loaded);
        let mut reloaded = Reloaded {
            waiting: AT_START
                .into_iter()
                .filter(|key| changed.contains(key))
                .collect(),
            changed,
            ..Reloaded::default()
        };
        let (config, common) = (&loaded.config, &self.common);
        let (before, address) = (old.config().listen, config.listen);
        if address != before {
            if address.port() == before.port() || common.inherited.listen {
                // We hold it ourselves, or the service manager does.
                reloaded.waiting.push("listen");
            } else {
                reloaded.listener = Some(listen("listen", address, config.takeover)?);
            }
        }
        let (before, address) = (old.config().admin.listen, config.admin.listen);
        if address != before {
            let port = |address: Option<SocketAddr>| address.map(|address| address.port());
            let is_ours = address.is_some() && port(address) == port(before);
            let is_inherited = common.inherited.admin && address.is_some();
            if common.ended.is_some() && !is_ours && !is_inherited {
                let listener =
                    address.map(|address| listen("admin.listen", address, config.takeover));
                reloaded.admin = Some(listener.transpose()?);
            } else {
                // Nothing was counted for it, or we hold the port ourselves.
                reloaded.waiting.push("admin.listen");
            }
        }
        let current = Current::new(loaded, &self.common, Some(&old))?;
        self.current.store(Arc::new(current));
        Ok(reloaded)
    }
}
