//! The command line, built from the key table.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::key::{ENV_PREFIX, Key, flag_name};
use super::kind::{Kind, Shape};
use super::mistake::{ConfigError, Mistake, Place};
use super::sections::KEYS;
use super::source::{self, AdminAccess, CONFIG_ENV, FileText, Inputs, Loaded};
use super::value::Value;

const ABOUT: &str = "Reverse proxy that hardens Server-Sent Events streams";

const LONG_ABOUT: &str = "\
Reverse proxy that hardens Server-Sent Events streams.

It keeps quiet streams open through CDNs and load balancers, ends streams whose upstream is silent, \
limits the streams of each client, and spreads reconnects over time when the server restarts. All other \
responses pass through unchanged.";

const AFTER_HELP: &str = "\
Examples:
  sse-guard demo
      Try it without any setup
  sse-guard --upstream http://127.0.0.1:3000
      Proxy the server on port 3000; clients connect to 127.0.0.1:8080
  sse-guard --config sse-guard.toml --heartbeat-interval 5s
      Read a file, and override one value
  sse-guard check --config sse-guard.toml
      Print the effective config and the source of each value

Each key can be set by flag, environment variable or config file:
  --heartbeat-interval 5s
  SSE_GUARD_HEARTBEAT_INTERVAL=5s
  [heartbeat]
  interval = \"5s\"

A flag overrides the environment, which overrides the file, which overrides the default. A value in a \
[[route]] of the file overrides all of them for the paths of that route. Variables that begin with \
SSE_GUARD_DEFAULT_, such as SSE_GUARD_DEFAULT_LISTEN, rank below the file: they are defaults of an image.";

const CHECK_ABOUT: &str =
    "Validate the config; print the effective config and the source of each value";

const CHECK_AFTER_HELP: &str = "\
The config goes to standard output, mistakes and warnings to standard error. Exits with 0 if the \
config is valid, and with 2 if it is not.";

/// A flag of `check`.
pub(crate) const CHANGED: &str = "changed";
/// A flag of `check`.
pub(crate) const STRICT: &str = "strict";
/// Flag of `demo`.
pub(crate) const PORT: &str = "port";

const HEALTH_ABOUT: &str = "Check a running proxy, for images without an HTTP client";

const HEALTH_LONG_ABOUT: &str = "\
Check a running proxy, for images without an HTTP client.

Requests /readyz of the admin address: 200 while the proxy accepts new streams, 503 while it stops or \
a required upstream is unreachable. Exits with 0 if the status is 200, and with 1 otherwise; prints one \
line with the status and the reasons. If the proxy has an admin.token, only the reasons require it.

The address is admin.listen of the proxy's config: of the same file and environment, and of the flags of \
this command. Repeat flags of the proxy that set it, such as --config and --admin-listen.

In a Dockerfile:
  HEALTHCHECK --interval=10s --timeout=5s \\
    CMD [\"/usr/local/bin/sse-guard\", \"health\"]
Where unhealthy containers are restarted, as by Docker Swarm, use --live: a restart does not help while an \
upstream is unreachable, and closes streams.";

/// A flag of `health`.
pub(crate) const LIVE: &str = "live";
/// A flag of `health`.
pub(crate) const TIMEOUT: &str = "timeout";
/// Its default, below the timeout that container runtimes have.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

const DEMO_ABOUT: &str =
    "Start a demo upstream with fragile event streams, and the proxy in front of it";

/// The heading of flags that are in no table.
const TOP_HEADING: &str = "Proxy";

/// The command line of the proxy: a flag for each of [`KEYS`], `--config`, and the subcommands
/// `check`, `health` and `demo`, which take the same flags.
///
/// It reads the arguments only; [`load`] adds environment and file.
#[must_use]
pub fn command() -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help_heading(TOP_HEADING)
        .help("Config file, in TOML")
        .long_help(format!("Config file, in TOML\n[env: {CONFIG_ENV}]"))
        .global(true);
    Command::new("sse-guard")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(AFTER_HELP)
        .arg(config)
        .args(KEYS.iter().map(flag))
        .args(KEYS.iter().filter_map(renamed_flag))
        .subcommand(
            Command::new("check")
                .about(CHECK_ABOUT)
                .after_help(CHECK_AFTER_HELP)
                .arg(
                    Arg::new(CHANGED)
                        .long(CHANGED)
                        .action(ArgAction::SetTrue)
                        .help("Print only what differs from the defaults"),
                )
                .arg(
                    Arg::new(STRICT)
                        .long(STRICT)
                        .action(ArgAction::SetTrue)
                        .help("Exit with 2 if there are warnings"),
                ),
        )
        .subcommand(
            Command::new("health")
                .about(HEALTH_ABOUT)
                .long_about(HEALTH_LONG_ABOUT)
                .arg(
                    Arg::new(LIVE)
                        .long(LIVE)
                        .action(ArgAction::SetTrue)
                        .help("Request /healthz, which is 200 while the process runs"),
                )
                .arg(
                    Arg::new(TIMEOUT)
                        .long(TIMEOUT)
                        .value_name("DURATION")
                        .value_parser(timeout)
                        .help("Time limit of the whole check [default: 3s]"),
                ),
        )
        .subcommand(
            Command::new("demo").about(DEMO_ABOUT).arg(
                Arg::new(PORT)
                    .long(PORT)
                    .value_name("PORT")
                    .value_parser(clap::value_parser!(u16).range(super::super::demo::PORTS))
                    .help("Port of the proxy [default: 8080]; upstream and dashboard use the next two ports"),
            ),
        )
}

