//! More clients than the process may have files.

use crate::support::{Answer, Client, End, Gone, Origin, Proxy, ReceivedRequest, gate, wait_until};

const FILES: usize = 64;
const REFUSAL: &str = "cannot accept connections";

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
fn are_exhausted(proxy: &Proxy, limit: usize) -> bool {
    let files = format!("/proc/{}/fd", proxy.pid());
    (0..limit).all(|number| std::fs::read_link(format!("{files}/{number}")).is_ok())
}

/// Opens streams until there are no two files for another. If there is one, it is a client's whose
/// upstream gets none: this, and the head of its answer.
fn fill(proxy: &Proxy, limit: usize) -> (Vec<Client>, Option<(Client, String)>) {
    let mut held = Vec::new();
    while !are_exhausted(proxy, limit) {
        let mut client = proxy.get("/");
        let head = client.head();
        if !head.starts_with("http/1.1 200 ") {
            return (held, Some((client, head)));
        }
        client.read_until("data: 1\n\n");
        held.push(client);
    }
    (held, None)
}

/// One whose files are all taken by streams, which take two each.
fn exhausted(origin: &Origin, flags: &[&str]) -> (Proxy, Vec<Client>) {
    for limit in [FILES, FILES + 1] {
        let proxy = Proxy::with_few_files(limit, origin.addr, flags);
        if let (held, None) = fill(&proxy, limit) {
            return (proxy, held);
        }
    }
    panic!("there is a file left, whatever the limit");
}

#[test]
fn streams_continue_without_free_files_and_new_ones_start_when_some_are_free() {
    let (go, goes) = gate();
    let origin = Origin::start(move |_: ReceivedRequest, to: &mut Answer| {
        to.stream();
        to.chunk("data: 1\n\n");
        if goes.opens() {
            to.chunk("data: 2\n\n");
            to.end();
        }
    });
    let flags = [
        "--heartbeat-interval=50ms",
        "--limit-rate=off",
        "--files-budget=off",
        "--upstream-unavailable=status",
    ];
    let (mut proxy, mut held) = exhausted(&origin, &flags);
    assert!(held.len() > 4, "{} streams", held.len());
    let waiting: Vec<Client> = (0..FILES).map(|_| proxy.get("/")).collect();
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

    // Those who are in get their events, and leave their files to others.
    for _ in 0..held.len() + waiting.len() + FILES {
        go.send(()).unwrap();
    }
    for mut client in held {
        assert!(client.read_until("data: 2\n\n").contains("data: 2\n\n"));
        assert_eq!(client.rest(), (Vec::new(), End::Clean));
    }
    for mut client in waiting {
        let head = client.head_if_any();
        match head.as_ref().map(|head| &head[9..12]) {
            Some("200") => assert_eq!(client.rest().1, End::Clean),
            // Others came in before the files for upstreams were free.
            Some(status) => assert_eq!(status, "503"),
            // Its request was not read yet, so that its connection was idle and could be closed.
            None => {}
        }
    }
    wait_until("a stream", || status(&mut proxy.get("/")) == "200");
    drop(go);
    origin.wait_for_open(0);
    let last = proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
}

#[test]
fn client_without_a_file_for_its_upstream_releases_its_own() {
    let origin = Origin::start(|_: ReceivedRequest, to: &mut Answer| {
        to.stream();
        to.chunk("data: 1\n\n");
        assert!(to.wait_for_close());
    });
    for host in ["127.0.0.1", "localhost"] {
        let upstream = format!("{host}:{}", origin.addr.port());
        let mut told = 0;
        // A stream takes two: in one of the cases there is one left in the end.
        for limit in [FILES, FILES + 1] {
            let flags = [
                "--limit-rate=off",
                "--files-budget=off",
                "--upstream-unavailable=status",
            ];
            let proxy = Proxy::with_few_files(limit, &upstream, &flags);
            if let (_held, Some((mut client, head))) = fill(&proxy, limit) {
                assert!(head.starts_with("http/1.1 503 "), "{head}");
                assert!(head.contains("connection: close\n"), "{head}");
                assert!(head.contains("retry-after: "), "{head}");
                assert_eq!(client.raw_and_end().1, Gone::Closed);
                wait_until("its file", || !are_exhausted(&proxy, limit));
                let line = proxy.wait_for_log("no more files can be opened");
                assert!(line.contains("ulimit -n"), "{line}");
                told += 1;
            }
        }
        assert_eq!(told, 1, "{host}");
    }
}

#[test]
fn idle_connection_yields_its_file_to_a_new_one_without_a_budget() {
    let origin = Origin::start(|_: ReceivedRequest, to: &mut Answer| {
        to.stream();
        to.chunk("data: 1\n\n");
        assert!(to.wait_for_close());
    });
    let flags = [
        "--limit-rate=off",
        "--files-budget=off",
        "--upstream-unavailable=status",
    ];
    let proxy = Proxy::with_few_files(FILES, origin.addr, &flags);
    let mut stream = proxy.get("/");
    stream.head();
    stream.read_until("data: 1\n\n");
    let mut silent: Vec<Client> = (0..2 * FILES)
        .map(|_| Client::connect(proxy.addr))
        .collect();
    // The first went so that the last got in.
    assert_eq!(silent.remove(0).raw_and_end().1, Gone::Closed);
    wait_until("a stream", || status(&mut proxy.get("/")) == "200");
    drop(stream);
}
