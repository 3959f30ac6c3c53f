//! Upstreams over HTTP/2.

mod bodies;
mod ends;
mod frames;
mod protocols;
mod retries;

use crate::support::http2_origin::{Command, Exchange, Http2Origin, send};
use crate::support::{Client, End, Proxy, wait_until};
use h2::Reason;
use h2::server::Builder;
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

const ON: &str = "--upstream-http2=on";

fn get(proxy: &Proxy, path: &str) -> (String, String) {
    let mut client = proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n"
    ));
    let head = client.head();
    (head, String::from_utf8(client.raw()).unwrap())
}

/// The status of a response.
fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

/// Clients that each have the first event of their stream.
fn streams(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| proxy.get("/")).collect();
    for client in &mut clients {
        assert_eq!(status(&client.head()), "200");
        assert_eq!(client.read_until("\n\n"), "data: 1\n\n");
    }
    clients
}

#[test]
fn streams_share_one_connection() {
    let next = Arc::new(Notify::new());
    let sent = next.clone();
    let origin = Http2Origin::start(move |mut exchange: Exchange| {
        let next = next.clone();
        async move {
            let mut stream = exchange.stream();
            send(&mut stream, "data: 1\n\n").await;
            next.notified().await;
            send(&mut stream, "data: 2\n\n").await;
            let _ = stream.send_data("".into(), true);
        }
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    // Those that come together share the attempt to connect, too.
    let mut clients = streams(&proxy, 20);
    assert_eq!(origin.connections(), 1);
    for _ in 0..20 {
        sent.notify_one();
    }
    for client in &mut clients {
        assert_eq!(client.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
    }
}

#[test]
fn request_has_the_head_of_http2() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        exchange.text(200, "ok");
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut client = proxy.send_request(
        "GET /a?b=c HTTP/1.1\r\nHost: site.test:81\r\nConnection: x-hop, close\r\nX-Hop: 1\r\n\
         TE: trailers\r\nCookie: a=1; b=2\r\nX-End: 1\r\n\r\n",
    );
    assert_eq!(status(&client.head()), "200");
    let (_, head) = origin.requests().remove(0);
    assert_eq!(head.uri, "http://site.test:81/a?b=c");
    assert_eq!(head.headers["cookie"], "a=1; b=2");
    assert_eq!(head.headers["x-end"], "1");
    assert_eq!(head.headers["x-forwarded-for"], "127.0.0.1");
    for name in ["connection", "x-hop", "te", "host", "transfer-encoding"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let mut client =
        proxy.send_request("OPTIONS * HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&client.head()), "200");
    let (_, head) = origin.requests().remove(1);
    assert_eq!(head.uri.path(), "*");
}

#[test]
fn streams_beyond_the_limit_open_another_connection() {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(2);
    let origin = Http2Origin::with(builder, None, |mut exchange: Exchange| async move {
        let mut stream = exchange.stream();
        send(&mut stream, "data: 1\n\n").await;
        exchange.until_reset(&mut stream).await;
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let _clients = streams(&proxy, 5);
    assert_eq!(origin.connections(), 3, "by the upstream's limit");

    let origin = Http2Origin::held();
    let proxy = Proxy::start(origin.addr, &[ON, "--upstream-http2-max-streams=2"]);
    let _clients = streams(&proxy, 5);
    assert_eq!(origin.connections(), 3, "by our own limit");
}

#[test]
fn stream_of_a_client_that_disconnects_is_cancelled_and_its_place_is_free() {
    let reset = Arc::new(Notify::new());
    let seen = reset.clone();
    let origin = Http2Origin::start(move |mut exchange: Exchange| {
        let reset = reset.clone();
        async move {
            let mut stream = exchange.stream();
            send(&mut stream, "data: 1\n\n").await;
            if exchange.until_reset(&mut stream).await == Some(Reason::CANCEL) {
                reset.notify_one();
            }
        }
    });
    let proxy = Proxy::start(origin.addr, &[ON, "--upstream-http2-max-streams=1"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for _ in 0..3 {
        drop(streams(&proxy, 1));
        runtime.block_on(seen.notified());
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn clients_that_cancel_their_requests_end_no_other_stream() {
    // As an upstream does that protects itself from resets ahead of its responses.
    let resets = Arc::new(Mutex::new(HashMap::<usize, usize>::new()));
    let origin = Http2Origin::start(move |mut exchange: Exchange| {
        let resets = resets.clone();
        async move {
            if exchange.path() != "/slow" {
                let mut stream = exchange.stream();
                send(&mut stream, "data: 1\n\n").await;
                exchange.until_reset(&mut stream).await;
                return;
            }
            let reset = poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
            let count = {
                let mut resets = resets.lock().unwrap();
                let count = resets.entry(exchange.connection).or_default();
                *count += 1;
                *count
            };
            if reset.is_ok() && count == 80 {
                exchange.command(Command::Drop);
            }
        }
    });
    let flags = [
        ON,
        "--limit-rate=off",
        "--resume-mode=off",
        "--client-max-connections=off",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = streams(&proxy, 1).remove(0);
    for count in 2..150 {
        let slow = proxy.get("/slow");
        wait_until("the request", || origin.requests().len() == count);
        drop(slow);
    }
    assert!(origin.connections() > 2);
    // The first one is kept for its stream.
    wait_until("the end of the others", || origin.open() == 2);
    assert!(client.try_send("x"));
    assert!(!proxy.log().contains("upstream_error"), "{}", proxy.log());
}

/// At `/flood` a stream without end, with a word when its window stays closed; else events on notice.
fn flooding(stalls: Arc<Notify>, ends: Arc<Notify>, more: Arc<Notify>) -> Http2Origin {
    Http2Origin::start(move |mut exchange: Exchange| {
        let (stalls, ends, more) = (stalls.clone(), ends.clone(), more.clone());
        async move {
            let mut stream = exchange.stream();
            if exchange.path() != "/flood" {
                loop {
                    send(&mut stream, "data: 1\n\n").await;
                    more.notified().await;
                }
            }
            let event = format!("data: {}\n\n", "x".repeat(4000));
            let closed = Duration::from_millis(200);
            while let Ok(true) = timeout(closed, send(&mut stream, &event)).await {}
            stalls.notify_one();
            exchange.until_reset(&mut stream).await;
            ends.notify_one();
        }
    })
}

#[test]
fn clients_that_do_not_read_stall_no_other_stream() {
    let [stalls, ends, more] = [(); 3].map(|()| Arc::new(Notify::new()));
    let origin = flooding(stalls.clone(), ends, more.clone());
    let proxy = Proxy::start(origin.addr, &[ON, "--client-write-stall=off"]);
    let mut reader = streams(&proxy, 1).remove(0);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(proxy.get("/flood"));
        runtime.block_on(stalls.notified());
        more.notify_one();
        assert_eq!(reader.read_until("\n\n"), "data: 1\n\n");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn client_that_does_not_read_is_reset_alone() {
    let [stalls, ends, more] = [(); 3].map(|()| Arc::new(Notify::new()));
    let origin = flooding(stalls, ends.clone(), more.clone());
    let proxy = Proxy::start(origin.addr, &[ON, "--client-write-stall=1s"]);
    let mut reader = streams(&proxy, 1).remove(0);
    let _stalled = proxy.get("/flood");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(ends.notified());
    more.notify_one();
    assert_eq!(reader.read_until("\n\n"), "data: 1\n\n");
    assert_eq!(origin.connections(), 1);
    assert!(!proxy.log().contains("upstream_error"), "{}", proxy.log());
}

#[test]
fn reload_keeps_the_connection() {
    let files = crate::support::tls::Files::new();
    let origin = Http2Origin::held();
    let config = |more: &str| {
        format!(
            "listen = '127.0.0.1:0'\nadmin.listen = 'off'\nupstream.url = 'http://{}'\n\
             upstream.http2 = 'on'\n{more}",
            origin.addr
        )
    };
    let path = files.write("guard.toml", &config(""));
    let proxy = Proxy::from_file(std::path::Path::new(&path));
    let mut client = streams(&proxy, 1).remove(0);
    files.write("guard.toml", &config("upstream.head_timeout = '7s'"));
    proxy.signal("-HUP");
    proxy.wait_for_log("config reloaded");
    let _second = streams(&proxy, 1);
    assert_eq!(origin.connections(), 1);
    // Another interval of PINGs is for connections of its own; the streams stay where they are.
    files.write("guard.toml", &config("upstream.ping = '7s'"));
    proxy.signal("-HUP");
    proxy.wait_for_log_lines("config reloaded", 2);
    let _third = streams(&proxy, 1);
    assert_eq!((origin.connections(), origin.open()), (2, 2));
    origin.command(0, Command::Drop);
    assert_eq!(client.rest().1, End::Broken);
}

#[test]
fn idle_connection_is_closed() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        exchange.text(200, "ok");
    });
    let proxy = Proxy::start(origin.addr, &[ON, "--upstream-idle-timeout=100ms"]);
    for connections in 1..3 {
        assert_eq!(get(&proxy, "/").1, "ok");
        assert_eq!(origin.connections(), connections);
        wait_until("the end of the connection", || origin.open() == 0);
    }
}

#[test]
fn stop_ends_the_streams_and_the_process() {
    let origin = Http2Origin::held();
    let mut proxy = Proxy::start(origin.addr, &[ON]);
    let _clients = streams(&proxy, 2);
    proxy.stop();
    wait_until("the end of the connection", || origin.open() == 0);
}