fn timeout(text: &str) -> Result<Duration, String> {
    match Value::from_text(Shape::Duration.into(), text)? {
        Value::Duration(duration) => Ok(duration),
        _ => Err("is not a duration".to_owned()),
    }
}

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

/// Reads the configuration from the arguments of a [`command`], from the variables in `env`, and
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
) -> Result<Loaded, ConfigError> {
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
) -> Inputs {
    // Flags may stand before a subcommand or after it; clap hands them all down to it.
    let matches = matches.subcommand().map_or(matches, |(_, inner)| inner);
    // Sorted, so that mistakes have a stable order; of two with one name the last counts.
    let env: BTreeMap<String, String> = env
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect();
    let file = file(matches, &env);
    Inputs {
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
        file: file.map(|(place, name)| read_file(place, &name)),
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

fn read_file(place: Place, name: &str) -> Result<FileText, Mistake> {
    match read_text(name) {
        Ok(text) => Ok(FileText {
            name: name.to_owned(),
            text,
        }),
        Err(error) => Err(unreadable(place, name, &error)),
    }
}

fn unreadable(place: Place, name: &str, why: &impl Display) -> Mistake {
    Mistake::new(place, "", format!("cannot read {name}: {why}"))
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
        Some((place, name)) => {
            let why =
                format!("{why}; is it a pipe without a writer, or on a file system that hangs?");
            unreadable(place, &name, &why)
        }
        None => Mistake::new(Place::Config, "", why.to_string()),
    };
    ConfigError {
        mistakes: vec![mistake],
    }
}

/// The file that flags or else the environment name.
fn file(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Option<(Place, String)> {
    let flag = matches.get_one::<String>("config").cloned();
    let of_flag = flag.map(|name| (Place::Flag("--config".to_owned()), name));
    let of_env = || {
        Some((
            Place::Env(CONFIG_ENV.to_owned()),
            env.get(CONFIG_ENV)?.clone(),
        ))
    };
    of_flag.or_else(of_env)
}

fn flag(key: &'static Key) -> Arg {
    let mut notes = format!("[env: {}]", key.env());
    if !key.per_route {
        notes.push_str(" [not per route]");
    }
    // A default of many words would bury the flag; its long help has room for it.
    let default = match key.default {
        Some("") => " [default: none]".to_owned(),
        Some(text) => format!(" [default: {text}]"),
        None => String::new(),
    };
    let short_default = if default.len() < 40 {
        default.as_str()
    } else {
        ""
    };
    let arg = Arg::new(key.name)
        .long(key.flag())
        .value_name(value_name(key.kind))
        .help(format!("{}{short_default}", key.help))
        .long_help(format!("{}{default}\n{notes}", key.help))
        .help_heading(heading(key))
        .global(true);
    let arg = if key.name == "upstream.url" {
        arg.visible_alias("upstream")
    } else {
        arg
    };
    if key.kind.is_list() {
        arg.action(ArgAction::Append)
    } else if matches!(key.kind.shape, Shape::Bool | Shape::BoolOrAuto) {
        // With `=`, so that a bare flag does not take a subcommand for its value.
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    } else {
        arg
    }
}

/// A flag that only names the one that replaces it.
fn renamed_flag(key: &'static Key) -> Option<Arg> {
    let old = key.former_name?;
    let renamed = Arg::new(old)
        .long(flag_name(old))
        .hide(true)
        .global(true)
        .value_parser(move |_: &str| -> Result<String, String> {
            Err(format!("it is now called --{}", key.flag()))
        });
    Some(renamed)
}

fn heading(key: &Key) -> String {
    let Some(table) = key.table_and_leaf().0 else {
        return TOP_HEADING.to_owned();
    };
    let (first, rest) = table.split_at(1);
    format!("{}{}", first.to_uppercase(), rest.replace('_', " "))
}

fn value_name(kind: Kind) -> String {
    let name = match kind.shape {
        Shape::Duration | Shape::DurationOrZero => "DURATION",
        Shape::DurationOrAuto => "DURATION|auto",
        Shape::Count => "N",
        Shape::Rate => "N/s",
        Shape::Size(..) => "SIZE",
        Shape::Fraction => "0..1",
        Shape::Bool => "true|false",
        Shape::BoolOrAuto => "auto|true|false",
        Shape::Text | Shape::Filled => "TEXT",
        Shape::Path => "PATH",
        Shape::Header => "NAME",
        Shape::Secret => "SECRET",
        Shape::Address => "IP:PORT",
        Shape::Url => "URL",
        Shape::Networks => "CIDR,...",
        Shape::Words => "NAME,...",
        Shape::Methods => "METHOD,...",
        Shape::Origins => "ORIGIN,...|upstream",
        Shape::ReadyWhen => "any|all|ROUTE,...",
        Shape::Prefix => "BITS",
        Shape::Choice(words) => &words.join("|"),
    };
    format!("{name}{}", if kind.off { "|off" } else { "" })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const UPSTREAM: &str = "--upstream-url=http://app";

    fn matches(args: &[&str]) -> ArgMatches {
        command()
            .try_get_matches_from([&["sse-guard"], args].concat())
            .unwrap()
    }

    fn load_args(args: &[&str]) -> Loaded {
        load(&matches(args), std::iter::empty(), &[]).unwrap()
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_table() {
        command().debug_assert();
    }

    #[test]
    fn a_renamed_key_names_its_new_name_in_every_place() {
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
    fn every_key_is_a_flag() {
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
            let place = Place::Flag(format!("--{}", key.flag()));
            assert_eq!(loaded.values.global[key.name].place, place);
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
    fn upstream_is_short_for_upstream_url() {
        let loaded = load_args(&["--upstream", "http://app"]);
        assert_eq!(loaded.config.routes.len(), 1);
    }

    #[test]
    fn a_bare_switch_is_true_and_takes_no_subcommand_for_its_value() {
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
    fn lists_take_commas_and_repetition() {
        let networks = "--trusted-proxies=10.0.0.0/8,::1";
        let loaded = load_args(&[UPSTREAM, networks, "--trusted-proxies=192.168.0.0/16"]);
        assert_eq!(loaded.config.trusted_proxies.len(), 3);
    }

    #[test]
    fn a_comma_in_a_text_is_a_comma() {
        let loaded = load_args(&[UPSTREAM, "--heartbeat-text=a, b"]);
        let style = &loaded.config.routes[0].settings.heartbeat.style;
        let text = "a, b".to_owned();
        assert_eq!(*style, super::super::Style::Auto { text });
    }

    #[test]
    fn defaults_of_the_run_rank_below_what_the_user_says() {
        let overrides = [
            ("upstream.url", "http://demo"),
            ("heartbeat.interval", "2s"),
        ]
        .map(|(name, text): (&str, &str)| (name, text.to_owned()));
        let loaded = load(&matches(&["demo"]), std::iter::empty(), &overrides).unwrap();
        assert_eq!(
            loaded.values.global["heartbeat.interval"].place,
            Place::Demo
        );
        let args = matches(&["demo", "--heartbeat-interval=3s"]);
        let loaded = load(&args, std::iter::empty(), &overrides).unwrap();
        let interval = loaded.config.routes[0].settings.heartbeat.interval;
        assert_eq!(interval, Some(std::time::Duration::from_secs(3)));
    }

    #[test]
    fn the_file_is_named_by_flag_or_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        fs::write(&path, "upstream.url = 'http://app'").unwrap();
        let name = path.to_str().unwrap();
        assert!(load(&matches(&["--config", name]), std::iter::empty(), &[]).is_ok());
        let env = [(CONFIG_ENV.to_owned(), name.to_owned())];
        assert!(load(&matches(&[]), env.into_iter(), &[]).is_ok());
    }

    #[test]
    fn a_missing_file_is_a_mistake_of_who_named_it() {
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

    #[test]
    fn help_teaches_every_key_and_the_precedence() {
        let help = command().render_long_help().to_string();
        for key in KEYS {
            assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
            assert!(help.contains(&key.env()), "{}", key.name);
        }
        assert!(help.contains("A flag overrides the environment"));
        assert!(help.contains("\nHealth check:\n"), "{help}");
    }
}
