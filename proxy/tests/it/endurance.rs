//! Many streams at once and many one after the other: nothing is lost, nothing is left behind.

use crate::support::{Client, Origin, PATIENCE, Proxy};
use std::fmt::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

const UNLIMITED: [&str; 4] = ["--limit-per-ip", "off", "--limit-rate", "off"];

fn event(id: usize) -> String {
    format!("id: {id}\nevent: tick\ndata: {{\"n\":{id}}}\ndata: second line\n\n")
}

/// Reads on until `text` is in what came so far, which grows by it.
fn read_on(client: &mut Client, came: &mut String, text: &str) {
    while !came.contains(text) {
        match client.chunk() {
            Some(data) if !data.is_empty() => came.push_str(&String::from_utf8(data).unwrap()),
            _ => panic!("the stream ended before {text:?}: {came:?}"),
        }
    }
}

#[test]
fn long_streams_get_every_event_in_order_and_heartbeats() {
    const STREAMS: usize = 200;
    const EVENTS: usize = 30;
    const PAUSE_AFTER: usize = 15;
    let heard = Arc::new((Mutex::new(false), Condvar::new()));
    let go_on = heard.clone();
    let origin = Origin::start(move |_, to| {
        to.stream();
        for id in 1..=EVENTS {
            assert!(to.chunk(event(id)));
            if id == PAUSE_AFTER {
                let (heard, changed) = &*go_on;
                let _ = changed
                    .wait_timeout_while(heard.lock().unwrap(), PATIENCE, |heard| !*heard)
                    .unwrap();
            }
            // The pace of the origin; nothing waits for it.
            thread::sleep(Duration::from_millis(100));
        }
        to.wait_for_close();
    });
    let flags = [&UNLIMITED[..], &["--heartbeat-interval", "1s"]].concat();
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut streams: Vec<(Client, String)> = (0..STREAMS)
        .map(|_| (proxy.get("/"), String::new()))
        .collect();
    // The origin is silent until each has heard the proxy.
    for (client, came) in &mut streams {
        assert!(client.head().starts_with("http/1.1 200 "));
        read_on(client, came, &event(PAUSE_AFTER));
        read_on(client, came, "\n\n: heartbeat\n");
    }
    *heard.0.lock().unwrap() = true;
    heard.1.notify_all();
    let sent: String = (1..=EVENTS).map(event).collect();
    for (client, came) in &mut streams {
        read_on(client, came, &event(EVENTS));
        let events = came.replace(": heartbeat\n", "");
        assert_eq!(events, sent);
    }
    drop(streams);
    origin.wait_for_open(0);
    let last = proxy.stop();
    let fields = &last;
    for (name, count) in [
        ("active", 0),
        ("slots", 0),
        ("cut_off", 0),
        ("rejected", 0),
        ("opened", STREAMS),
        ("events", STREAMS * EVENTS),
    ] {
        assert_eq!(fields[name], count, "{name}: {fields}");
    }
    assert!(
        fields["heartbeats"].as_u64().unwrap() >= STREAMS as u64,
        "{fields}"
    );
}

/// Opens streams, takes the first event of each and goes: by a close or by a reset.
fn come_and_go(proxy: &Proxy, cycles: usize) {
    const WORKERS: usize = 8;
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for cycle in 0..cycles / WORKERS {
                    let mut client = proxy.get("/");
                    assert!(client.head().starts_with("http/1.1 200 "));
                    client.read_until("\n\n");
                    if cycle % 2 == 0 {
                        socket2::SockRef::from(&client.socket)
                            .set_linger(Some(Duration::ZERO))
                            .unwrap();
                    }
                }
            });
        }
    });
}

/// The resident set, in KiB.
#[cfg(target_os = "linux")]
fn resident(proxy: &Proxy) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse().unwrap()
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    const FIRST: usize = 2_000;
    const ALL: usize = 10_000;
    let first_event = event(1);
    let origin = Origin::start(move |_, to| {
        to.stream();
        to.chunk(&first_event);
        to.wait_for_close();
    });
    let mut proxy = Proxy::start(origin.addr, &UNLIMITED);
    come_and_go(&proxy, FIRST);
    origin.wait_for_open(0);
    proxy.wait_for_log_lines("stream ended", FIRST);
    #[cfg(target_os = "linux")]
    let early = resident(&proxy);
    come_and_go(&proxy, ALL - FIRST);
    origin.wait_for_open(0);
    proxy.wait_for_log_lines("stream ended", ALL);
    #[cfg(target_os = "linux")]
    {
        let late = resident(&proxy);
        println!("resident: {early} KiB after {FIRST}, {late} KiB after {ALL}");
        assert!(late < early + 4 * 1024, "{early} KiB, then {late} KiB");
    }
    let last = proxy.stop();
    let fields = &last;
    let mut seen = String::new();
    for name in ["active", "slots", "cut_off", "rejected", "opened", "events"] {
        write!(seen, "{name} {} ", fields[name]).unwrap();
    }
    let expected = format!("active 0 slots 0 cut_off 0 rejected 0 opened {ALL} events {ALL} ");
    assert_eq!(seen, expected);
}
