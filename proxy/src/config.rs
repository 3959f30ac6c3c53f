//! The configuration: tables of keys, four sources of values, and the typed result.
//!
//! Every key has one name in three spellings, all derived from [`KEYS`]:
//!
//! | where | spelling |
//! | --- | --- |
//! | file | `interval` in `[heartbeat]`, in messages `heartbeat.interval` |
//! | flag | `--heartbeat-interval` |
//! | environment | `SSE_GUARD_HEARTBEAT_INTERVAL` |
//!
//! A table of the file is a module in `sections`: its keys, its part of the typed result, and how
//! that is read from the values.
//!
//! # Which value counts
//!
//! For the proxy as a whole: flag, else environment, else file, else default. A value in a
//! `[[route]]` of the file is more specific than any of them and overrides them all on its paths;
//! so `--heartbeat-interval 5s` changes each route but those that name an interval of their own.
//!
//! # What a result guarantees
//!
//! A [`Config`] holds only values that make sense, alone and together, so nothing behind it has to
//! check again. Reading does not stop at the first [`Mistake`]: a [`ConfigError`] lists all of them,
//! each with its source and what would be right, and repeats no value that may hold a secret.

mod command;
mod env;
mod file;
mod given;
mod key;
mod kind;
mod listen_address;
mod load;
mod mistake;
mod not_toml;
mod print;
mod route;
mod sections;
mod settings;
mod source;
mod suggest;
mod unix;
mod value;

pub use super::path::Normalize;
pub use command::command;
pub(crate) use command::{CHANGED, DEFAULT_TIMEOUT, DEMO_MORE_PORTS, LIVE, PORT, STRICT, TIMEOUT};
pub(super) use key::SystemLimits;
pub use key::{Key, Table};
pub use kind::{Kind, Shape};
pub use listen_address::ListenAddress;
pub(super) use load::{file_name, hung, load_admin, read_text};
pub use load::{load, process_env};
pub use mistake::{ConfigError, Mistake, ValueSource};
pub(super) use print::Entry;
pub use route::RoutePath;
pub(super) use sections::port_of;
pub use sections::{
    Acme, AcmeChallenge, AcmeName, Admin, Budget, Budgets, Client, Completion, Drain, Early,
    Health, HealthCheck, Heartbeat, Http2Mode, HttpsRedirect, Idle, IdleAction, KEYS, LISTENER,
    Level, Limit, LimitKey, ListenerConfig, Log, LogFormat, LogRequests, OwnCounts, ProxyProtocol,
    ProxyVersion, Reject, RequestsFormat, Resume, Rotation, Style, TABLES, Takeover, TrustedHeader,
    Unavailable, Upstream, UpstreamHost,
};
pub use settings::{Config, Route, Settings};
pub(super) use source::AdminAccess;
pub use source::LoadedConfig;
#[cfg(test)]
pub(super) use source::tests::from_file;
pub(super) use unix::unix_socket;
pub use unix::{FileMode, TrustedProxies};
pub use value::{Origins, Rate, ReadyWhen};
