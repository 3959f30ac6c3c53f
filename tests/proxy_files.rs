//! More clients than the process may have files.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod support;

use support::{Answer, Asked, Client, End, Origin, Proxy, gate, wait_until};

const FILES: usize = 64;
const REFUSAL: &str = "can not accept connections";

/// Its time on a processor, in ticks.
fn ticks(proxy: &Proxy) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
    // Behind the name, which may hold anything, `utime` and `stime` are the 12th and 13th.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let mut fields = fields.split(' ').skip(11);
    let mut next = || fields.next().unwrap().parse::<u64>().unwrap();
    next() + next()
}

fn refusals(proxy: &Proxy) -> usize {
    proxy.log().matches(REFUSAL).count()
}

/// Whether something came; it is left where it is.
fn is_answered(client: &Client) -> bool {
    client.socket.set_nonblocking(true).unwrap();
    let came = client.socket.peek(&mut [0]).is_ok();
    client.socket.set_nonblocking(false).unwrap();
    came
}

fn status(client: &mut Client) -> String {
    client.head()[9..12].to_owned()
}

/// Whether each number below the limit is taken. Above it there may be some that were inherited.
fn are_exhausted(proxy: &Proxy) -> bool {
    let files = format!("/proc/{}/fd", proxy.pid());
    (0..FILES).all(|number| std::fs::read_link(format!("{files}/{number}")).is_ok())
}

/// Opens streams until there are no files for another client. The last of all waits; those that got
/// no stream hold their files.
fn exhaust(proxy: &Proxy) -> (Vec<Client>, Vec<Client>, Client) {
    let (mut held, mut turned_away) = (Vec::new(), Vec::new());
    loop {
        let mut client = proxy.get("/");
        wait_until("an answer or a refusal", || {
            is_answered(&client) || refusals(proxy) > 0
        });
        if !is_answered(&client) {
            return (held, turned_away, client);
        }
        match status(&mut client).as_str() {
            "200" => {
                client.read_until("data: 1\n\n");
                held.push(client);
            }
            // There was a file for the client and none for the upstream.
            status => {
                assert_eq!(status, "502");
                turned_away.push(client);
            }
        }
    }
}

#[test]
fn streams_go_on_while_files_are_exhausted_and_others_get_in_when_some_are_free() {
    let (go, goes) = gate();
    let origin = Origin::start(move |_: Asked, to: &mut Answer| {
        to.stream();
        to.chunk("data: 1\n\n");
        if goes.opens() {
            to.chunk("data: 2\n\n");
            to.end();
        }
    });
    let flags = ["--heartbeat-interval=50ms", "--limit-rate=off"];
    let mut proxy = Proxy::with_few_files(FILES, origin.addr, &flags);
    let (mut held, turned_away, waits) = exhaust(&proxy);
    assert!(held.len() > 4, "{} streams", held.len());
    wait_until("the last file's use", || are_exhausted(&proxy));
    let mut waiting: Vec<Client> = (0..FILES).map(|_| proxy.get("/")).collect();
    let line = proxy.wait_for_log(REFUSAL);
    assert!(
        line.contains("\"ERROR\"") && line.contains("ulimit -n"),
        "{line}"
    );

    // For as long as some heartbeats take, of which 40 are two seconds at the least, it tries now
    // and then, and does not spin.
    let (before, spent) = (refusals(&proxy), ticks(&proxy));
    for _ in 0..40 {
        held[0].read_until(": heartbeat\n");
    }
    let (tries, spent) = (refusals(&proxy) - before, ticks(&proxy) - spent);
    assert!(tries < 400, "{tries} tries");
    assert!(spent < 50, "{spent} ticks");
    assert!(!waiting.iter().any(is_answered));
    // The file that it waited for may have been its own.
    waiting.push(waits);

    drop(turned_away);
    // Those who are in get their events, and leave their files to others.
    for _ in 0..held.len() + waiting.len() + FILES {
        go.send(()).unwrap();
    }
    for mut client in held {
        assert!(client.read_until("data: 2\n\n").contains("data: 2\n\n"));
        assert_eq!(client.rest(), (Vec::new(), End::Clean));
    }
    for mut client in waiting {
        match status(&mut client).as_str() {
            "200" => assert_eq!(client.rest().1, End::Clean),
            // Others came in before the files for upstreams were free.
            status => assert_eq!(status, "502"),
        }
    }
    wait_until("a stream", || status(&mut proxy.get("/")) == "200");
    drop(go);
    origin.wait_for_open(0);
    let last = proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
}
