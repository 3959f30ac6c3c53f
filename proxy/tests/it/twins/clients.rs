//! Clients that go at any point, or never come to the point.

use super::*;
use crate::http2::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
    block, field, frame,
};
use crate::support::Client;
use crate::support::ways::{client_config, server_name};
use rustls::ClientConnection;
use std::net::SocketAddr;
use std::time::Duration;

#[test]
fn clients_that_die_at_any_stage_of_their_stream_leave_nothing_behind_on_any_way() {
    let watched = Watched::start(&[], |received, to| answer(&received, to));
    for way in Way::TWINS {
        for death in Death::ALL {
            for path in ["/mute", "/held"] {
                for uploads in [false, true] {
                    let before = watched.origin.served();
                    let mut client = match uploads {
                        true => watched.post_half(way, path),
                        false => watched.get(way, path),
                    };
                    if path == "/held" {
                        assert_eq!(client.opened("\n\n"), "data: 1\n\n");
                    } else {
                        wait_until("the request", || watched.origin.served() > before);
                    }
                    client.die(death);
                    watched.origin.wait_for_open(0);
                    watched.wait_for_a_slot();
                }
            }
        }
    }
    assert!(!watched.ways.proxy.log().contains("\"ERROR\""));
    watched.assert_nothing_is_left();
}

#[test]
fn half_closed_client_counts_as_disconnected_on_any_way() {
    let watched = Watched::start(&[], |received, to| answer(&received, to));
    for way in Way::TWINS {
        for path in ["/mute", "/held"] {
            let before = watched.origin.served();
            let mut client = watched.get(way, path);
            if path == "/held" {
                client.opened("\n\n");
            } else {
                wait_until("the request", || watched.origin.served() > before);
            }
            client.close_own_side();
            match path {
                "/held" => assert_eq!(client.rest(), (Vec::new(), End::Broken), "{way:?}"),
                _ => assert_eq!(client.status(), None, "{way:?}"),
            }
            watched.origin.wait_for_open(0);
            watched.wait_for_a_slot();
        }
    }
    watched.assert_nothing_is_left();
}

/// The first bytes of a client over TLS.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let config = client_config(authority, b"h2");
    let mut tls = ClientConnection::new(config, server_name()).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

/// What begins HTTP/2: the preface, settings, and a GET for this path.
fn http2_opening(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "app.test"),
        ("accept", "text/event-stream"),
    ];
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, b""), head].concat()
}

#[test]
fn clients_that_die_at_any_byte_of_their_opening_leave_nothing_behind_on_any_way() {
    let watched = Watched::start(&[], |received, to| answer(&received, to));
    let (tls, plain) = (watched.ways.addr(Way::Tls), watched.ways.addr(Way::Http2));
    let hello = client_hello(&watched.ways.authority);
    for (addr, opening, step) in [(tls, hello, 11), (plain, http2_opening("/mute"), 5)] {
        for len in (0..opening.len()).step_by(step).chain([opening.len()]) {
            let connect = || {
                let mut client = Client::connect(addr);
                client.send_bytes(&opening[..len]);
                client
            };
            drop(connect());
            connect().reset();
            let mut half = connect();
            half.close_own_side();
            half.raw();
        }
        watched.origin.wait_for_open(0);
        watched.wait_for_a_slot();
    }
    // Behind the handshake.
    let request = "GET /mute HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n";
    for len in (0..request.len()).step_by(9).chain([request.len()]) {
        for death in Death::ALL {
            let mut client = watched.ways.connect(Way::Tls);
            client.http1().send(&request[..len]);
            client.die(death);
        }
    }
    watched.assert_nothing_is_left();
}

/// Sends a byte now and then, until the other side has had enough.
fn drip(client: &mut Client, bytes: &[u8]) {
    let mut bytes = bytes.iter().copied().cycle();
    wait_until("the end of patience", || {
        let byte = [bytes.next().unwrap()];
        std::thread::sleep(Duration::from_millis(2));
        client.try_send_bytes(&byte).is_err()
    });
}

#[test]
fn openings_that_never_end_are_given_up_on_any_way() {
    let watched = Watched::start(&["--client-head-timeout=500ms"], |received, to| {
        answer(&received, to);
    });
    let before = watched.origin.served();
    let (tls, plain) = (watched.ways.addr(Way::Tls), watched.ways.addr(Way::Http2));
    let hello = client_hello(&watched.ways.authority);
    let opening = http2_opening("/mute");
    let settings = PREFACE.len() + 9;
    // A head without its last flag: more of it is to come.
    let mut begun = opening.clone();
    begun[settings + 4] = END_STREAM;
    let start = |addr, bytes: &[u8]| {
        let mut client = Client::connect(addr);
        client.send_bytes(bytes);
        client
    };
    let mut never = vec![
        start(tls, b""),
        start(tls, &hello[..1]),
        start(tls, &hello[..hello.len() - 1]),
        // The rest of the handshake never comes.
        start(tls, &hello),
        start(plain, &PREFACE[..1]),
        start(plain, &PREFACE[..PREFACE.len() - 1]),
        start(plain, PREFACE),
        start(plain, &opening[..settings]),
        start(plain, &opening[..settings + 20]),
        start(plain, &begun),
    ];
    let mut silent: Vec<_> = Way::TWINS.map(|way| watched.ways.connect(way)).into();
    let mut part = watched.ways.connect(Way::Tls);
    part.http1().send("GET /mute HTTP/1.1\r\nHost: ");
    silent.push(part);
    for client in &mut never {
        client.raw();
    }
    for client in silent {
        client.wait_for_end();
    }
    let mut drips = watched.ways.connect(Way::Tls);
    drips.http1().send("GET / HTTP/1.1\r\nX-Drip: ");
    drip(drips.http1(), b"x");
    drip(&mut start(tls, &hello[..5]), &hello[5..]);
    drip(
        &mut start(plain, &begun),
        &frame(CONTINUATION, 0, 1, &field("x", "y")),
    );
    // What asks for nothing keeps no connection.
    drip(
        &mut start(plain, &opening[..settings]),
        &frame(PING, 0, 0, b"12345678"),
    );
    assert_eq!(watched.origin.served(), before);
    watched.assert_nothing_is_left();
}

