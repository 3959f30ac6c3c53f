//! Upstreams and clients that go at any point: nobody takes a part for a whole, and nothing of
//! them is left behind: no stream, no slot of a limit, no file.

use crate::support::{Answer, Client, End, Origin, Proxy, ReceivedRequest, gate, wait_until};
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

const GET: &str = "GET /held HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
/// Half of an upload.
pub(super) const HALF: &str = "first";

/// How one side goes.
#[derive(Clone, Copy, Debug)]
enum Death {
    Close,
    Reset,
}

const DEATHS: [Death; 2] = [Death::Close, Death::Reset];

impl Death {
    fn of(self, client: Client) {
        match self {
            Self::Close => drop(client),
            Self::Reset => client.reset(),
        }
    }
}

/// A proxy that lets one stream of a client in, so that what is left of another shows.
struct Watched {
    proxy: Proxy,
    #[cfg(target_os = "linux")]
    files: usize,
}

impl Watched {
    /// The origin has to answer `/held` with a stream that it holds, and `/short` with one that
    /// it ends.
    fn start(origin: &Origin, flags: &[&str]) -> Self {
        let mut all = vec![
            "--limit-per-ip=1",
            "--limit-rate=off",
            // It follows limit.per_ip, and these tests open and drop many connections at once.
            "--client-max-connections=off",
            "--upstream-unavailable=status",
        ];
        all.extend(flags);
        let proxy = Proxy::start(origin.addr, &all);
        let mut client = proxy.get("/held");
        client.head();
        client.read_until("\n\n");
        let watched = Self {
            // Less the client's connection and the upstream's.
            #[cfg(target_os = "linux")]
            files: proxy.files() - 2,
            proxy,
        };
        drop(client);
        watched.wait_for_a_slot();
        watched
    }

    /// Until the next client is let in. Its own slot is free when this is back.
    fn wait_for_a_slot(&self) {
        wait_until("a slot", || {
            let mut client = self.proxy.get("/short");
            let is_in = client.head().starts_with("http/1.1 200 ");
            if is_in {
                assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
            }
            is_in
        });
    }

    fn assert_nothing_is_left(mut self, origin: &Origin) {
        origin.wait_for_open(0);
        self.wait_for_a_slot();
        #[cfg(target_os = "linux")]
        wait_until("the files of the start", || {
            self.proxy.files() == self.files
        });
        let last = self.proxy.stop();
        assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
        assert_eq!(last["cut_off"], 0, "{last}");
        let log = self.proxy.log();
        let ids: Vec<u64> = log
            .lines()
            .filter(|line| line.contains("\"stream ended\""))
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["span"]["id"].as_u64().unwrap()
            })
            .collect();
        assert_eq!(last["opened"], ids.len());
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }
}

/// What [`Watched`] asks for, and `/mute`, which gets no answer.
pub(super) fn answer(received: &ReceivedRequest, to: &mut Answer) {
    if received.path == "/short" {
        to.stream();
        to.chunk("data: 1\n\n");
        to.end();
        return;
    }
    if received.path != "/mute" {
        if received.field("content-length").is_some() {
            to.body(HALF.len());
        }
        to.stream();
        to.chunk("data: 1\n\ndata: ha");
    }
    assert!(to.wait_for_close());
}

fn upload(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\
         Content-Length: 10\r\n\r\n{HALF}"
    )
}

/// Pieces of a response, each with the event that it makes whole.
pub(super) type Pieces = &'static [(&'static str, &'static str)];

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n";

pub(super) const CHUNKED: Pieces = &[
    (HEAD, ""),
    ("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n", ""),
    ("11\r\nid: 1\ndata: one\n\n", "id: 1\ndata: one\n\n"),
    ("\r\n6;x=y\r\ndata: \r\n005\r\ntwo\n\n", "data: two\n\n"),
    ("\r\n0\r\nX-Sum: 7\r\n\r\n", ""),
];

