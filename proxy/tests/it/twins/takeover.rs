//! One process takes over from another, and no client over TLS or HTTP/2 is refused or loses a request.

use super::*;
use crate::support::Proxy;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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

/// Readers and pollers of each way, and how far they have come.
struct Crowd {
    addrs: [SocketAddr; 2],
    authority: Authority,
    is_done: AtomicBool,
    polls: [AtomicUsize; Way::ALL.len()],
    streams: [AtomicUsize; Way::ALL.len()],
}

impl Crowd {
    fn start(addrs: [SocketAddr; 2], authority: Authority) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let crowd = Arc::new(Self {
            addrs,
            authority,
            is_done: AtomicBool::new(false),
            polls: Default::default(),
            streams: Default::default(),
        });
        let mut all = Vec::new();
        for (n, way) in Way::ALL.into_iter().enumerate() {
            for _ in 0..2 {
                let crowd = crowd.clone();
                all.push(thread::spawn(move || crowd.read(n, way)));
            }
            let crowd = crowd.clone();
            all.push(thread::spawn(move || crowd.poll(n, way)));
        }
        (crowd, all)
    }

    fn connect(&self, way: Way) -> Peer {
        let addr = self.addrs[usize::from(way.has_tls())];
        Peer::connect(way, addr, &self.authority)
    }

    /// Reads as a browser's `EventSource` does: comes back after each proper end, in the time that it was told.
    fn read(&self, n: usize, way: Way) {
        let mut retry = Duration::from_secs(3);
        while !self.is_done.load(SeqCst) {
            let mut client = self.connect(way);
            client.get("/feed");
            let status = client.status();
            if client.is_to_be_repeated {
                continue;
            }
            assert_eq!(status, Some(200), "{way:?} {}", client.head);
            assert!(client.head.contains("text/event-stream"), "{}", client.head);
            let mut text = String::new();
            loop {
                let piece = client
                    .piece()
                    .unwrap_or_else(|| panic!("{way:?} is cut off: {text}"));
                if piece.is_empty() {
                    break;
                }
                let is_first = !text.contains("data: 1\n\n");
                text.push_str(std::str::from_utf8(&piece).unwrap());
                if is_first && text.contains("data: 1\n\n") {
                    self.streams[n].fetch_add(1, SeqCst);
                }
                if self.is_done.load(SeqCst) {
                    return;
                }
            }
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("retry: "));
            let millis = lines
                .next_back()
                .unwrap_or_else(|| panic!("{way:?}: no retry: {text}"));
            retry = Duration::from_millis(millis.parse().unwrap()).min(retry);
            thread::sleep(retry);
        }
    }

    /// One request after the other; with HTTP/2 on one connection until its GOAWAY.
    fn poll(&self, n: usize, way: Way) {
        while !self.is_done.load(SeqCst) {
            let mut client = self.connect(way);
            while client.try_poll("/poll") {
                let status = client.status();
                if client.is_to_be_repeated {
                    break;
                }
                assert_eq!(status, Some(200), "{way:?} {}", client.head);
                assert_eq!(client.rest(), (b"poll".to_vec(), End::Clean), "{way:?}");
                self.polls[n].fetch_add(1, SeqCst);
                thread::sleep(Duration::from_millis(20));
                if !way.is_http2() || self.is_done.load(SeqCst) {
                    break;
                }
            }
        }
    }

    /// Each way gets so many more.
    fn wait_for_more(&self, counts: &[AtomicUsize], more: usize, all: &[JoinHandle<()>]) {
        let before: Vec<_> = counts.iter().map(|count| count.load(SeqCst)).collect();
        wait_until("more of each way", || {
            let now = counts.iter().map(|count| count.load(SeqCst));
            now.zip(&before).all(|(now, before)| now >= before + more)
                || all.iter().any(JoinHandle::is_finished)
        });
    }
}

fn takes_over(is_first_stopped: bool) {
    let origin = origin();
    let url = format!("http://{}", origin.addr);
    let flags = [
        "--drain-window=1s",
        "--rotation-retry=100ms",
        "--limit-rate=off",
        "--takeover=always",
    ];
    let old = Ways::start(&url, &flags);
    let addrs = [old.proxy.addr, old.tls_addr];
    let texts = addrs.map(|addr| addr.to_string());
    let Ways {
        proxy: mut old,
        authority,
        ..
    } = old;
    let files = Files::new();
    let config = Ways::write_config(&authority, &files, texts.each_ref().map(String::as_str));
    let (crowd, all) = Crowd::start(addrs, authority);
    crowd.wait_for_more(&crowd.streams, 1, &all);
    crowd.wait_for_more(&crowd.polls, 3, &all);
    let mut arguments = vec!["--config", &config, "--upstream-url", &url];
    arguments.extend(flags);
    let start = || Proxy::with_arguments(&arguments);
    let mut new = None;
    if !is_first_stopped {
        new = Some(start());
        crowd.wait_for_more(&crowd.polls, 3, &all);
    }
    old.signal("-TERM");
    let mut new = new.unwrap_or_else(start);
    assert_eq!(old.wait().code(), Some(0));
    // Over the window, by their age or the drain.
    let last: serde_json::Value = serde_json::from_str(&old.wait_for_log("\"stopped\"")).unwrap();
    assert_eq!(last["cut_off"], 0, "{last}");
    let readers = 2 * Way::ALL.len();
    wait_until("all readers are with the new process", || {
        new.log().matches("\"stream opened\"").count() >= readers
            || all.iter().any(JoinHandle::is_finished)
    });
    crowd.wait_for_more(&crowd.polls, 3, &all);
    crowd.is_done.store(true, SeqCst);
    for one in all {
        one.join().unwrap();
    }
    new.stop();
}

#[test]
fn process_started_after_the_signal_takes_over_tls_and_http2_without_a_failure() {
    takes_over(true);
}

#[test]
fn process_started_before_the_signal_takes_over_tls_and_http2_without_a_failure() {
    takes_over(false);
}
