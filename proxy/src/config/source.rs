//! The sources of values, and their precedence.

use std::net::SocketAddr;

use super::given::{AllValues, Values};
use super::key::Key;
use super::kind::Shape;
use super::mistake::{ConfigError, Mistake, ValueSource};
use super::sections::{KEYS, admin, find, find_of_listener, top::LISTEN};
use super::settings::{self, Config};
use super::value::Value;
use super::{env, file};

/// A valid configuration, with the source of each value.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    pub(super) values: AllValues,
    file_text: Option<String>,
}

impl LoadedConfig {
    /// What was in the config file, if there is one.
    pub(crate) fn file_text(&self) -> Option<&str> {
        self.file_text.as_deref()
    }

    /// The certificates and keys that it names, each once.
    pub(crate) fn files(&self) -> Vec<String> {
        self.values.files()
    }
}

impl AllValues {
    fn files(&self) -> Vec<String> {
        let values = self;
        let routes = values.routes.iter().map(|route| &route.values);
        let listeners = values.listeners.iter().map(|listener| &listener.values);
        let all = [&values.global].into_iter().chain(routes).chain(listeners);
        let mut files = Vec::new();
        for (name, given) in all.flatten() {
            match &given.value {
                Value::Files(names) => files.extend(names.iter().cloned()),
                Value::Text(file)
                    if find(name)
                        .or_else(|| find_of_listener(name))
                        .is_some_and(|key| key.kind.shape == Shape::File) =>
                {
                    files.push(file.clone());
                }
                _ => {}
            }
        }
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// The name of a config file and its text.
pub(super) struct FileText {
    pub(super) name: String,
    pub(super) text: String,
}

/// All that a configuration is read from; nothing else is looked at.
#[derive(Default)]
pub(super) struct ConfigInputs {
    pub(super) flags: Vec<(&'static Key, String)>,
    pub(super) env: Vec<(String, String)>,
    /// The file, if there is one, or why it cannot be read.
    pub(super) file: Option<Result<FileText, Mistake>>,
    /// Defaults of this run.
    pub(super) demo: Vec<(String, String)>,
}

/// Reads all inputs and reports every mistake in them, or returns the combined config.
pub(super) fn read(inputs: ConfigInputs) -> Result<LoadedConfig, ConfigError> {
    let mut mistakes = Vec::new();
    let merged = merge(inputs, &mut mistakes);
    // Without the file, further checks would report mistakes that may not exist.
    if !merged.is_file_read {
        let files = Vec::new();
        return Err(ConfigError { mistakes, files });
    }
    let config = settings::read(&merged.values, &mut mistakes);
    match config {
        Some(config) if mistakes.is_empty() => Ok(LoadedConfig {
            config,
            values: merged.values,
            file_text: merged.file_text,
        }),
        _ => Err(ConfigError {
            mistakes,
            files: merged.values.files(),
        }),
    }
}

/// How a running proxy is reached.
#[derive(Debug)]
pub(crate) struct AdminAccess {
    /// `admin.listen`.
    pub(crate) listen: Option<SocketAddr>,
    /// `admin.token`.
    pub(crate) token: Option<String>,
    /// Mistakes because of which these may not be those of the proxy.
    pub(crate) mistakes: Vec<Mistake>,
}

/// Reads just the admin address and its token, also from inputs with mistakes.
pub(super) fn read_admin(inputs: ConfigInputs) -> AdminAccess {
    let mut mistakes = Vec::new();
    let merged = merge(inputs, &mut mistakes);
    let (listen, token) = admin::access(merged.values.proxy());
    // Of a file that cannot be read each mistake counts.
    if merged.is_file_read {
        mistakes.retain(|mistake| admin::ACCESS.contains(&mistake.key.as_str()));
    }
    AdminAccess {
        listen,
        token,
        mistakes,
    }
}

/// All inputs, merged by their rank.
struct MergedInputs {
    values: AllValues,
    file_text: Option<String>,
    /// Whether the file's values are among them; also if there is none.
    is_file_read: bool,
}

fn merge(inputs: ConfigInputs, mistakes: &mut Vec<Mistake>) -> MergedInputs {
    let mut flags = Values::new();
    for (key, text) in &inputs.flags {
        let source = ValueSource::Flag(format!("--{}", key.flag()));
        key.read(text, source, &mut flags, mistakes);
    }
    let env::EnvValues {
        defaults: env_defaults,
        values: env,
    } = env::read(&inputs.env, mistakes);
    let demo = read_demo(&inputs.demo, mistakes);
    let mut file_text = None;
    let file = match inputs.file {
        None => Some(AllValues::default()),
        Some(Ok(file)) => {
            let values = file::read(&file.name, &file.text, mistakes);
            file_text = Some(file.text);
            values
        }
        Some(Err(mistake)) => {
            mistakes.push(mistake);
            None
        }
    };
    let is_file_read = file.is_some();
    let file = file.unwrap_or_default();
    if !file.listeners.is_empty() {
        let set = [&file.global, &env, &flags].map(|values| values.get(LISTEN));
        mistakes.extend(set.into_iter().flatten().map(|given| {
            let problem = "is set beside [[listener]]: write each address as a [[listener]], or \
                           remove these tables";
            Mistake::new(given.source.clone(), LISTEN, problem)
        }));
    }
    let mut global = defaults(mistakes);
    for values in [env_defaults, demo, file.global, env, flags] {
        global.extend(values);
    }
    MergedInputs {
        values: AllValues {
            global,
            routes: file.routes,
            listeners: file.listeners,
        },
        file_text,
        is_file_read,
    }
}

fn defaults(mistakes: &mut Vec<Mistake>) -> Values {
    let mut values = Values::new();
    for key in KEYS {
        if let Some(text) = key.default {
            key.read(text, ValueSource::Default, &mut values, mistakes);
        }
    }
    values
}

fn read_demo(demo: &[(String, String)], mistakes: &mut Vec<Mistake>) -> Values {
    let mut values = Values::new();
    for (name, text) in demo {
        match find(name) {
            Some(key) => key.read(text, ValueSource::Demo, &mut values, mistakes),
            None => mistakes.push(Mistake::new(
                ValueSource::Demo,
                name,
                "not a key of the config",
            )),
        }
    }
    values
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Reads a file that is called `sse-guard.toml`.
    pub(crate) fn from_file(text: &str) -> Result<LoadedConfig, ConfigError> {
        read(ConfigInputs {
            file: Some(Ok(FileText {
                name: "sse-guard.toml".to_owned(),
                text: text.to_owned(),
            })),
            ..ConfigInputs::default()
        })
    }

    /// The lines of the error that the file brings about.
    pub(in super::super) fn problems(text: &str) -> Vec<String> {
        let error = from_file(text).unwrap_err();
        error.to_string().lines().map(str::to_owned).collect()
    }

    /// The config of a file without mistakes.
    pub(crate) fn config(text: &str) -> Config {
        match from_file(text) {
            Ok(loaded) => loaded.config,
            Err(error) => panic!("{error}"),
        }
    }

    /// The warnings about a file that also sets an upstream.
    pub(in super::super) fn warnings(text: &str) -> Vec<String> {
        config(&format!("upstream.url = 'http://app'\n{text}")).warnings
    }

    pub(in super::super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_demo_beats_default() {
        let key = find("heartbeat.interval").unwrap();
        let text = "[upstream]\nurl = 'http://app'\n[heartbeat]\ninterval = '3s'";
        let seconds = |flag: bool, env: bool, file: bool, demo: bool| {
            let name = "sse-guard.toml".to_owned();
            let text = if file {
                text
            } else {
                "upstream.url = 'http://app'"
            }
            .to_owned();
            let loaded = read(ConfigInputs {
                flags: flag.then(|| (key, "1s".to_owned())).into_iter().collect(),
                env: if env {
                    pairs(&[("SSE_GUARD_HEARTBEAT_INTERVAL", "2s")])
                } else {
                    Vec::new()
                },
                file: Some(Ok(FileText { name, text })),
                demo: if demo {
                    pairs(&[("heartbeat.interval", "4s")])
                } else {
                    Vec::new()
                },
            });
            let route = loaded.unwrap().config.routes.remove(0);
            route.settings.heartbeat.interval.unwrap().as_secs()
        };
        assert_eq!(seconds(true, true, true, true), 1);
        assert_eq!(seconds(false, true, true, true), 2);
        assert_eq!(seconds(false, false, true, true), 3);
        assert_eq!(seconds(false, false, false, true), 4);
        assert_eq!(seconds(false, false, false, false), 15);
    }

    #[test]
    fn variable_of_a_default_beats_only_the_default_of_its_key() {
        let env = [
            ("SSE_GUARD_DEFAULT_LISTEN", ":1"),
            ("SSE_GUARD_DEFAULT_DRAIN_DELAY", "1s"),
            ("SSE_GUARD_DEFAULT_DRAIN_WINDOW", "1s"),
            ("SSE_GUARD_DRAIN_WINDOW", "2s"),
        ];
        let text = "upstream.url = 'http://app'\nlisten = ':3'".to_owned();
        let loaded = |file: bool, demo: bool| {
            let file = file.then(|| FileText {
                name: "a.toml".to_owned(),
                text: text.clone(),
            });
            let mut values = vec![("upstream.url", "http://app")];
            values.extend(demo.then_some(("listen", ":2")));
            let inputs = ConfigInputs {
                env: pairs(&env),
                file: file.map(Ok),
                demo: pairs(&values),
                ..ConfigInputs::default()
            };
            read(inputs).unwrap().config
        };
        let address = |file, demo| loaded(file, demo).listeners[0].address.tcp().unwrap();
        let port = |file, demo| address(file, demo).port();
        assert_eq!(port(false, false), 1);
        assert_eq!(port(false, true), 2);
        assert_eq!(port(true, true), 3);
        let drain = loaded(true, false).drain;
        assert_eq!(drain.delay.as_secs(), 1);
        assert_eq!(drain.window.as_secs(), 2);
    }

    #[test]
    fn override_of_a_route_beats_a_flag() {
        let text = "[upstream]\nurl = 'http://app'\n[[route]]\npath = '/v1'\nlimit.per_ip = 3";
        let loaded = read(ConfigInputs {
            flags: vec![(find("limit.per_ip").unwrap(), "7".to_owned())],
            file: Some(Ok(FileText {
                name: "a.toml".to_owned(),
                text: text.to_owned(),
            })),
            ..ConfigInputs::default()
        });
        let routes = loaded.unwrap().config.routes;
        let per_ip = routes
            .iter()
            .map(|route| route.settings.limit.per_ip.unwrap().get());
        assert_eq!(per_ip.collect::<Vec<_>>(), [3, 7]);
    }

    #[test]
    fn mistakes_of_all_places_are_reported_at_once() {
        let error = read(ConfigInputs {
            flags: vec![(find("listen").unwrap(), "8080".to_owned())],
            env: pairs(&[("SSE_GUARD_IDLE_TIMEOUT", "10")]),
            file: Some(Ok(FileText {
                name: "a.toml".to_owned(),
                text: "limit.per_ip = 0\nheartbeat.style = 'lines'".to_owned(),
            })),
            demo: pairs(&[("no.key", "1")]),
        });
        let mistakes = error.unwrap_err().mistakes;
        let places: Vec<String> = mistakes.iter().map(|m| m.source.to_string()).collect();
        let all = [
            "--listen",
            "SSE_GUARD_IDLE_TIMEOUT",
            "demo",
            "a.toml:1",
            "a.toml:2",
            "config",
        ];
        assert_eq!(places, all);
    }

    #[test]
    fn unreadable_file_hides_no_other_mistake() {
        let unreadable = Mistake::new(
            ValueSource::Flag("--config".to_owned()),
            "",
            "cannot read it",
        );
        let error = read(ConfigInputs {
            env: pairs(&[("SSE_GUARD_IDLE_TIMEOUT", "10")]),
            file: Some(Err(unreadable)),
            ..ConfigInputs::default()
        });
        assert_eq!(error.unwrap_err().mistakes.len(), 2);
    }
}
