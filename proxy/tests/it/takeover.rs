//! One process takes over from another, and no client is refused or given up meanwhile.

use crate::support::{Client, End, Origin, Proxy, free_address, wait_until};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const CLIENTS: usize = 8;

/// Event streams, and short answers for `/poll`.
fn origin() -> Origin {
    Origin::start(|received, to| {
        if received.path == "/poll" {
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\npoll");
            return;
        }
        to.stream();
        while to.chunk("data: 1\n\n") {
            thread::sleep(Duration::from_millis(20));
        }
    })
}

/// What readers and pollers do, and how far they have come.
#[derive(Default)]
struct Crowd {
    is_done: AtomicBool,
    /// Streams that each reader has had with an event in them.
    streams: [AtomicUsize; CLIENTS],
    polls: AtomicUsize,
}

/// Reads as a browser's `EventSource` does: comes back after each proper end, in the time that it was
/// told, and is dead for good by any status but 200. That it is never refused is asserted as well.
fn read(crowd: &Crowd, n: usize, addr: SocketAddr) {
    let mut retry = Duration::from_secs(3);
    while !crowd.is_done.load(SeqCst) {
        let mut client = Client::connect(addr);
        client.send("GET /feed HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n");
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(head.contains("text/event-stream"), "{head}");
        let mut text = String::new();
        if head.contains("content-length") {
            text = String::from_utf8(client.raw()).unwrap();
        } else {
            loop {
                let chunk = client.chunk().unwrap();
                if chunk.is_empty() {
                    break;
                }
                let is_first = !text.contains("data: 1\n\n");
                text.push_str(std::str::from_utf8(&chunk).unwrap());
                if is_first && text.contains("data: 1\n\n") {
                    crowd.streams[n].fetch_add(1, SeqCst);
                }
                if crowd.is_done.load(SeqCst) {
                    return;
                }
            }
        }
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("retry: "));
        if let Some(millis) = lines.next_back() {
            retry = Duration::from_millis(millis.parse().unwrap());
        }
        thread::sleep(retry);
    }
}

fn poll(crowd: &Crowd, addr: SocketAddr) {
    while !crowd.is_done.load(SeqCst) {
        let mut client = Client::connect(addr);
        client.send("GET /poll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let head = client.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert_eq!(client.raw(), b"poll");
        crowd.polls.fetch_add(1, SeqCst);
        thread::sleep(Duration::from_millis(100));
    }
}

fn start(crowd: &Arc<Crowd>, addr: SocketAddr) -> Vec<JoinHandle<()>> {
    let readers = (0..CLIENTS).map(|n| {
        let crowd = crowd.clone();
        thread::spawn(move || read(&crowd, n, addr))
    });
    let mut all: Vec<_> = readers.collect();
    let crowd = crowd.clone();
    all.push(thread::spawn(move || poll(&crowd, addr)));
    all
}

impl Crowd {
    fn streams(&self) -> Vec<usize> {
        self.streams.iter().map(|n| n.load(SeqCst)).collect()
    }

    /// Each reader has had events.
    fn wait_for_streams(&self) {
        wait_until("all readers have a stream", || {
            self.streams().iter().all(|streams| *streams > 0)
        });
    }

    /// The pollers get so many more answers.
    fn wait_for_polls(&self, count: usize) {
        let before = self.polls.load(SeqCst);
        wait_until("more polls", || self.polls.load(SeqCst) >= before + count);
    }
}

const FLAGS: [&str; 3] = [
    "--drain-window=1s",
    "--rotation-retry=100ms",
    "--limit-rate=off",
];

fn takes_over(address: &str, order: &str, flags: &[&str]) {
    let origin = origin();
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let flags = [&[upstream.as_str()], &FLAGS[..], flags].concat();
    let mut old = Proxy::listening(address, &flags);
    let addr = old.addr;
    let crowd = Arc::new(Crowd::default());
    let all = start(&crowd, addr);
    crowd.wait_for_streams();
    let mut new = None;
    if order == "start, TERM" {
        new = Some(Proxy::listening(&addr.to_string(), &flags));
        crowd.wait_for_polls(3);
    }
    old.signal("-TERM");
    let mut new = new.unwrap_or_else(|| Proxy::listening(&addr.to_string(), &flags));
    assert_eq!(old.wait().code(), Some(0));
    assert!(!all.iter().any(JoinHandle::is_finished), "somebody is dead");
    // Of those that the new process had from the start on, another would never come.
    let is_served = || {
        let streams = crowd.streams();
        streams.iter().all(|streams| *streams >= 1) && new_streams(&new) >= CLIENTS
    };
    wait_until("all readers are with the new process", is_served);
    crowd.wait_for_polls(3);
    crowd.is_done.store(true, SeqCst);
    for one in all {
        one.join().unwrap();
    }
    new.stop();
}

fn new_streams(proxy: &Proxy) -> usize {
    proxy.log().matches("\"stream opened\"").count()
}

#[test]
fn process_started_after_the_signal_takes_over_without_a_failure() {
    takes_over("127.0.0.1:0", "TERM, start", &[]);
}

#[test]
fn process_started_after_the_signal_takes_over_on_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return crate::support::skipped("no IPv6 on loopback");
    }
    takes_over("[::1]:0", "TERM, start", &[]);
}

