//! Clients and upstreams that die without a word: no end, no reset, just no answer any more. What
//! is proven is that the kernel tells, as fast as it is asked to, and that nothing is left of them;
//! and that nobody is taken for dead who is not.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

#[path = "support/network.rs"]
mod network;
mod support;

use network::{Network, Side, Unheard, in_a_network};
use rustls::ALL_VERSIONS;
use std::net::SocketAddr;
use support::tls::{Authority, Files, TlsOrigin, server_config};
use support::ways::Way;
use support::{Answer, Client, End, Gate, Origin, PATIENCE, Proxy, gate, wait_until};

/// What could end a stream but for what a test is about.
const ALONE: [&str; 5] = [
    "--limit-per-ip=1",
    "--limit-rate=off",
    "--idle-timeout=off",
    "--rotation-max-age=off",
    "--client-write-stall=off",
];

/// One event, and what comes after it; at `/short` the end, at `/mute` nothing before it.
fn held(network: &Network, after: impl Fn(&mut Answer) + Send + Sync + 'static) -> Origin {
    Origin::listening(&network.upstream(), move |received, to| {
        if received.path != "/mute" {
            to.stream();
            to.chunk("data: 1\n\n");
        }
        if received.path == "/short" {
            to.end();
            return;
        }
        after(to);
    })
}

fn stream(proxy: &Proxy) -> Client {
    let mut client = proxy.get("/");
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("data: 1\n\n");
    client
}

fn assert_ended(proxy: &Proxy, reason: &str) {
    let line = proxy.wait_for_log("\"stream ended\"");
    assert!(line.contains(&format!("\"reason\":\"{reason}\"")), "{line}");
}

/// The one place of a client's address is free, and nothing is left at last.
fn assert_nothing_is_left(mut proxy: Proxy, origin: &Origin) {
    origin.wait_for_open(0);
    let mut next = proxy.get("/short");
    assert!(next.head().starts_with("http/1.1 200 "));
    assert_eq!(next.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
    drop(next);
    let last = proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
    assert_eq!(last["cut_off"], 0, "{last}");
}

/// A client dies in its quiet stream, and only these flags could tell.
fn a_client_that_dies(network: &Network, flags: &[&str]) {
    let origin = held(network, |to| assert!(to.wait_for_close()));
    let proxy = network.proxy(origin.addr, &[&ALONE[..], flags].concat());
    let dead = stream(&proxy);
    network.cut(Side::Client);
    assert_ended(&proxy, "client_gone");
    origin.wait_for_open(0);
    network.mend(Side::Client);
    assert_nothing_is_left(proxy, &origin);
    drop(dead);
}

#[test]
fn dead_client_is_found_by_unacknowledged_heartbeats() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=200ms",
            "--client-keepalive=off",
            "--client-user-timeout=2s",
        ];
        a_client_that_dies(network, &flags);
    });
}

#[test]
fn dead_client_is_found_by_keepalive_without_heartbeats() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=off",
            "--client-keepalive=1s",
            "--client-user-timeout=off",
        ];
        a_client_that_dies(network, &flags);
    });
}

#[test]
fn client_user_timeout_ends_the_wait_for_a_keepalive_response() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=off",
            "--client-keepalive=1s",
            "--client-user-timeout=2s",
        ];
        a_client_that_dies(network, &flags);
    });
}

/// Clients over TLS and HTTP/2 die in their streams, each with this reason.
fn clients_that_die_on_any_way(network: &Network, flags: &[&str], reason: &str, is_busy: bool) {
    let (go, goes) = gate();
    let origin = held(network, move |to| {
        if goes.opens() {
            let event = format!("data: {}\n\n", "x".repeat(8 * 1024));
            while to.chunk(&event) {}
        }
    });
    let mut ways = network.ways(origin.addr, flags);
    let dead = Way::TWINS.map(|way| {
        let mut client = ways.get(way, "/");
        client.opened("data: 1\n\n");
        client
    });
    for client in &dead {
        // Only then the kernel asks, and does not repeat.
        let (proxy, address) = (ways.proxy.pid(), client.local_addr());
        Unheard::wait(proxy, address, "all is acknowledged", |of| {
            of.unacknowledged == 0
        });
    }
    network.cut(Side::Client);
    if is_busy {
        dead.iter().for_each(|_| go.send(()).unwrap());
    }
    let ends = ways
        .proxy
        .wait_for_log_lines("\"stream ended\"", dead.len());
    for line in &ends {
        assert!(line.contains(&format!("\"reason\":\"{reason}\"")), "{line}");
    }
    drop(go);
    origin.wait_for_open(0);
    network.mend(Side::Client);
    let last = ways.proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
    drop(dead);
}

#[test]
fn dead_clients_over_tls_and_http2_are_found_by_unacknowledged_heartbeats() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=200ms",
            "--client-keepalive=off",
            "--client-user-timeout=2s",
            "--client-http2-ping=off",
            "--client-write-stall=off",
        ];
        clients_that_die_on_any_way(network, &flags, "client_gone", false);
    });
}

