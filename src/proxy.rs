//! The reverse proxy behind the `sse-guard` binary: the crate's layers in front of any upstream.
//!
//! A request goes accept loop (`server`), client and route (`router`), the public layers,
//! `upstream`; its response goes back through the same layers. It contains no private variant of a
//! layer.
//!
//! Not part of the crate's stable interface: the binary and its tests use it.

mod activation;
mod admin;
mod budget;
mod cli;
pub mod config;
mod demo;
mod files;
mod headers;
mod health_command;
mod judge;
mod listen;
mod logging;
mod notify;
mod off_thread;
mod path;
mod percent;
mod phase;
mod pulse;
mod request_log;
mod request_target;
mod router;
mod running;
mod server;
mod stream_flag;
mod upstream;
mod watch;

pub use crate::memory::collect_memory_with;
pub use cli::main;
#[doc(hidden)]
pub use upstream::chunked;
