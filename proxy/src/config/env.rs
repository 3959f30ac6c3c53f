//! Reads environment variables.

use super::given::Values;
use super::key::{ENV_PREFIX, Key, env_name};
use super::mistake::{Mistake, ValueSource};
use super::sections::{KEYS, renamed};
use super::suggest;

/// The variable that names the config file.
pub(super) const CONFIG_ENV: &str = "SSE_GUARD_CONFIG";

/// The prefix of variables that rank below the file, for images: the file that a user mounts overrides
/// them.
const DEFAULT_PREFIX: &str = "SSE_GUARD_DEFAULT_";

/// The values of variables, by their rank.
#[derive(Default)]
pub(super) struct EnvValues {
    /// Below the file.
    pub(super) defaults: Values,
    /// Above it.
    pub(super) values: Values,
}

/// Reads the variables of this program; those of containers are left alone.
pub(super) fn read(variables: &[(String, String)], mistakes: &mut Vec<Mistake>) -> EnvValues {
    let mut env = EnvValues::default();
    for (name, text) in variables {
        if !name.starts_with(ENV_PREFIX) || name == CONFIG_ENV || of_a_container(name, text) {
            continue;
        }
        let source = ValueSource::Env(name.clone());
        let (prefix, rest, values) = match name.strip_prefix(DEFAULT_PREFIX) {
            Some(rest) => (DEFAULT_PREFIX, rest, &mut env.defaults),
            None => (ENV_PREFIX, &name[ENV_PREFIX.len()..], &mut env.values),
        };
        // The variable as it would be called above the file.
        let plain = format!("{ENV_PREFIX}{rest}");
        let in_its_rank = |plain: &str| plain.replacen(ENV_PREFIX, prefix, 1);
        if let Some(key) = KEYS.iter().find(|key| key.env() == plain) {
            key.read(text, source, values, mistakes);
            continue;
        }
        if let Some(key) = renamed(&plain, env_name) {
            let problem = format!("is now called {}", in_its_rank(&key.env()));
            mistakes.push(Mistake::new(source, "", problem));
            continue;
        }
        let names: Vec<String> = KEYS.iter().map(Key::env).collect();
        let of_a_file = (prefix == ENV_PREFIX).then_some(CONFIG_ENV);
        let known = names.iter().map(String::as_str).chain(of_a_file);
        let hint = match suggest::nearest(&plain, known) {
            Some(near) => format!("; did you mean {}?", in_its_rank(near)),
            None => "; `sse-guard --help` lists them all".to_owned(),
        };
        mistakes.push(Mistake::new(source, "", format!("unknown variable{hint}")));
    }
    env
}

/// Whether the variable is one that Kubernetes or Docker sets for a service called `sse-guard`.
///
/// Kubernetes sets `SSE_GUARD_SERVICE_HOST`, `SSE_GUARD_PORT_8080_TCP_ADDR` and the like in every
/// pod beside such a service; taking them for mistakes would keep the proxy from starting there.
fn of_a_container(name: &str, text: &str) -> bool {
    let protocols = ["TCP", "UDP", "SCTP"];
    let parts: Vec<&str> = name.split('_').collect();
    let port_link = parts.windows(3).any(|parts| {
        parts[0] == "PORT"
            && parts[1].bytes().all(|byte| byte.is_ascii_digit())
            && protocols.contains(&parts[2])
    });
    let service = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    port_link || service || (name.ends_with("_PORT") && text.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::super::mistake::ConfigError;
    use super::super::source::tests::pairs;
    use super::super::source::{self, ConfigInputs, LoadedConfig};
    use super::*;

    fn from_env(variables: &[(&str, &str)]) -> Result<LoadedConfig, ConfigError> {
        let mut env = pairs(variables);
        env.push(("SSE_GUARD_UPSTREAM_URL".to_owned(), "http://app".to_owned()));
        source::read(ConfigInputs {
            env,
            ..ConfigInputs::default()
        })
    }

    #[test]
    fn variable_of_a_default_is_named_in_its_mistakes() {
        let error = from_env(&[
            ("SSE_GUARD_DEFAULT_CONFIG", "a.toml"),
            ("SSE_GUARD_DEFAULT_LISTENN", ":80"),
            ("SSE_GUARD_DEFAULT_LIMIT_PER_IP", "0"),
            ("SSE_GUARD_DEFAULT_IDLE_PINGS", "a"),
        ]);
        let text = error.unwrap_err().to_string();
        for part in [
            "SSE_GUARD_DEFAULT_CONFIG: unknown variable",
            "SSE_GUARD_DEFAULT_LISTENN: unknown variable; did you mean SSE_GUARD_DEFAULT_LISTEN?",
            "SSE_GUARD_DEFAULT_LIMIT_PER_IP: 0 would reject everything",
            "SSE_GUARD_DEFAULT_IDLE_PINGS: is now called SSE_GUARD_DEFAULT_IDLE_IGNORE_EVENTS",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(
            KEYS.iter()
                .all(|key| !key.env().starts_with(DEFAULT_PREFIX))
        );
    }

    #[test]
    fn variable_that_is_unknown_is_a_mistake_with_a_hint() {
        let error = from_env(&[
            ("SSE_GUARD_HEARTBEAT_INTERVALL", "1s"),
            ("SSE_GUARD_X", "1"),
        ]);
        assert_eq!(
            error.unwrap_err().to_string(),
            "SSE_GUARD_HEARTBEAT_INTERVALL: unknown variable; did you mean SSE_GUARD_HEARTBEAT_INTERVAL?\n\
             SSE_GUARD_X: unknown variable; `sse-guard --help` lists them all"
        );
    }

    #[test]
    fn variables_of_containers_are_ignored() {
        let loaded = from_env(&[
            ("PATH", "/bin"),
            ("SSE_GUARD_CONFIG", "a.toml"),
            ("SSE_GUARD_SERVICE_HOST", "10.0.0.1"),
            ("SSE_GUARD_SERVICE_PORT_HTTP", "80"),
            ("SSE_GUARD_PORT", "tcp://10.0.0.1:80"),
            ("SSE_GUARD_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("SSE_GUARD_PORT_80_TCP_ADDR", "10.0.0.1"),
        ]);
        assert!(loaded.is_ok(), "{loaded:?}");
    }

    #[test]
    fn variables_of_keys_are_not_those_of_containers() {
        for key in KEYS {
            assert!(!of_a_container(&key.env(), "http://app"), "{}", key.name);
        }
    }
}