#[test]
fn dead_clients_over_tls_and_http2_are_found_by_keepalive() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=off",
            "--client-keepalive=1s",
            "--client-user-timeout=off",
            "--client-http2-ping=off",
            "--client-write-stall=off",
        ];
        clients_that_die_on_any_way(network, &flags, "client_gone", false);
    });
}

#[test]
fn dead_clients_over_tls_and_http2_of_busy_streams_count_as_stalled() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=off",
            "--client-keepalive=off",
            "--client-user-timeout=off",
            "--client-http2-ping=off",
            "--client-write-stall=1s",
        ];
        clients_that_die_on_any_way(network, &flags, "client_stalled", true);
    });
}

#[test]
fn dead_client_of_a_busy_stream_counts_as_stalled() {
    in_a_network(|network| {
        let (go, goes) = gate();
        let origin = held(network, move |to| {
            goes.wait();
            let event = format!("data: {}\n\n", "x".repeat(8 * 1024));
            while to.chunk(&event) {}
        });
        let flags = [
            "--limit-per-ip=1",
            "--client-keepalive=off",
            "--client-user-timeout=off",
            "--client-write-stall=1s",
        ];
        let proxy = network.proxy(origin.addr, &flags);
        let dead = stream(&proxy);
        network.cut(Side::Client);
        go.send(()).unwrap();
        assert_ended(&proxy, "client_stalled");
        origin.wait_for_open(0);
        network.mend(Side::Client);
        assert_nothing_is_left(proxy, &origin);
        drop(dead);
    });
}

/// Of the other side's end an upstream that was dead for it learns by speaking.
fn speak(goes: &Gate, to: &mut Answer) {
    goes.wait();
    to.chunk("data: 2\n\n");
    assert!(to.wait_for_close());
}

/// An upstream dies in its quiet stream, and only these flags could tell.
fn an_upstream_that_dies(network: &Network, flags: &[&str]) {
    let (go, goes) = gate();
    let origin = held(network, move |to| speak(&goes, to));
    let proxy = network.proxy(origin.addr, &[&ALONE[..], flags].concat());
    let mut client = stream(&proxy);
    network.cut(Side::Upstream);
    let (rest, end) = client.rest();
    assert_eq!(end, End::Broken);
    assert_eq!(rest, b"");
    assert_ended(&proxy, "upstream_error");
    network.mend(Side::Upstream);
    go.send(()).unwrap();
    assert_nothing_is_left(proxy, &origin);
}

#[test]
fn dead_upstream_is_found_by_keepalive_and_its_stream_is_broken_off() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=off",
            "--upstream-keepalive=1s",
            "--upstream-user-timeout=off",
        ];
        an_upstream_that_dies(network, &flags);
    });
}

#[test]
fn dead_upstream_over_tls_is_found_by_keepalive_and_its_stream_is_broken_off() {
    in_a_network(|network| {
        let (authority, files) = (Authority::new("test CA"), Files::new());
        let address = network.upstream();
        let host = address.split(':').next().unwrap();
        let config = server_config(&authority.issue(&[host]), ALL_VERSIONS);
        let origin = TlsOrigin::listening(&address, config, |_, to| {
            to.stream();
            to.chunk("data: 1\n\n");
            to.wait_for_close();
        });
        let ca = files.write("ca.pem", &authority.pem());
        let flags = [
            "--heartbeat-interval=off",
            "--upstream-keepalive=1s",
            "--upstream-user-timeout=off",
            "--upstream-tls-ca",
            &ca,
        ];
        let url = format!("https://{}", origin.addr);
        let proxy = network.proxy_to(&url, &[&ALONE[..], &flags].concat());
        let mut client = stream(&proxy);
        network.cut(Side::Upstream);
        assert_eq!(client.rest(), (Vec::new(), End::Broken));
        assert_ended(&proxy, "upstream_error");
        network.mend(Side::Upstream);
    });
}

#[test]
fn upstream_user_timeout_ends_the_wait_for_a_keepalive_response() {
    in_a_network(|network| {
        let flags = [
            "--heartbeat-interval=off",
            "--upstream-keepalive=1s",
            "--upstream-user-timeout=2s",
        ];
        an_upstream_that_dies(network, &flags);
    });
}

#[test]
fn upstream_that_dies_before_its_head_is_a_502() {
    in_a_network(|network| {
        let (go, goes) = gate();
        let origin = held(network, move |to| speak(&goes, to));
        let flags = [
            "--upstream-keepalive=1s",
            "--upstream-user-timeout=off",
            "--upstream-unavailable=status",
        ];
        let proxy = network.proxy(origin.addr, &[&ALONE[..], &flags].concat());
        let mut client = proxy.get("/mute");
        wait_until("the request", || origin.served() == 1);
        network.cut(Side::Upstream);
        let head = client.head();
        assert!(head.starts_with("http/1.1 502 "), "{head}");
        drop(client);
        network.mend(Side::Upstream);
        go.send(()).unwrap();
        assert_nothing_is_left(proxy, &origin);
    });
}