pub(super) const LENGTH: Pieces = &[
    (HEAD, ""),
    ("Content-Length: 28\r\n\r\n", ""),
    ("id: 1\ndata: one\n\n", "id: 1\ndata: one\n\n"),
    ("data: two\n\n", "data: two\n\n"),
];

/// An upstream sends so much of a response and dies, at once or when the client has seen an event.
fn upstreams_that_die_at_any_byte(pieces: Pieces, request: fn(&str) -> String) {
    let response: String = pieces.iter().map(|(piece, _)| *piece).collect();
    let len = response.len();
    let head = pieces[0].0.len() + pieces[1].0.len();
    let first = head + pieces[2].0.len();
    let (go, goes) = gate();
    let origin = Origin::start(move |received, to| {
        let mut path = received.path.split('/').skip(1);
        let (Some(death), Some(cut)) = (path.next(), path.next()) else {
            return answer(&received, to);
        };
        let (early, late) =
            response[..cut.parse().unwrap()].split_at(first.min(cut.parse().unwrap()));
        to.raw(early.as_bytes());
        if path.next() == Some("later") {
            goes.wait();
        }
        to.raw(late.as_bytes());
        if death == "Reset" {
            to.reset();
        }
    });
    let watched = Watched::start(&origin, &[]);
    for cut in 0..=len {
        let mut end = 0;
        let pieces = pieces.iter().take_while(|(piece, _)| {
            end += piece.len();
            end <= cut
        });
        let events: String = pieces.map(|(_, event)| *event).collect();
        let whole = if cut == len { End::Clean } else { End::Broken };
        for (death, when) in [
            ("Close", ""),
            ("Reset", ""),
            ("Close", "/later"),
            ("Reset", "/later"),
        ] {
            if !when.is_empty() && cut < first {
                continue;
            }
            let path = format!("/{death}/{cut}{when}");
            let mut client = watched.proxy.send_request(&request(&path));
            let status = &client.head()[..12];
            if cut < head {
                assert_eq!(status, "http/1.1 502", "{path}");
                continue;
            }
            assert_eq!(status, "http/1.1 200", "{path}");
            let mut seen = Vec::new();
            if !when.is_empty() {
                seen.extend(client.chunk().unwrap());
                go.send(()).unwrap();
            }
            let (rest, end) = client.rest();
            seen.extend(rest);
            let seen = String::from_utf8(seen).unwrap();
            assert_eq!((seen, end), (events.clone(), whole), "{path}");
        }
    }
    watched.assert_nothing_is_left(&origin);
}

fn get(path: &str) -> String {
    GET.replace("/held", path)
}

#[test]
fn upstream_that_dies_in_its_chunks_leaves_whole_events_and_no_end() {
    upstreams_that_die_at_any_byte(CHUNKED, get);
}

#[test]
fn upstream_that_dies_short_of_its_length_leaves_whole_events_and_no_end() {
    upstreams_that_die_at_any_byte(LENGTH, get);
}

#[test]
fn upstream_that_dies_during_the_upload_leaves_whole_events_and_no_end() {
    upstreams_that_die_at_any_byte(CHUNKED, upload);
}

#[test]
fn clients_that_die_at_any_byte_of_their_request_leave_nothing_behind() {
    let origin = Origin::start(|received, to| answer(&received, to));
    let watched = Watched::start(&origin, &[]);
    for request in [get("/mute"), upload("/mute")] {
        for len in 0..=request.len() {
            for death in DEATHS {
                death.of(watched.proxy.send_request(&request[..len]));
            }
            let mut half = watched.proxy.send_request(&request[..len]);
            half.close_own_side();
            // Not by the other side's death.
            let answer = half.raw();
            assert!(
                answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
                "{len}"
            );
        }
        origin.wait_for_open(0);
        watched.wait_for_a_slot();
    }
    watched.assert_nothing_is_left(&origin);
}

