//! The real binary on real sockets: a module for each subject.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod acme;
mod addresses;
mod admin;
#[cfg(target_os = "linux")]
mod budget;
mod clients;
mod config;
mod connection_auth;
mod deploy;
mod early;
mod endpoints;
mod endurance;
mod families;
mod faults;
#[cfg(target_os = "linux")]
mod files;
mod handoff;
mod heads;
mod health;
mod health_command;
mod http;
mod http10;
mod http2;
mod injection;
mod interim_heads;
mod ipv6;
mod judgement;
mod kinds;
mod limits;
mod listener_tls;
mod listeners;
mod logs;
mod parser;
#[cfg(target_os = "linux")]
mod paths;
mod pressure;
mod proxy_protocol;
mod reload;
mod requests;
mod response_leftovers;
mod resume;
mod routes;
mod stop;
mod stream;
#[path = "../support/mod.rs"]
mod support;
#[cfg(target_os = "linux")]
mod takeover;
mod target;
mod twins;
mod unix_sockets;
mod uploads;
mod upstream_host;
mod upstream_http2;
mod upstream_tls;
mod waiting;