#[test]
fn bytes_that_arrive_one_by_one_are_one_request_on_any_way() {
    let watched = Watched::start(&[], |received, to| answer(&received, to));
    let mut client = watched.ways.connect(Way::Tls);
    for byte in b"GET /short HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n" {
        // A record of its own.
        client.http1().send_bytes(&[*byte]);
    }
    client.opened("data: 1\n\n");
    assert_eq!(client.rest(), (Vec::new(), End::Clean));
    drop(client);
    let before = watched.origin.served();
    let mut client = Client::connect(watched.ways.addr(Way::Http2));
    for byte in http2_opening("/mute") {
        client.send_bytes(&[byte]);
    }
    wait_until("the request", || watched.origin.served() > before);
    drop(client);
    watched.assert_nothing_is_left();
}

#[test]
fn disconnect_is_detected_whatever_follows_the_request_on_any_way() {
    let watched = Watched::start(&[], |received, to| answer(&received, to));
    let behind_tls = ["\r\n".into(), "G".into(), "G".repeat(64 * 1024)];
    for path in ["/mute", "/held"] {
        for behind in &behind_tls {
            for death in Death::ALL {
                let before = watched.origin.served();
                let mut client = watched.get(Way::Tls, path);
                client.http1().send(behind);
                match path {
                    "/held" => drop(client.opened("\n\n")),
                    _ => wait_until("the request", || watched.origin.served() > before),
                }
                client.die(death);
                watched.origin.wait_for_open(0);
                watched.wait_for_a_slot();
            }
        }
        for behind in [
            frame(PING, 0, 0, b"12345678"),
            // A part of a frame, of its head and of its payload.
            frame(PING, 0, 0, b"12345678")[..5].to_vec(),
            frame(HEADERS, END_HEADERS, 3, &[b'x'; 1000])[..500].to_vec(),
            // More than the windows of its stream.
            frame(DATA, 0, 1, &[b'x'; 1000]),
        ] {
            for reset in [false, true] {
                let before = watched.origin.served();
                let mut client = Client::connect(watched.ways.addr(Way::Http2));
                client.send_bytes(&http2_opening(path));
                wait_until("the request", || watched.origin.served() > before);
                client.try_send_bytes(&behind).ok();
                match reset {
                    true => client.reset(),
                    false => drop(client),
                }
                watched.origin.wait_for_open(0);
                watched.wait_for_a_slot();
            }
        }
    }
    watched.assert_nothing_is_left();
}

/// A request whose client takes nothing of the response, over as many windows as HTTP/2 has, and reads none of it.
fn unread_http2(addr: SocketAddr, path: &str) -> Client {
    let mut client = Client::connect(addr);
    let mut opening = http2_opening(path);
    // SETTINGS_INITIAL_WINDOW_SIZE, and the window of the connection.
    let window = (1_u32 << 31) - 1;
    let settings = [&[0, 4], &window.to_be_bytes()[..]].concat();
    let rest = opening.split_off(PREFACE.len() + 9);
    opening.truncate(PREFACE.len());
    opening.extend(frame(SETTINGS, 0, 0, &settings));
    opening.extend(frame(WINDOW_UPDATE, 0, 0, &(window - 65_535).to_be_bytes()));
    client.send_bytes(&[opening, rest].concat());
    client
}

#[test]
fn client_that_does_not_read_is_stalled_on_any_way() {
    let flags = ["--client-write-stall=300ms"];
    let watched = Watched::start(&flags, |received, to| {
        if received.path != "/flood" {
            return answer(&received, to);
        }
        to.stream();
        let event = format!("data: {}\n\n", "x".repeat(8_000));
        while to.chunk(&event) {}
    });
    let is_stalled = |count| {
        let mut last = String::new();
        wait_until("the end of the stream", || {
            let log = watched.ways.proxy.log();
            let ends = log.lines().filter(|line| line.contains("\"stream ended\""));
            let ends: Vec<_> = ends.filter(|line| line.contains("/flood")).collect();
            last = ends.last().copied().unwrap_or_default().to_owned();
            ends.len() == count
        });
        assert!(last.contains("\"reason\":\"client_stalled\""), "{last}");
        watched.origin.wait_for_open(0);
        watched.wait_for_a_slot();
    };
    for (n, way) in Way::TWINS.into_iter().enumerate() {
        let mut client = watched.get(way, "/flood");
        assert_eq!(client.status(), Some(200));
        is_stalled(n + 1);
    }
    let client = unread_http2(watched.ways.addr(Way::Http2), "/flood");
    is_stalled(4);
    drop(client);
    watched.assert_nothing_is_left();
}
