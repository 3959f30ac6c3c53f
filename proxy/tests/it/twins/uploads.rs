//! Uploads that are rejected early, not read, or broken off.

use super::*;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

/// More than all sockets and windows on the way take.
const LONG: usize = 16 << 20;

/// Uploads in full what the other side takes.
fn upload(watched: &Watched, way: Way, path: &str) -> Peer {
    let mut client = watched.ways.connect(way);
    client.post(path, LONG);
    let part = [b'x'; 1 << 16];
    for _ in 0..LONG / part.len() {
        if !client.upload(&part) {
            break;
        }
    }
    client
}

#[test]
fn early_rejection_reaches_an_uploading_client_despite_a_reset_on_any_way() {
    for (upstream, ways) in [
        (Upstream::Plain, &Way::TWINS[..]),
        (Upstream::Tls, &[Way::Http1, Way::Http2Tls]),
    ] {
        let watched = Watched::before(upstream, &[], |received, to| {
            let response = match received.path.as_str() {
                "/413" => "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large",
                "/401" => {
                    "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 9\r\n\r\nwho goes?"
                }
                _ => return answer(&received, to),
            };
            to.raw(response.as_bytes());
            to.reset();
        });
        for way in ways.iter().copied() {
            for round in 0..3 {
                for (status, body) in [(413, "too large"), (401, "who goes?")] {
                    let mut client = upload(&watched, way, &format!("/{status}"));
                    assert_eq!(
                        client.status(),
                        Some(status),
                        "{upstream:?} {way:?} {round}"
                    );
                    let rest = (body.as_bytes().to_vec(), End::Clean);
                    assert_eq!(client.rest(), rest, "{upstream:?} {way:?} {round}");
                }
            }
        }
        watched.assert_nothing_is_left();
    }
}

#[test]
fn upload_that_is_broken_off_does_not_look_complete_on_any_way() {
    let (tell, told) = channel();
    let tell = Arc::new(Mutex::new(tell));
    for upstream in [Upstream::Plain, Upstream::Tls] {
        let tell = tell.clone();
        let watched = Watched::before(upstream, &[], move |received, to| {
            if received.path != "/upload" {
                return answer(&received, to);
            }
            let body = to.rest_of_input();
            tell.lock().unwrap().send((received.head, body)).unwrap();
        });
        for way in Way::ALL {
            for death in Death::ALL {
                let before = watched.origin.served();
                let mut client = watched.ways.connect(way);
                // Without a length: only its end tells that it is whole.
                client.post_chunked("/upload");
                assert!(client.upload_chunk("first"));
                wait_until("the request", || watched.origin.served() > before);
                client.die(death);
                let (head, body) = told.recv_timeout(PATIENCE).unwrap();
                let body = String::from_utf8(body).unwrap();
                assert!(
                    head.to_ascii_lowercase()
                        .contains("transfer-encoding: chunked"),
                    "{head}"
                );
                assert!(
                    !body.contains("0\r\n"),
                    "{upstream:?} {way:?} {death:?}: {body:?}"
                );
                watched.wait_for_a_slot();
            }
        }
        watched.assert_nothing_is_left();
    }
}

#[test]
fn client_death_is_detected_while_its_upload_is_not_read_on_any_way() {
    let (go, goes) = gate();
    let watched = Watched::start(&[], move |received, to| match received.path.as_str() {
        "/blocked" => goes.wait(),
        _ => answer(&received, to),
    });
    for way in Way::TWINS {
        for death in [Death::Close, Death::Reset] {
            // Without the flow control of HTTP/2, an end waits behind what is not read.
            if death == Death::Close && !way.is_http2() {
                continue;
            }
            let before = watched.origin.served();
            let mut client = watched.ways.connect(way);
            client.post("/blocked", 1 << 30);
            wait_until("the request", || watched.origin.served() > before);
            client.upload_all_that_is_taken();
            client.die(death);
            watched.wait_for_a_slot();
            go.send(()).unwrap();
            watched.origin.wait_for_open(0);
        }
    }
    watched.assert_nothing_is_left();
}

#[test]
fn upload_that_breaks_off_during_its_response_fails_alone_on_any_way() {
    let watched = Watched::start(&[], |received, to| match received.path.as_str() {
        "/early" => {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            to.next_request();
        }
        _ => answer(&received, to),
    });
    for way in Way::TWINS {
        for death in Death::ALL {
            let mut client = watched.post_half(way, "/early");
            assert_eq!(client.status(), Some(200), "{way:?}");
            client.die(death);
            watched.wait_for_a_slot();
        }
    }
    for way in Way::TWINS {
        for _ in 0..5 {
            for death in Death::ALL {
                watched.post_half(way, "/early").die(death);
            }
        }
    }
    watched.assert_nothing_is_left();
}
