//! The pages of the binary in a real browser, and streams as its `EventSource` gets them.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod browser;
mod dashboard;
mod demo;
mod eventsource;
mod http2;
#[path = "../support/mod.rs"]
mod support;
