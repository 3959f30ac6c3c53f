//! Every workload against the origin, through the forwarder.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const BIN: &str = env!("CARGO_BIN_EXE_sseload");

/// A server of ours that ends with the test.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut child =
            Command::new(BIN).args(args).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        // "NAME on ADDR"
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, addr: line.trim().rsplit(' ').next().unwrap().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether it went well, and what it printed.
fn sseload(args: &[&str]) -> (bool, Vec<Value>) {
    let out = Command::new(BIN).args(args).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    (out.status.success(), text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The results of a workload on two forwarders in turn.
fn forwarded(workload: &[&str]) -> Vec<Value> {
    let origin = Server::start(&["origin"]);
    let proxies = ["a", "b"].map(|name| (name, Server::start(&["tcp-forward", "--to", &origin.addr])));
    let targets = proxies.each_ref().map(|(name, proxy)| format!("{name}={}@{}", proxy.addr, proxy.child.id()));
    let (well, runs) = sseload(&[workload, &["--origin", &origin.addr, "--targets", &targets.join(",")]].concat());
    assert!(well, "{runs:?}");
    let names: Vec<_> = runs.iter().map(|run| (run["workload"].as_str(), run["target"].as_str())).collect();
    assert_eq!(names, [(Some(workload[0]), Some("a")), (Some(workload[0]), Some("b"))]);
    runs
}

#[test]
fn idle() {
    for run in forwarded(&["idle", "--conns", "50", "--hold", "0.5", "--rest", "0.1"]) {
        assert_eq!((&run["opened"], &run["origin_streams_held"], &run["dropped"]), (&50.into(), &50.into(), &0.into()));
        assert!(run["origin_released_s"].as_f64().unwrap() < 5.0, "{run}");
        assert!(run["fds_per_conn"].as_f64().unwrap() >= 2.0, "{run}");
        assert_eq!(run["fds_kept"], 0, "{run}");
    }
}

/// The origin serves HTTP/2, too.
#[test]
fn streams_of_http2_share_connections() {
    let shared = ["--protocol", "h2", "--per-connection", "10"];
    for run in forwarded(&[&["idle", "--conns", "50", "--hold", "0.5", "--rest", "0.1"], &shared[..]].concat()) {
        assert_eq!((&run["opened"], &run["origin_streams_held"], &run["dropped"]), (&50.into(), &50.into(), &0.into()));
        // Five connections through a forwarder.
        assert_eq!((&run["fds_per_conn"], &run["fds_kept"]), (&0.2.into(), &0.into()), "{run}");
    }
    let latency = ["latency", "--conns", "20", "--rate", "50", "--secs", "1", "--warm-up", "0.5"];
    for run in forwarded(&[&latency, &shared[..]].concat()) {
        let received = run["received"].as_f64().unwrap();
        assert!((900.0..1100.0).contains(&received), "{run}");
        assert_eq!((&run["lost"], &run["misordered"], &run["foreign_events"]), (&0.into(), &0.into(), &0.into()));
    }
}

#[test]
fn latency() {
    for run in forwarded(&["latency", "--conns", "20", "--rate", "50", "--secs", "1", "--warm-up", "0.5"]) {
        let received = run["received"].as_f64().unwrap();
        assert!((900.0..1100.0).contains(&received), "{run}");
        assert_eq!((&run["lost"], &run["misordered"], &run["foreign_events"]), (&0.into(), &0.into(), &0.into()));
        assert!(run["p50_us"].as_f64().unwrap() > 0.0, "{run}");
    }
}

#[test]
fn throughput() {
    for chunk in ["0", "1000", "77"] {
        for run in forwarded(&["throughput", "--conns", "3", "--events", "5000", "--chunk", chunk]) {
            assert_eq!((&run["events"], &run["bytes"], &run["failed"]), (&15_000.into(), &3_000_000.into(), &0.into()));
            assert_eq!((&run["lost"], &run["misordered"]), (&0.into(), &0.into()), "{run}");
        }
    }
}

#[test]
fn churn() {
    for run in forwarded(&["churn", "--rate", "100", "--secs", "1"]) {
        assert_eq!((&run["done"], &run["failed"], &run["fds_left"]), (&100.into(), &0.into(), &0.into()), "{run}");
        assert_eq!((&run["origin_streams_left"], &run["origin_connections_left"]), (&0.into(), &0.into()), "{run}");
    }
}

#[test]
fn slow() {
    for run in forwarded(&["slow", "--conns", "5", "--secs", "2"]) {
        assert_eq!((&run["closed"], &run["reset"]), (&0.into(), &0.into()), "{run}");
        assert_eq!((&run["origin_streams_end"], &run["origin_streams_after_close"]), (&5.into(), &0.into()), "{run}");
        assert!(run["unsent_bytes_per_conn"].as_f64().unwrap() > 1000.0, "{run}");
        assert!(run["unread_bytes_per_conn"].as_f64().unwrap() > 1000.0, "{run}");
    }
}

#[test]
fn waiting() {
    for what in ["head", "next", "first"] {
        for run in forwarded(&["waiting", "--for", what, "--conns", "50", "--hold", "0.2", "--rest", "0.1"]) {
            assert_eq!((&run["opened"], &run["not_opened"], &run["dropped"]), (&50.into(), &0.into(), &0.into()));
            assert!(run["fds_per_conn"].as_f64().unwrap() >= 2.0, "{run}");
            assert_eq!(run["fds_kept"], 0, "{run}");
        }
    }
}

#[test]
fn what_fails_on_one_target_keeps_no_other_from_being_measured() {
    let origin = Server::start(&["origin"]);
    let proxy = Server::start(&["tcp-forward", "--to", &origin.addr]);
    let targets = format!("gone=127.0.0.1:1@{},there={}@{}", u32::MAX, proxy.addr, proxy.child.id());
    let run =
        ["idle", "--conns", "2", "--hold", "0.1", "--rest", "0.1", "--origin", &origin.addr, "--targets", &targets];
    let (well, runs) = sseload(&run);
    assert!(!well);
    assert!(runs[0]["error"].as_str().unwrap().contains("no process"), "{}", runs[0]);
    assert_eq!((&runs[1]["target"], &runs[1]["opened"]), (&"there".into(), &2.into()));
}
