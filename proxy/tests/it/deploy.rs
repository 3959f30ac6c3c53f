//! What `deploy/` ships goes with the code: its config, its metric names, its unit.

mod monitoring;
mod sample_config;
mod service;

use crate::support::{Client, Origin, PATIENCE, Proxy, gate, wait_until};
use prometheus_parse::{Sample, Scrape};
use serde_json::Value;
use sse_guard::EndReason;
use sse_guard::connection_limit::RejectReason;
use sse_guard_proxy::config::KEYS;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SAMPLE: &str = include_str!("../../../deploy/sse-guard.toml");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const ALERT_CASES: &str = include_str!("../../../deploy/prometheus/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/sse-guard.json");
const UNIT: &str = include_str!("../../../deploy/systemd/sse-guard.service");
const DOCKERFILE: &str = include_str!("../../../deploy/docker/Dockerfile");
const MANIFEST: &str = include_str!("../../../Cargo.toml");
const URL: &str = "http://127.0.0.1:3000";
