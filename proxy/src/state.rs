//! The state of the running proxy: its config, which reloads replace, and what outlives a reload.

use super::carryover::Carryover;
use super::config::{Config, ConfigError, LoadedConfig};
use super::config_reader::{ConfigReader, ReadConfig};
use super::health::HealthMonitor;
use super::listen::{Bound, ClientListener, ListenError, Listener, Step, listen, plan};
use super::route::Router;
use arc_swap::ArcSwap;
use sse_guard::EventError;
use sse_guard::internal::lock;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Which sockets the service manager passed; the config's addresses do not apply to them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inherited {
    pub(super) listen: bool,
    pub(super) admin: bool,
}

/// A config and the router built from it.
pub(super) struct ActiveConfig {
    pub(super) loaded: LoadedConfig,
    /// The sockets of its listeners.
    bound: Vec<Bound>,
    pub(super) router: Router,
    pub(super) since: Instant,
}

impl ActiveConfig {
    fn new(
        loaded: LoadedConfig,
        bound: Vec<Bound>,
        carryover: &Carryover,
        previous: Option<&Self>,
    ) -> Result<Self, EventError> {
        let previous = previous.map(|previous| (previous.config(), &previous.router));
        Ok(Self {
            router: Router::new(&loaded.config, carryover, previous)?,
            loaded,
            bound,
            since: Instant::now(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.loaded.config
    }
}

/// The state of the running proxy.
pub(super) struct ProxyState {
    reader: ConfigReader,
    pub(super) carryover: Carryover,
    pub(super) health: HealthMonitor,
    inherited: Inherited,
    active: ArcSwap<ActiveConfig>,
    reload_error: Mutex<Option<String>>,
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
    /// For each listener of the config.
    pub(super) listeners: Vec<Step>,
    /// Those that are new.
    pub(super) opened: Vec<ClientListener>,
    /// In place of the one there is, or none from now on.
    pub(super) admin: Option<Option<Listener>>,
}

impl Reloaded {
    fn requires_restart(&mut self, key: Option<&'static str>) {
        let key = key.filter(|key| !self.waiting.contains(key));
        self.waiting.extend(key);
    }
}

/// Threads are started once, and so is the log.
const AT_START: [&str; 2] = ["threads", "log.format"];

impl ProxyState {
    pub(super) fn new(
        reader: ConfigReader,
        loaded: LoadedConfig,
        carryover: Carryover,
        inherited: Inherited,
    ) -> Result<Self, EventError> {
        let listeners = loaded.config.listeners.iter().cloned();
        let bound = listeners.map(|config| Bound {
            is_inherited: inherited.listen || config.address.passed().is_some(),
            config,
        });
        let bound = bound.collect();
        let active = ActiveConfig::new(loaded, bound, &carryover, None)?;
        Ok(Self {
            reader,
            carryover,
            health: HealthMonitor::default(),
            inherited,
            active: ArcSwap::from_pointee(active),
            reload_error: Mutex::default(),
        })
    }

    pub(super) fn active(&self) -> Arc<ActiveConfig> {
        self.active.load_full()
    }

    /// Why the last reload failed, if it did.
    pub(super) fn reload_error(&self) -> Option<String> {
        lock(&self.reload_error).clone()
    }

    /// Reads the config again, for [`reload`](Self::reload).
    pub(super) fn read_config(&self) -> impl Future<Output = ReadConfig> + use<> {
        let reader = self.reader.clone();
        let known = self.active().loaded.files();
        async move { reader.read(known).await }
    }

    /// Uses this config for new streams. Atomic: on an error the old config stays in use completely.
    pub(super) fn reload(
        &self,
        loaded: Result<LoadedConfig, ConfigError>,
    ) -> Result<Reloaded, ReloadError> {
        let result = loaded.map_err(Into::into);
        let result = result.and_then(|loaded| self.try_reload(loaded));
        *lock(&self.reload_error) = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn try_reload(&self, loaded: LoadedConfig) -> Result<Reloaded, ReloadError> {
        let old = self.active();
        let changed = loaded.changes_from(&old.loaded);
        let mut reloaded = Reloaded {
            waiting: AT_START
                .into_iter()
                .filter(|key| changed.contains(key))
                .collect(),
            changed,
            ..Reloaded::default()
        };
        let config = &loaded.config;
        let steps = plan(&old.bound, &config.listeners);
        let mut bound = Vec::new();
        for (step, listener) in steps.iter().zip(&config.listeners) {
            bound.push(match step {
                Step::Keep(index) | Step::Hold(index) => {
                    let before = old.bound[*index].clone();
                    let key = match step {
                        Step::Hold(_) => Some(listener.key),
                        _ => listener.changed_file_key(&before.config),
                    };
                    reloaded.requires_restart(key);
                    before
                }
                Step::Open => {
                    let opened = ClientListener::open(listener, config.takeover)?;
                    reloaded.opened.push(opened);
                    Bound {
                        config: listener.clone(),
                        is_inherited: false,
                    }
                }
            });
        }
        reloaded.listeners = steps;
        let (before, address) = (old.config().admin.listen, config.admin.listen);
        if address != before {
            let port = |address: Option<SocketAddr>| address.map(|address| address.port());
            let is_ours = address.is_some() && port(address) == port(before);
            let is_inherited = self.inherited.admin && address.is_some();
            if self.carryover.ended().is_some() && !is_ours && !is_inherited {
                let listener =
                    address.map(|address| listen("admin.listen", address, config.takeover));
                reloaded.admin = Some(listener.transpose()?);
            } else {
                // Nothing was counted for it, or we hold the port ourselves.
                reloaded.waiting.push("admin.listen");
            }
        }
        let active = ActiveConfig::new(loaded, bound, &self.carryover, Some(&old))?;
        self.active.store(Arc::new(active));
        drop(old);
        self.carryover.prune();
        Ok(reloaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{command, from_file};
    use crate::ended::EndedStreams;
    use std::net::TcpListener;

    const INHERITED: Inherited = Inherited {
        listen: true,
        admin: true,
    };

    fn config(keys: &str) -> LoadedConfig {
        from_file(&format!("upstream.url = 'http://127.0.0.1:9'\n{keys}")).unwrap()
    }

    fn state(keys: &str, inherited: Inherited) -> ProxyState {
        let reader = ConfigReader::new(command().get_matches_from(["sse-guard"]), Vec::new());
        let carryover = Carryover::new(Some(Arc::new(EndedStreams::default())));
        ProxyState::new(reader, config(keys), carryover, inherited).unwrap()
    }

    #[tokio::test]
    async fn reload_to_an_address_in_use_keeps_the_config_whole() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        for key in ["listen", "admin.listen"] {
            let state = state("", Inherited::default());
            let before = state.active();
            let loaded = config(&format!("heartbeat.interval = '7s'\n{key} = '{address}'"));
            let error = state.reload(Ok(loaded)).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ReloadError::Listen(_)), "{text}");
            assert!(
                text.starts_with(&format!("{key} = \"{address}\"")),
                "{text}"
            );
            assert!(Arc::ptr_eq(&before, &state.active()));
            assert_eq!(state.reload_error(), Some(text));
        }
    }

    #[tokio::test]
    async fn reload_that_succeeds_clears_the_error_of_the_one_before() {
        let state = state("", Inherited::default());
        assert!(state.reload(from_file("no_such_key = 1")).is_err());
        assert!(state.reload_error().unwrap().contains("no_such_key"));
        let reloaded = state
            .reload(Ok(config("heartbeat.interval = '7s'")))
            .unwrap();
        assert_eq!(reloaded.changed, ["heartbeat.interval"]);
        assert!(reloaded.waiting.is_empty());
        assert_eq!(state.reload_error(), None);
    }

    #[tokio::test]
    async fn reload_opens_a_listener_for_each_address_that_changes() {
        let free = |ip: &str| {
            let socket = TcpListener::bind((ip, 0)).unwrap();
            socket.local_addr().unwrap()
        };
        let (clients, admin) = (free("127.0.0.88"), free("127.0.0.89"));
        let state = state("", Inherited::default());
        let loaded = config(&format!("listen = '{clients}'\nadmin.listen = '{admin}'"));
        let reloaded = state.reload(Ok(loaded)).unwrap();
        let active = state.active();
        let url = reloaded.opened[0].url(&active.config().listeners[0]);
        assert_eq!(url, format!("http://{clients}"));
        let listener = reloaded.admin.flatten().unwrap();
        assert_eq!(listener.socket.local_addr().unwrap(), admin);
        assert!(reloaded.waiting.is_empty());
        let reloaded = state.reload(Ok(config("admin.listen = 'off'"))).unwrap();
        assert!(reloaded.admin.is_some_and(|listener| listener.is_none()));
    }

    #[tokio::test]
    async fn reload_of_an_address_that_this_process_or_its_manager_holds_requires_a_restart() {
        let keys = "listen = '127.0.0.1:8088'\nadmin.listen = '127.0.0.1:8089'";
        let same_ports = "listen = '127.0.0.2:8088'\nadmin.listen = '127.0.0.2:8089'\nadmin.token = '0123456789abcdef'";
        let other_ports = "listen = '127.0.0.1:8090'\nadmin.listen = '127.0.0.1:8091'";
        for (inherited, changed) in [(Inherited::default(), same_ports), (INHERITED, other_ports)] {
            let state = state(keys, inherited);
            let reloaded = state.reload(Ok(config(changed))).unwrap();
            assert_eq!(reloaded.waiting, ["listen", "admin.listen"]);
            assert!(reloaded.opened.is_empty() && reloaded.admin.is_none());
        }
    }

    #[tokio::test]
    async fn reload_of_what_is_read_at_the_start_requires_a_restart() {
        let state = state("", Inherited::default());
        let changed = "threads = 3\nlog.format = 'json'\nlog.level = 'debug'";
        let reloaded = state.reload(Ok(config(changed))).unwrap();
        assert_eq!(reloaded.waiting, ["threads", "log.format"]);
    }
}
