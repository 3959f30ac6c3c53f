//! The command line: a flag for each key, and the subcommands.

use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use super::env::CONFIG_ENV;
use super::key::{Key, flag_name};
use super::kind::{Kind, Shape};
use super::sections::KEYS;
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
/// Ports of `demo` behind the one that is given: of its upstream, and of the dashboard.
pub(crate) const DEMO_MORE_PORTS: u16 = 2;
/// Ports that `demo` takes.
const DEMO_PORTS: std::ops::RangeInclusive<i64> = 1..=(u16::MAX - DEMO_MORE_PORTS) as i64;

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
/// It reads the arguments only; [`load`](super::load) adds environment and file.
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
                    .value_parser(clap::value_parser!(u16).range(DEMO_PORTS))
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
    let arg = match key.alias {
        Some(alias) => arg.visible_alias(alias),
        None => arg,
    };
    if key.kind.is_list() || key.kind.shape == Shape::ListenAll {
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
    let rest = rest.replace(['_', '.'], " ").replace(" tls", " TLS");
    format!("{}{rest}", first.to_uppercase())
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
        Shape::BoolOrPort => "true|false|PORT",
        Shape::Text | Shape::Filled => "TEXT",
        Shape::Path => "PATH",
        Shape::Header => "NAME",
        Shape::UpstreamHost => "auto|pass|upstream|HOST",
        Shape::File => "FILE",
        Shape::Files => "FILE,...",
        Shape::Folder => "FOLDER",
        Shape::ServerName => "NAME",
        Shape::Secret => "SECRET",
        Shape::Address => "IP:PORT",
        Shape::Listen | Shape::ListenAll => "IP:PORT|unix:PATH|fd:NAME",
        Shape::Mode => "MODE",
        Shape::Url => "URL",
        Shape::Networks => "CIDR,...",
        Shape::Proxies => "CIDR,...|unix",
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
    use super::*;

    #[test]
    fn command_is_valid_for_clap() {
        command().debug_assert();
    }

    #[test]
    fn help_has_every_key_and_the_precedence() {
        let help = command().render_long_help().to_string();
        for key in KEYS {
            assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
            assert!(help.contains(&key.env()), "{}", key.name);
        }
        assert!(help.contains("A flag overrides the environment"));
        assert!(help.contains("\nHealth check:\n"), "{help}");
        assert!(help.contains("\nUpstream TLS:\n"), "{help}");
    }
}
