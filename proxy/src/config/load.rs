//! Reads flags, environment and file.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read};

use clap::ArgMatches;

use super::env::CONFIG_ENV;
use super::key::ENV_PREFIX;
use super::mistake::{ConfigError, Mistake, ValueSource};
use super::sections::KEYS;
use super::source::{self, AdminAccess, ConfigInputs, FileText, LoadedConfig};

/// The variables of this process, in a form that [`load`] takes.
///
/// A value that is not UTF-8 gets replacement characters, so that `load` reports it instead of
/// this panicking.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

/// Reads the configuration from the arguments of a [`command`](super::command), from the variables in `env`, and
/// from the file that either of them names.
///
/// `overrides` are defaults for this run, as pairs of a key's name and its text in the spelling of
/// a flag; they rank just above the defaults of [`KEYS`]. Call it again with the same arguments to
/// reload.
///
/// # Errors
///
/// Reports every mistake there is, at once; a file that cannot be read is one of them.
pub fn load(
    matches: &ArgMatches,
    env: impl Iterator<Item = (String, String)>,
    overrides: &[(&str, String)],
) -> Result<LoadedConfig, ConfigError> {
    source::read(inputs(matches, env, overrides))
}

/// The part of the configuration by which a running proxy is reached. Mistakes elsewhere do not matter.
pub(crate) fn load_admin(
    matches: &ArgMatches,
    env: impl Iterator<Item = (String, String)>,
) -> AdminAccess {
    source::read_admin(inputs(matches, env, &[]))
}

fn inputs(
    matches: &ArgMatches,
    env: impl Iterator<Item = (String, String)>,
    overrides: &[(&str, String)],
) -> ConfigInputs {
    // Flags may stand before a subcommand or after it; clap hands them all down to it.
    let matches = matches.subcommand().map_or(matches, |(_, inner)| inner);
    // Sorted, so that mistakes have a stable order; of two with one name the last counts.
    let env: BTreeMap<String, String> = env
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect();
    let file = file(matches, &env);
    ConfigInputs {
        flags: KEYS
            .iter()
            .filter_map(|key| {
                let texts: Vec<&str> = matches
                    .get_many::<String>(key.name)?
                    .map(String::as_str)
                    .collect();
                Some((key, texts.join(",")))
            })
            .collect(),
        file: file.map(|(source, name)| read_file(source, &name)),
        env: env.into_iter().collect(),
        demo: overrides
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.clone()))
            .collect(),
    }
}

/// The name of the file that [`load`] would read.
pub(crate) fn file_name(
    matches: &ArgMatches,
    mut env: impl Iterator<Item = (String, String)>,
) -> Option<String> {
    let matches = matches.subcommand().map_or(matches, |(_, inner)| inner);
    let flag = matches.get_one::<String>("config").cloned();
    flag.or_else(|| {
        env.find(|(name, _)| name == CONFIG_ENV)
            .map(|(_, file)| file)
    })
}

fn read_file(source: ValueSource, name: &str) -> Result<FileText, Mistake> {
    match read_text(name) {
        Ok(text) => Ok(FileText {
            name: name.to_owned(),
            text,
        }),
        Err(error) => Err(unreadable(source, name, &error)),
    }
}

fn unreadable(source: ValueSource, name: &str, why: &impl Display) -> Mistake {
    Mistake::new(source, "", format!("cannot read {name}: {why}"))
}

/// Bytes that a config file may have. One of all keys has some 20 KB.
const MAX_FILE: u64 = 4 << 20;

