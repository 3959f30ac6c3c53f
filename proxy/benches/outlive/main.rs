//! Do streams outlive their upstream, and is it left in peace when it is back?
//!
//!     cargo bench -p sse-guard-proxy --bench outlive             # both, some five minutes
//!     KILLS=20 cargo bench -p sse-guard-proxy --bench outlive -- kills
//!     CLIENTS=500 cargo bench -p sse-guard-proxy --bench outlive -- restart
//!
//! `kills`: an upstream process that numbers its events is killed (SIGKILL) at random places while
//! clients read to the last number. Each has to see every number once, in order, on one connection.
//!
//! `restart`: quiet clients hold a stream each when the upstream process is killed, and started again
//! five seconds later. Each has to be back, with heartbeats alone meanwhile. Told are how fast the
//! upstream was asked at the most, and how long it took until all were back.
//!
//! It fails if a client sees what it should not.

#![allow(
    clippy::unwrap_used,
    reason = "it stops at what it did not expect, and says where"
)]

mod client;
mod origin;
#[path = "../../tests/support/mod.rs"]
mod support;

use client::Numbers;
use origin::Upstream;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::Proxy;
use tokio::task::JoinHandle;

const FLAGS: [&str; 6] = [
    "--resume-mode=on",
    "--limit-per-ip=off",
    "--limit-rate=off",
    "--limit-total=off",
    "--log-stream-rate=1/h",
    "--heartbeat-interval=1s",
];

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name);
    value.map_or(default, |value| value.parse().unwrap())
}

fn start(upstream: SocketAddr, flags: &[&str]) -> Proxy {
    let all: Vec<_> = FLAGS.iter().chain(flags).copied().collect();
    Proxy::start(upstream, &all)
}

#[tokio::main]
async fn main() {
    if let Ok(address) = std::env::var(origin::LISTEN) {
        return origin::serve(&address).await;
    }
    let arguments: Vec<_> = std::env::args().collect();
    // Of the tests it is none.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let names = |what: &str| arguments.iter().any(|argument| argument == what);
    let all = !names("kills") && !names("restart");
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    if all || names("kills") {
        kills().await;
    }
    if all || names("restart") {
        restart().await;
    }
}

/// All clients, connected.
async fn read(
    proxy: &Proxy,
    clients: u64,
    last: u64,
    delivered: &Arc<AtomicU64>,
) -> Vec<JoinHandle<u64>> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Numbers::connect(proxy.addr).await);
    }
    let read = |numbers: Numbers| tokio::spawn(numbers.read(last, delivered.clone()));
    connected.into_iter().map(read).collect()
}

async fn kills() {
    let (kills, clients, last) = (
        number("KILLS", 200),
        number("CLIENTS", 100),
        number("LAST", 100_000),
    );
    let mut upstream = Upstream::start(last).await;
    let proxy = start(
        upstream.address,
        &[
            "--resume-backoff=100ms",
            "--resume-max-backoff=500ms",
            "--resume-rate=1000/s",
        ],
    );
    let delivered = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let reads = read(&proxy, clients, last, &delivered).await;
    let all = last * clients;
    for kill in 0..kills {
        // Spread over the whole, at a random place of each part.
        let at = (kill * all + fastrand::u64(0..all)) / kills;
        while delivered.load(Relaxed) < at {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        upstream.restart(Duration::ZERO).await;
        eprint!(
            "\rkilled {} of {kills} times, {} % of the events are there",
            kill + 1,
            delivered.load(Relaxed) * 100 / all
        );
    }
    eprintln!();
    let mut heartbeats = 0;
    for read in reads {
        heartbeats += read.await.unwrap();
    }
    println!(
        "kills: {clients} clients saw 1 to {last}, each once and in order, each on one connection, while \
         the upstream was killed {kills} times; {heartbeats} heartbeats; {:.0} s",
        begin.elapsed().as_secs_f64()
    );
}

async fn restart() {
    let (clients, rate) = (number("CLIENTS", 2_000), number("RATE", 100));
    let mut upstream = Upstream::start(0).await;
    let proxy = start(upstream.address, &[&format!("--resume-rate={rate}/s")]);
    let delivered = Arc::new(AtomicU64::new(0));
    let reads = read(&proxy, clients, 2, &delivered).await;
    // Each has had its first event, and the next comes on the next connection.
    while delivered.load(Relaxed) < clients {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lost = Instant::now();
    upstream.restart(Duration::from_secs(5)).await;
    let back = Instant::now();
    let mut heartbeats = 0;
    for read in reads {
        heartbeats += read.await.unwrap();
    }
    let (asked, most) = upstream.asked().await;
    println!(
        "restart: {clients} clients lost their upstream for {:.1} s, heard {heartbeats} heartbeats and no \
         end, and all were back {:.1} s after it was; it was asked {asked} times, at most {most} times in a \
         second, where resume.rate allows {rate}",
        (back - lost).as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
    assert!(most as u64 <= rate + 1, "asked {most} times in a second");
}
