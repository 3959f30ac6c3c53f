//! Certificates that are replaced again and again, while clients connect and streams are open.

use super::*;
use crate::support::Proxy;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

/// How often, unless the variable says another number: `proxy/benches/reloads/run.sh` does.
const RELOADS: usize = 30;
const VARIABLE: &str = "SSE_GUARD_TEST_RELOADS";

/// Resident memory, in KiB.
fn memory(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let mut lines = status
        .lines()
        .filter_map(|line| line.strip_prefix("VmRSS:"));
    lines
        .next()
        .unwrap()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn certificates_replaced_under_load_drop_nothing_and_leave_nothing_behind() {
    let variable = std::env::var(VARIABLE).ok();
    let reloads = variable.map_or(RELOADS, |count| count.parse().unwrap());
    let origin = Origin::with_feed();
    let url = format!("http://{}", origin.addr);
    let flags = [
        "--admin-listen=127.0.0.1:0",
        "--heartbeat-interval=50ms",
        "--limit-rate=off",
        "--reload-watch=off",
    ];
    let ways = Arc::new(Ways::start(&url, &flags));
    let names = ["app.test", "127.0.0.1"];
    let pairs = [ways.authority.issue(&names), ways.authority.issue(&names)];

    let mut streams: Vec<_> = [Way::Tls, Way::Http2Tls].repeat(5);
    let mut streams: Vec<_> = streams
        .drain(..)
        .map(|way| {
            let mut stream = ways.get(way, "/feed");
            stream.opened("data: 1\n\n");
            stream
        })
        .collect();
    let is_done = Arc::new(AtomicBool::new(false));
    let served = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let crowd: Vec<_> = [Way::Tls, Way::Http2Tls]
        .into_iter()
        .enumerate()
        .map(|(n, way)| {
            let (ways, is_done, served) = (ways.clone(), is_done.clone(), served.clone());
            thread::spawn(move || {
                while !is_done.load(SeqCst) {
                    // The certificate is one of the CA: the handshake would fail otherwise.
                    let mut client = ways.connect(way);
                    client.get("/plain");
                    assert_eq!(client.status(), Some(200), "{way:?}");
                    assert_eq!(client.rest(), (b"ok".to_vec(), End::Clean), "{way:?}");
                    served[n].fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let mut settled = None;
    for n in 0..reloads {
        let pair = &pairs[n % 2];
        ways.files.write("app.pem", &pair.certificate);
        ways.files.write("app.key", &pair.key);
        let (status, text) = reload(&ways.proxy);
        assert_eq!(status, 200, "reload {n}: {text}");
        assert!(
            !crowd.iter().any(thread::JoinHandle::is_finished),
            "reload {n}"
        );
        // Handshakes with each.
        let before = served.each_ref().map(|count| count.load(SeqCst));
        wait_until("a handshake", || {
            (0..2).all(|n| served[n].load(SeqCst) > before[n])
                || crowd.iter().any(thread::JoinHandle::is_finished)
        });
        if n % 10 == 0 {
            streams
                .iter_mut()
                .for_each(|stream| drop(stream.read_until(": heartbeat\n")));
        }
        // What is allocated once is there after a fifth of all.
        if n == reloads / 5 {
            settled = Some(memory(&ways.proxy));
        }
        if n % 100 == 99 {
            let (files, memory) = (ways.proxy.files(), memory(&ways.proxy));
            println!(
                "{} reloads: {files} files, {memory} KiB, {before:?} requests",
                n + 1
            );
        }
    }
    let grown = memory(&ways.proxy).saturating_sub(settled.unwrap());
    println!(
        "{grown} KiB more after {reloads} reloads than after {}",
        reloads / 5
    );
    // A config with its listeners takes some 100 KiB: what leaks with each reload would show.
    assert!(grown < 3 * 1024, "{grown} KiB more");
    is_done.store(true, SeqCst);
    for one in crowd {
        one.join().unwrap();
    }
    streams
        .iter_mut()
        .for_each(|stream| drop(stream.read_until(": heartbeat\n")));
    // Its certificate is the last one.
    let last = streams.len();
    origin.wait_for_open(last);
    // A listener and a connection to each side of each stream, and what the process holds anyway.
    wait_until("no files but those of the streams", || {
        ways.proxy.files() < 2 * last + 40
    });
}

fn reload(proxy: &Proxy) -> (u16, String) {
    let mut client = crate::support::Client::connect(proxy.admin());
    client.send(
        "POST /api/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    let status = client.head()[9..12].parse().unwrap();
    (status, String::from_utf8(client.raw()).unwrap())
}