#[test]
fn process_started_before_the_signal_takes_over_if_both_allow_it() {
    takes_over("127.0.0.1:0", "start, TERM", &["--takeover=always"]);
}

#[test]
fn admin_address_is_taken_over() {
    let origin = origin();
    let flags = ["--drain-window=10h", "--admin-listen=127.0.0.1:0"];
    let mut old = Proxy::start(origin.addr, &flags);
    let admin = old.admin().to_string();
    old.signal("-TERM");
    old.wait_for_log("\"stopping");
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let flags = [&upstream, "--admin-listen", &admin];
    let new = Proxy::listening(&old.addr.to_string(), &flags);
    assert_eq!(new.admin().to_string(), admin);
    assert!(new.log().contains("taking"), "{}", new.log());
    old.signal("-TERM");
    assert_eq!(old.wait().code(), Some(0));
    let mut client = Client::connect(new.admin());
    client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(client.head().starts_with("http/1.1 200 "));
}

#[test]
fn second_process_without_a_signal_fails() {
    let origin = origin();
    let mut first = Proxy::start(origin.addr, &["--drain-window=10h"]);
    // Also once the port was shared.
    for _ in 0..2 {
        let copy = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
            .args(["--upstream", "http://127.0.0.1:9", "--admin-listen=off"])
            .args(["--listen", &first.addr.to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(copy.status.code(), Some(1));
        let told = String::from_utf8(copy.stderr).unwrap();
        assert!(told.contains("another process listens there"), "{told}");
        first.signal("-TERM");
        first.wait_for_log("\"stopping");
        let upstream = format!("--upstream-url=http://{}", origin.addr);
        let flags = [upstream.as_str(), "--drain-window=10h"];
        first = Proxy::listening(&first.addr.to_string(), &flags);
    }
}

#[test]
fn several_listeners_are_taken_over_together() {
    let second = free_address();
    let listen = format!("--listen={second}");
    let origin = origin();
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let flags = [&[upstream.as_str(), &listen], &FLAGS[..]].concat();
    let mut old = Proxy::listening("127.0.0.1:0", &flags);
    let crowds = [old.addr, second].map(|addr| {
        let crowd = Arc::new(Crowd::default());
        let all = start(&crowd, addr);
        (crowd, all)
    });
    for (crowd, _) in &crowds {
        crowd.wait_for_streams();
    }
    old.signal("-TERM");
    let mut new = Proxy::listening(&old.addr.to_string(), &flags);
    new.wait_for_log_lines("taking over", 2);
    assert_eq!(old.wait().code(), Some(0));
    wait_until("all readers are with the new process", || {
        new_streams(&new) >= 2 * CLIENTS
    });
    for (crowd, all) in crowds {
        crowd.wait_for_polls(3);
        crowd.is_done.store(true, SeqCst);
        for one in all {
            one.join().unwrap();
        }
    }
    new.stop();
}

#[test]
fn inherited_sockets_outlive_the_process_with_their_queued_requests() {
    let origin = origin();
    let socket = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (clients, admin) = (socket(), socket());
    let addr = clients.local_addr().unwrap();
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let flags = [upstream.as_str(), "--drain-window=0s"];
    let mut first = Proxy::activated(&clients, &admin, &flags);
    assert_eq!(first.addr, addr);
    assert_eq!(first.admin(), admin.local_addr().unwrap());
    let mut reader = first.get("/feed");
    reader.head();
    reader.read_until("data: 1\n\n");
    first.signal("-TERM");
    assert_eq!(reader.rest().1, End::Clean);
    assert_eq!(first.wait().code(), Some(0));
    // Nobody accepts it for now.
    let mut waits = TcpStream::connect(addr).unwrap();
    waits
        .write_all(b"GET /poll HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut second = Proxy::activated(&clients, &admin, &flags);
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut waits, &mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\npoll"), "{answer}");
    second.stop();
}
