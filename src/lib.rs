//! wip
pub mod client_key;
pub mod connection_limit;
mod guard;
mod head;
pub mod heartbeat;
pub mod idle_timeout;
mod rejection;
pub mod rotation;
mod stream;
pub mod wire;
