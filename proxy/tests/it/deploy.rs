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
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SAMPLE: &str = include_str!("../../../deploy/sse-guard.toml");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const ALERT_CASES: &str = include_str!("../../../deploy/prometheus/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/sse-guard.json");
const UNIT: &str = include_str!("../../../deploy/systemd/sse-guard.service");
const SOCKET: &str = include_str!("../../../deploy/systemd/sse-guard.socket");
const ADMIN_SOCKET: &str = include_str!("../../../deploy/systemd/sse-guard-admin.socket");
const DOCKERFILE: &str = include_str!("../../../deploy/docker/Dockerfile");
const MANIFEST: &str = include_str!("../../../Cargo.toml");
const URL: &str = "http://127.0.0.1:3000";

/// The value of a setting of a unit.
fn unit_value<'a>(unit: &'a str, name: &str) -> &'a str {
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().unwrap()
}

#[test]
fn socket_units_open_the_default_addresses_and_their_sockets_are_used() {
    for (unit, key) in [(SOCKET, "listen"), (ADMIN_SOCKET, "admin.listen")] {
        let key = KEYS.iter().find(|known| known.name == key).unwrap();
        assert_eq!(Some(unit_value(unit, "ListenStream")), key.default);
        assert_eq!(unit_value(unit, "Service"), "sse-guard.service");
    }
    let names = [SOCKET, ADMIN_SOCKET].map(|unit| unit_value(unit, "FileDescriptorName"));
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = [0, 1].map(|index: usize| sockets[index].local_addr().unwrap());
    let origin = Origin::held();
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let sockets = sockets.map(OwnedFd::from);
    let mut proxy = Proxy::activated_with(sockets, &names.join(":"), &[&upstream]);
    assert_eq!([proxy.addr, proxy.admin()], addresses);
    assert!(proxy.get("/").head().starts_with("http/1.1 200 "));
    proxy.signal("-TERM");
    proxy.signal("-TERM");
    proxy.wait();
}
