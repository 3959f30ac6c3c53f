//! The reverse proxy behind the `sse-guard` binary: the layers of the crate
//! [`sse-guard`](sse_guard) in front of any upstream.
//!
//! A request goes accept loop (`server`), client and route (`route`), the layers, `upstream`; its
//! response goes back through the same layers. It contains no private variant of a layer.
//!
//! Not a stable interface: only the binary, its tests and the fuzz targets use it. To embed the
//! layers, use the crate `sse-guard`.

#![forbid(unsafe_code)]

mod acme;
mod activation;
mod admin;
mod carryover;
mod cgroup;
mod cli;
mod client_keys;
pub mod config;
mod config_reader;
mod control;
mod demo;
mod ended;
mod fd_limit;
mod headers;
mod health;
mod health_command;
mod json_stream_flag;
mod listen;
mod listeners;
mod logging;
mod maintenance;
mod memory;
mod notify;
mod off_thread;
mod overload;
mod path;
mod percent;
mod phase;
mod reload;
mod request_context;
mod request_log;
mod request_target;
mod route;
mod server;
mod shutdown;
mod state;
mod tls;
mod upstream;
mod watch;

pub use cli::main;
pub use memory::release_memory_with;
#[doc(hidden)]
pub use request_target::resolve_target;
#[doc(hidden)]
pub use upstream::chunked;