#[test]
fn clients_that_die_at_any_stage_of_their_stream_leave_nothing_behind() {
    let origin = Origin::start(|received, to| answer(&received, to));
    let watched = Watched::start(&origin, &[]);
    for death in DEATHS {
        for request in [get("/mute"), upload("/mute"), get("/held"), upload("/held")] {
            let before = origin.served();
            let mut client = watched.proxy.send_request(&request);
            if request.contains("/held") {
                assert!(client.head().starts_with("http/1.1 200 "));
                assert_eq!(client.read_until("\n\n"), "data: 1\n\n");
            } else {
                wait_until("the request", || origin.served() > before);
            }
            death.of(client);
            origin.wait_for_open(0);
            watched.wait_for_a_slot();
        }
    }
    // Nor is it the upstream's fault, which would wake its operator.
    assert!(!watched.proxy.log().contains("\"ERROR\""));
    watched.assert_nothing_is_left(&origin);
}

/// Input behind a request: an empty line as old clients send it, the start of another request, and
/// more than is read ahead.
fn inputs_behind() -> [String; 3] {
    ["\r\n".into(), "G".into(), "G".repeat(64 * 1024)]
}

#[test]
fn disconnect_is_detected_whatever_follows_the_request() {
    let origin = Origin::start(|received, to| match received.path.as_str() {
        "/plain" => {
            to.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
            assert!(to.wait_for_close());
        }
        _ => answer(&received, to),
    });
    let watched = Watched::start(&origin, &[]);
    let plain = "POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    // Its rest is input that the upstream does not take.
    let uploaded = "POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n";
    let requests = [
        (plain, "part"),
        (uploaded, "part"),
        (&get("/mute"), ""),
        (&get("/held"), "\n\n"),
    ];
    for (request, seen) in requests {
        for behind in inputs_behind() {
            for death in DEATHS {
                let before = origin.served();
                let mut client = watched.proxy.send_request(&format!("{request}{behind}"));
                match seen {
                    "" => wait_until("the request", || origin.served() > before),
                    seen => {
                        client.head();
                        client.read_until(seen);
                    }
                }
                death.of(client);
                origin.wait_for_open(0);
                watched.wait_for_a_slot();
            }
        }
    }
    watched.assert_nothing_is_left(&origin);
}

#[test]
fn upload_that_breaks_off_during_its_response_fails_alone() {
    let origin = Origin::start(|received, to| match received.path.as_str() {
        "/early" => {
            to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            to.next_request();
        }
        _ => answer(&received, to),
    });
    let watched = Watched::start(&origin, &[]);
    for _ in 0..50 {
        for death in DEATHS {
            let upload = upload("/early");
            death.of(watched.proxy.send_request(&upload));
            let mut half = watched.proxy.send_request(&upload);
            half.close_own_side();
        }
    }
    assert!(!watched.proxy.log().contains("panicked"));
    watched.assert_nothing_is_left(&origin);
}

#[test]
fn client_reset_is_detected_while_its_upload_is_not_read() {
    let (go, goes) = gate();
    let origin = Origin::start(move |received, to| match received.path.as_str() {
        "/blocked" => goes.wait(),
        _ => answer(&received, to),
    });
    let watched = Watched::start(&origin, &[]);
    let before = origin.served();
    let mut client = watched.proxy.send_request(
        "POST /blocked HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\
         Content-Length: 1000000000\r\n\r\n",
    );
    wait_until("the request", || origin.served() > before);
    let full = Some(Duration::from_millis(200));
    client.socket.set_write_timeout(full).unwrap();
    while client.socket.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    client.reset();
    watched.wait_for_a_slot();
    #[cfg(target_os = "linux")]
    wait_until("the files of the start", || {
        watched.proxy.files() == watched.files
    });
    go.send(()).unwrap();
    watched.assert_nothing_is_left(&origin);
}

