//! Plain requests, idle connections and tunnels during the drain; readiness.

use super::*;

#[test]
fn download_in_progress_is_finished() {
    let gate = Gate::default();
    let wait = gate.clone();
    let origin = Origin::start(move |_, to| {
        to.raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        to.chunk("some");
        wait.wait();
        to.chunk(" more");
        to.end();
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "0s"]);
    let mut client = proxy.get("/");
    client.head();
    client.read_until("some");
    terminate(&proxy);
    gate.open();
    assert_eq!(client.rest(), (b" more".to_vec(), End::Clean));
    stopped(&mut proxy);
}

#[test]
fn idle_connections_close_at_the_end_of_the_window_without_delay() {
    let origin = Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "300ms"]);
    let mut after_a_response = proxy.get("/");
    after_a_response.head();
    let mut fresh = Client::connect(proxy.addr);
    // The second is surely accepted when one that came later is answered.
    proxy.get("/").head();
    proxy.signal("-TERM");
    assert!(after_a_response.raw().is_empty());
    assert!(fresh.raw().is_empty());
    assert_eq!(stopped(&mut proxy)["cut_off"], 0);
}

#[test]
fn plain_requests_are_served_while_streams_drain_and_their_connections_close_behind_them() {
    let origin = plain();
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "10h"]);
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut kept = proxy.send_request(&request("/before"));
    assert!(!kept.head().contains("connection: close"));
    assert_eq!(kept.bytes(7), b"/before");
    terminate(&proxy);
    kept.send(&request("/kept"));
    let head = kept.head();
    assert!(
        head.starts_with("http/1.1 200 ") && head.contains("connection: close"),
        "{head}"
    );
    assert_eq!(kept.raw(), b"/kept");
    for (request, body) in [
        (request("/new"), &b"/new"[..]),
        ("GET /old HTTP/1.0\r\n\r\n".to_owned(), b"/old"),
        (
            "OPTIONS /any HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".to_owned(),
            b"/any",
        ),
        (
            "HEAD /head HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".to_owned(),
            b"",
        ),
        (
            "POST /json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk\r\n\
             User-Agent: OpenAI/Python 1.0\r\nContent-Type: application/json\r\n\
             Content-Length: 14\r\n\r\n{\"model\":\"gpt\"}"
                .replace("14", "15"),
            b"/json",
        ),
    ] {
        let mut client = proxy.send_request(&request);
        let head = client.head();
        assert!(
            head.starts_with("http/1.1 200 ") || head.starts_with("http/1.0 200 "),
            "{head}"
        );
        assert_eq!(client.raw(), body, "{request}");
    }
    assert_eq!(origin.served(), 7);
    stopped_early(&mut proxy);
}

#[test]
fn readiness_turns_red_before_the_drain_and_names_the_phase() {
    let origin = Origin::held();
    let flags = [
        "--drain-delay=1500ms",
        "--drain-window=300ms",
        "--drain-answers=10h",
        "--admin-listen=127.0.0.1:0",
    ];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut feed = begun(proxy.get("/"));
    let mut answer = begun(post(&proxy));
    assert_eq!(readiness(&proxy).1["phase"], "serving");
    terminate(&proxy);
    let (status, json) = readiness(&proxy);
    assert_eq!((status, &json["phase"]), (503, &"delay".into()), "{json}");
    assert_eq!(json["parts"]["listener"]["ok"], false);
    // All is served as before.
    let mut late = begun(proxy.get("/"));
    assert_eq!(readiness(&proxy).1["phase"], "delay");
    for client in [&mut feed, &mut late] {
        let (last_words, end) = client.rest();
        assert!(end == End::Clean && retry(&last_words) > 1_000);
    }
    wait_until("the window is over", || {
        readiness(&proxy).1["phase"] == "answers"
    });
    proxy.signal("-TERM");
    assert_eq!(answer.rest().1, End::Broken);
    assert_eq!(stopped(&mut proxy)["cut_off"], 1);
}

#[test]
fn second_signal_ends_the_delay_and_the_window() {
    for flags in [["--drain-delay", "10h"], ["--drain-window", "10h"]] {
        let mut proxy = Proxy::start(Origin::held().addr, &flags);
        terminate(&proxy);
        proxy.signal("-INT");
        stopped(&mut proxy);
    }
}

const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn tunnel(proxy: &Proxy) -> Client {
    let mut client = proxy.send_request(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert!(client.head().starts_with("http/1.1 101 "));
    client
}

#[test]
fn tunnel_continues_within_the_window() {
    let origin = Origin::start(|_, to| {
        to.raw(SWITCHED);
        let came = to.body(4);
        to.raw(&came);
        to.wait_for_close();
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "1m"]);
    let mut client = tunnel(&proxy);
    terminate(&proxy);
    client.send("ping");
    let mut back = [0; 4];
    client.socket.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ping");
    drop(client);
    stopped_early(&mut proxy);
}

#[test]
fn tunnel_is_cut_at_the_end_of_the_window() {
    let origin = Origin::start(|_, to| {
        to.raw(SWITCHED);
        to.wait_for_close();
    });
    let mut proxy = Proxy::start(origin.addr, &["--drain-window", "200ms"]);
    let mut client = tunnel(&proxy);
    terminate(&proxy);
    assert_eq!(client.raw(), b"");
    stopped(&mut proxy);
    origin.wait_for_open(0);
}
