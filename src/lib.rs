//! wip
pub mod wire;
#[allow(dead_code)]
pub mod client_key;