#[test]
fn request_lost_on_an_idle_connection_is_sent_on_a_new_one() {
    in_a_network(|network| {
        let origin = Origin::listening(&network.upstream(), |_, to| {
            while to.raw(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                  Transfer-Encoding: chunked\r\n\r\n",
            ) && to.chunk("data: 1\n\n")
                && to.end()
                && to.next_request().is_some()
            {}
        });
        let flags = [
            "--upstream-keepalive=off",
            "--upstream-user-timeout=1s",
            "--upstream-connect-timeout=2s",
            "--upstream-unavailable=status",
        ];
        let proxy = network.proxy(origin.addr, &[&ALONE[..], &flags].concat());
        let whole = |client: &mut Client| {
            let head = client.head();
            assert!(head.starts_with("http/1.1 200 "), "{head}");
            assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
        };
        whole(&mut proxy.get("/"));
        network.cut(Side::Upstream);
        let head = proxy.get("/").head();
        assert!(head.starts_with("http/1.1 502 "), "{head}");
        assert!(proxy.wait_for_log("\"status\":502").contains("connect"));
        network.mend(Side::Upstream);
        whole(&mut proxy.get("/"));
    });
}

/// Nobody who is only away for a while is given up by these.
const PATIENT: [&str; 4] = [
    "--client-keepalive=1s",
    "--client-user-timeout=25s",
    "--upstream-keepalive=1s",
    "--upstream-user-timeout=25s",
];

fn last_words(goes: &Gate, to: &mut Answer) {
    goes.wait();
    for number in 2..=20 {
        to.chunk(format!("id: {number}\ndata: {number}\n\n"));
    }
    to.end();
}

fn assert_last_words(client: &mut Client) {
    let (rest, end) = client.rest();
    let events = (2..=20).map(|number| format!("id: {number}\ndata: {number}\n\n"));
    assert_eq!(String::from_utf8(rest).unwrap(), events.collect::<String>());
    assert_eq!(end, End::Clean);
}

/// A stream of a proxy that waits for dead peers.
fn patient(network: &Network, origin: &Origin) -> (Proxy, Client) {
    let flags = [&ALONE[..], &PATIENT, &["--heartbeat-interval=off"]].concat();
    let proxy = network.proxy(origin.addr, &flags);
    let client = stream(&proxy);
    (proxy, client)
}

/// The stream has come to its proper end, with all that was sent.
fn assert_survived(proxy: Proxy, mut client: Client, origin: &Origin) {
    assert_last_words(&mut client);
    assert_ended(&proxy, "upstream_end");
    drop(client);
    assert_nothing_is_left(proxy, origin);
}

#[test]
fn client_that_was_unreachable_gets_all_that_was_sent_meanwhile() {
    in_a_network(|network| {
        let (go, goes) = gate();
        let origin = held(network, move |to| last_words(&goes, to));
        let (proxy, client) = patient(network, &origin);
        let address = client.socket.local_addr().unwrap();
        network.cut(Side::Client);
        go.send(()).unwrap();
        // It was sent into the void, more than once.
        Unheard::wait(proxy.pid(), address, "a repeat", |of| of.repeats > 1);
        network.mend(Side::Client);
        assert_survived(proxy, client, &origin);
    });
}

#[test]
fn upstream_that_was_unreachable_is_read_to_its_end() {
    in_a_network(|network| {
        let (go, goes) = gate();
        let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
        let tell = std::sync::Mutex::new(tell);
        let origin = held(network, move |to| {
            last_words(&goes, to);
            let proxy = to.socket.peer_addr().unwrap();
            tell.lock().unwrap().send(proxy).unwrap();
        });
        let (proxy, client) = patient(network, &origin);
        network.cut(Side::Upstream);
        go.send(()).unwrap();
        let address = told.recv_timeout(PATIENCE).unwrap();
        Unheard::wait(std::process::id(), address, "a repeat", |of| of.repeats > 1);
        network.mend(Side::Upstream);
        assert_survived(proxy, client, &origin);
    });
}

#[test]
fn keepalive_spares_peers_that_were_unreachable_for_a_while() {
    in_a_network(|network| {
        let (go, goes) = gate();
        let origin = held(network, move |to| last_words(&goes, to));
        let (proxy, client) = patient(network, &origin);
        let address = client.socket.local_addr().unwrap();
        for (side, address) in [(Side::Client, address), (Side::Upstream, origin.addr)] {
            network.cut(side);
            Unheard::wait(proxy.pid(), address, "a question", |of| of.questions > 0);
            network.mend(side);
            let forgiven = |of| of == Unheard::default();
            Unheard::wait(proxy.pid(), address, "an answer", forgiven);
        }
        go.send(()).unwrap();
        assert_survived(proxy, client, &origin);
    });
}
