//! Upstreams that die, and clients of each kind that must not take a part for a whole.

use super::*;
use crate::faults::{CHUNKED, LENGTH, Pieces};

/// How an upstream goes.
#[derive(Clone, Copy, Debug)]
enum Fall {
    /// Over TLS with a `close_notify`.
    Close,
    /// Over TLS without one.
    Truncate,
    Reset,
}

/// An upstream sends so much of a response and dies, at once or when the client has seen an event.
fn upstreams_that_die(upstream: Upstream, way: Way, pieces: Pieces) {
    let response: String = pieces.iter().map(|(piece, _)| *piece).collect();
    let len = response.len();
    let head = pieces[0].0.len() + pieces[1].0.len();
    let first = head + pieces[2].0.len();
    let (go, goes) = gate();
    let origin = move |received: ReceivedRequest, to: &mut Answer| {
        let mut path = received.path.split('/').skip(1);
        let (Some(fall), Some(cut)) = (path.next(), path.next()) else {
            return answer(&received, to);
        };
        let (early, late) =
            response[..cut.parse().unwrap()].split_at(first.min(cut.parse().unwrap()));
        to.raw(early.as_bytes());
        if path.next() == Some("later") {
            goes.wait();
        }
        to.raw(late.as_bytes());
        match fall {
            "Truncate" => to.truncate(),
            "Reset" => to.reset(),
            _ => {}
        }
    };
    let watched = Watched::before(upstream, &[], origin);
    // Around the ends of pieces: each byte is cut at in the test of HTTP/1.1.
    let mut border = 0;
    let borders = pieces.iter().map(|(piece, _)| {
        border += piece.len();
        border
    });
    let cuts = borders.flat_map(|border| [border - 1, border, border + 1]);
    for cut in cuts.filter(|cut| *cut <= len) {
        let mut end = 0;
        let pieces = pieces.iter().take_while(|(piece, _)| {
            end += piece.len();
            end <= cut
        });
        let events: String = pieces.map(|(_, event)| *event).collect();
        let whole = if cut == len { End::Clean } else { End::Broken };
        for fall in [Fall::Close, Fall::Truncate, Fall::Reset] {
            for when in ["", "/later"] {
                if !when.is_empty() && cut < first {
                    continue;
                }
                let path = format!("/{fall:?}/{cut}{when}");
                let mut client = watched.get(way, &path);
                let status = client.status();
                if cut < head {
                    assert_eq!(status, Some(502), "{way:?} {path}");
                    continue;
                }
                assert_eq!(status, Some(200), "{way:?} {path}");
                let mut seen = Vec::new();
                if !when.is_empty() {
                    seen.extend(client.read_until("\n\n").into_bytes());
                    go.send(()).unwrap();
                }
                let (rest, end) = client.rest();
                seen.extend(rest);
                let seen = String::from_utf8(seen).unwrap();
                assert_eq!(
                    (seen, end),
                    (events.clone(), whole),
                    "{upstream:?} {way:?} {path}"
                );
            }
        }
    }
    watched.assert_nothing_is_left();
}

#[test]
fn upstream_that_dies_in_its_chunks_leaves_whole_events_and_no_end_on_any_way() {
    for way in Way::TWINS {
        upstreams_that_die(Upstream::Plain, way, CHUNKED);
    }
}

#[test]
fn upstream_over_tls_that_dies_leaves_whole_events_and_no_end_on_any_way() {
    upstreams_that_die(Upstream::Tls, Way::Http1, CHUNKED);
    upstreams_that_die(Upstream::Tls, Way::Http2Tls, LENGTH);
}

#[test]
fn client_and_upstream_that_die_at_once_leave_nothing_behind_on_any_way() {
    for (upstream, ways) in [
        (Upstream::Plain, &Way::TWINS[..]),
        (Upstream::Tls, &[Way::Http1]),
    ] {
        let (go, goes) = gate();
        let watched = Watched::before(upstream, &[], move |received, to| {
            let Some(fall) = received.path.strip_prefix("/both/") else {
                return answer(&received, to);
            };
            if fall.starts_with("begun/") {
                to.stream();
                to.chunk("data: 1\n\n");
            }
            match fall.rsplit('/').next() {
                Some("Reset") => to.reset(),
                Some("Truncate") => to.truncate(),
                _ => {}
            }
            goes.wait();
        });
        for way in ways.iter().copied() {
            for stage in ["", "begun/"] {
                for fall in [Fall::Close, Fall::Truncate, Fall::Reset] {
                    for death in Death::ALL {
                        let before = watched.origin.served();
                        let mut client = watched.get(way, &format!("/both/{stage}{fall:?}"));
                        if stage.is_empty() {
                            wait_until("the request", || watched.origin.served() > before);
                        } else {
                            client.opened("\n\n");
                        }
                        go.send(()).unwrap();
                        client.die(death);
                        watched.origin.wait_for_open(0);
                        watched.wait_for_a_slot();
                    }
                }
            }
        }
        watched.assert_nothing_is_left();
    }
}

#[test]
fn response_heads_that_never_end_are_given_up_over_tls() {
    let flags = ["--upstream-head-timeout=500ms"];
    let watched = Watched::before(Upstream::Tls, &flags, |received, to| {
        if received.path != "/drip" {
            return answer(&received, to);
        }
        to.raw(b"HTTP/1.1 200 OK\r\nX-Drip: ");
        // The origin's pace; nothing waits for it.
        while to.raw(b"x") {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    for way in [Way::Tls, Way::Http2Tls] {
        assert_eq!(watched.get(way, "/drip").status(), Some(504), "{way:?}");
    }
    watched.assert_nothing_is_left();
}