#[test]
fn client_and_upstream_that_die_at_once_leave_nothing_behind() {
    let (go, goes) = gate();
    let origin = Origin::start(move |received, to| {
        let Some(death) = received.path.strip_prefix("/both/") else {
            return answer(&received, to);
        };
        if let Some(death) = death.strip_prefix("begun/") {
            to.stream();
            to.chunk("data: 1\n\n");
            if death == "Reset" {
                to.reset();
            }
        } else if death == "Reset" {
            to.reset();
        }
        goes.wait();
    });
    let watched = Watched::start(&origin, &[]);
    for _ in 0..20 {
        for stage in ["", "begun/"] {
            for theirs in ["Close", "Reset"] {
                for death in DEATHS {
                    let before = origin.served();
                    let mut client = watched.proxy.get(&format!("/both/{stage}{theirs}"));
                    if stage.is_empty() {
                        wait_until("the request", || origin.served() > before);
                    } else {
                        client.head();
                        client.read_until("\n\n");
                    }
                    go.send(()).unwrap();
                    death.of(client);
                    origin.wait_for_open(0);
                    watched.wait_for_a_slot();
                }
            }
        }
    }
    watched.assert_nothing_is_left(&origin);
}

/// A byte now and then, until the other side has had enough.
fn drip(client: &mut Client) {
    let pace = Some(Duration::from_millis(2));
    client.socket.set_read_timeout(pace).unwrap();
    wait_until("the end of patience", || {
        let sent = client.socket.write_all(b"x");
        let read = client.socket.read(&mut [0]);
        let waits = matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock);
        sent.is_err() || !waits
    });
}

#[test]
fn request_heads_that_never_end_are_given_up() {
    let origin = Origin::start(|received, to| answer(&received, to));
    let watched = Watched::start(&origin, &["--client-head-timeout=500ms"]);
    let mut never = vec![
        // The start of a request, all of one but for its last byte, and none.
        watched.proxy.send_request("G"),
        watched.proxy.send_request(&GET[..GET.len() - 1]),
        Client::connect(watched.proxy.addr),
    ];
    // Behind a stream, too.
    for behind in ["", "GET /ne"] {
        let mut client = watched.proxy.send_request(&(get("/short") + behind));
        client.head();
        assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
        never.push(client);
    }
    let mut drips = watched.proxy.send_request("GET / HTTP/1.1\r\nX-Drip: ");
    for client in &mut never {
        assert_eq!(client.raw(), b"");
    }
    drip(&mut drips);
    watched.assert_nothing_is_left(&origin);
}

#[test]
fn response_heads_that_never_end_are_given_up() {
    let origin = Origin::start(|received, to| {
        if received.path != "/drip" {
            return answer(&received, to);
        }
        to.raw(b"HTTP/1.1 200 OK\r\nX-Drip: ");
        // The origin's pace; nothing waits for it.
        while to.raw(b"x") {
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let watched = Watched::start(&origin, &["--upstream-head-timeout=500ms"]);
    let head = watched.proxy.get("/drip").head();
    assert!(head.starts_with("http/1.1 504 "), "{head}");
    watched.assert_nothing_is_left(&origin);
}

#[test]
fn bytes_that_arrive_one_by_one_arrive_whole_and_delay_no_other() {
    let origin = Origin::start(|received, to| {
        if received.path != "/slow" {
            return answer(&received, to);
        }
        for (piece, _) in CHUNKED {
            for byte in piece.bytes() {
                to.raw(&[byte]);
            }
        }
    });
    let watched = Watched::start(&origin, &[]);
    let mut slow = Client::connect(watched.proxy.addr);
    let request = get("/slow");
    for (index, byte) in request.bytes().enumerate() {
        slow.send(std::str::from_utf8(&[byte]).unwrap());
        if index == request.len() / 2 {
            watched.wait_for_a_slot();
        }
    }
    slow.head();
    let whole = b"id: 1\ndata: one\n\ndata: two\n\n".to_vec();
    assert_eq!(slow.rest(), (whole, End::Clean));
    drop(slow);
    watched.assert_nothing_is_left(&origin);
}
