//! The workloads.

pub mod churn;
pub mod handshake;
pub mod idle;
pub mod latency;
pub mod slow;
pub mod throughput;
pub mod waiting;