/// The text of a file, unless it is longer than any config.
pub(crate) fn read_text(name: &str) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(name)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        let problem = format!(
            "it is longer than {} MiB, the limit of a config file",
            MAX_FILE >> 20
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

/// The error of a config whose file cannot be read, with the reason.
pub(crate) fn hung(
    matches: &ArgMatches,
    env: impl Iterator<Item = (String, String)>,
    why: &impl Display,
) -> ConfigError {
    let matches = matches.subcommand().map_or(matches, |(_, inner)| inner);
    let env: BTreeMap<String, String> = env.filter(|(name, _)| name == CONFIG_ENV).collect();
    let mistake = match file(matches, &env) {
        Some((source, name)) => {
            let why =
                format!("{why}; is it a pipe without a writer, or on a file system that hangs?");
            unreadable(source, &name, &why)
        }
        None => Mistake::new(ValueSource::Config, "", why.to_string()),
    };
    ConfigError {
        mistakes: vec![mistake],
        files: Vec::new(),
    }
}

/// The file that flags or else the environment name.
fn file(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Option<(ValueSource, String)> {
    let flag = matches.get_one::<String>("config").cloned();
    let of_flag = flag.map(|name| (ValueSource::Flag("--config".to_owned()), name));
    let of_env = || {
        Some((
            ValueSource::Env(CONFIG_ENV.to_owned()),
            env.get(CONFIG_ENV)?.clone(),
        ))
    };
    of_flag.or_else(of_env)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::command::command;
    use super::super::key::flag_name;
    use super::super::kind::Shape;
    use super::*;

    const UPSTREAM: &str = "--upstream-url=http://app";

    fn matches(args: &[&str]) -> ArgMatches {
        command()
            .try_get_matches_from([&["sse-guard"], args].concat())
            .unwrap()
    }

    fn load_args(args: &[&str]) -> LoadedConfig {
        load(&matches(args), std::iter::empty(), &[]).unwrap()
    }

    #[test]
    fn renamed_key_is_a_mistake_that_names_the_new_one() {
        for key in KEYS {
            let Some(old) = key.former_name else {
                continue;
            };
            let args = ["sse-guard", &format!("--{}=1", flag_name(old))];
            let error = command().try_get_matches_from(args).unwrap_err();
            let hint = format!("it is now called --{}", key.flag());
            assert!(error.to_string().contains(&hint), "{error}");

            let variable = (super::super::key::env_name(old), "1".to_owned());
            let error = load(&matches(&[UPSTREAM]), [variable].into_iter(), &[]).unwrap_err();
            let hint = format!("is now called {}", key.env());
            assert!(error.to_string().contains(&hint), "{error}");

            let (table, leaf) = old.split_once('.').unwrap();
            for head in ["", "[[route]]\npath = '/'\n"] {
                let text = format!("upstream.url = 'http://app'\n{head}{table}.{leaf} = 1\n");
                let lines = super::super::source::tests::problems(&text);
                let hint = format!("{old}: is now called {}", key.name);
                assert!(lines.iter().any(|line| line.ends_with(&hint)), "{lines:?}");
            }
        }
    }

    #[test]
    fn keys_are_flags() {
        for key in KEYS {
            let text = key.default.unwrap_or(match key.kind.shape {
                _ if key.kind.off => "off",
                Shape::Count => "2",
                Shape::Duration => "2s",
                Shape::Methods => "GET",
                Shape::Choice(words) => words[0],
                _ => "http://app",
            });
            let arg = format!("--{}={text}", key.flag());
            let mut args = vec![arg.as_str()];
            if key.name != "upstream.url" {
                args.push(UPSTREAM);
            }
            let loaded = load_args(&args);
            let source = ValueSource::Flag(format!("--{}", key.flag()));
            assert_eq!(loaded.values.global[key.name].source, source);
        }
    }

    #[test]
    fn flags_may_stand_on_either_side_of_the_subcommand() {
        for name in ["check", "demo"] {
            let loaded = load_args(&[UPSTREAM, name, "--limit-per-ip", "7"]);
            let limit = &loaded.config.routes[0].settings.limit;
            assert_eq!(limit.per_ip.map(std::num::NonZeroU32::get), Some(7));
        }
    }

    #[test]
    fn flag_upstream_is_short_for_upstream_url() {
        let loaded = load_args(&["--upstream", "http://app"]);
        assert_eq!(loaded.config.routes.len(), 1);
    }

    #[test]
    fn flag_without_a_value_is_true_and_takes_no_subcommand() {
        let immediate = |args: &[&str]| {
            load_args(args).config.routes[0]
                .settings
                .heartbeat
                .immediate
        };
        let args = [UPSTREAM, "--heartbeat-immediate", "check"];
        assert_eq!(immediate(&args), Some(true));
        assert_eq!(matches(&args).subcommand_name(), Some("check"));
        let args = [UPSTREAM, "--heartbeat-immediate=false"];
        assert_eq!(immediate(&args), Some(false));
        assert_eq!(immediate(&[UPSTREAM, "--heartbeat-immediate=auto"]), None);
        assert_eq!(immediate(&[UPSTREAM]), None);
    }

    #[test]
    fn list_flags_take_commas_and_repetition() {
        let networks = "--trusted-proxies=10.0.0.0/8,::1";
        let loaded = load_args(&[UPSTREAM, networks, "--trusted-proxies=192.168.0.0/16"]);
        assert_eq!(loaded.config.trusted_proxies.networks.len(), 3);
    }

    #[test]
    fn text_flags_may_contain_commas() {
        let loaded = load_args(&[UPSTREAM, "--heartbeat-text=a, b"]);
        let style = &loaded.config.routes[0].settings.heartbeat.style;
        let text = "a, b".to_owned();
        assert_eq!(*style, super::super::Style::Auto { text });
    }

    #[test]
    fn defaults_of_the_run_rank_below_flags() {
        let overrides = [
            ("upstream.url", "http://demo"),
            ("heartbeat.interval", "2s"),
        ]
        .map(|(name, text): (&str, &str)| (name, text.to_owned()));
        let loaded = load(&matches(&["demo"]), std::iter::empty(), &overrides).unwrap();
        assert_eq!(
            loaded.values.global["heartbeat.interval"].source,
            ValueSource::Demo
        );
        let args = matches(&["demo", "--heartbeat-interval=3s"]);
        let loaded = load(&args, std::iter::empty(), &overrides).unwrap();
        let interval = loaded.config.routes[0].settings.heartbeat.interval;
        assert_eq!(interval, Some(std::time::Duration::from_secs(3)));
    }

    #[test]
    fn file_is_named_by_flag_or_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        fs::write(&path, "upstream.url = 'http://app'").unwrap();
        let name = path.to_str().unwrap();
        assert!(load(&matches(&["--config", name]), std::iter::empty(), &[]).is_ok());
        let env = [(CONFIG_ENV.to_owned(), name.to_owned())];
        assert!(load(&matches(&[]), env.into_iter(), &[]).is_ok());
    }

    #[test]
    fn file_that_is_missing_is_a_mistake_of_its_flag_or_variable() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.toml");
        assert!(!Path::exists(&missing));
        let name = missing.to_str().unwrap();
        let error = load(&matches(&["--config", name]), std::iter::empty(), &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("--config: cannot read"), "{text}");
        let env = [(CONFIG_ENV.to_owned(), name.to_owned())];
        let error = load(&matches(&[]), env.into_iter(), &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("SSE_GUARD_CONFIG: cannot read")
        );
    }
}
