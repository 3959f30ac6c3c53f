//! Limits of requests in flight, streams and tunnels.

use super::*;

#[test]
fn stream_limit_above_the_file_limit_gets_a_warning() {
    let (_go, origin) = origin();
    let proxy = Proxy::with_few_files(200, origin.addr, &["--limit-total=300"]);
    let told = "limit.total allows 300 streams, but 200 open files are enough for 90:";
    proxy.wait_for_log(told);
    let output = std::process::Command::new("/bin/sh")
        .env_clear()
        .args(["-c", "ulimit -n 200; exec \"$0\" \"$@\""])
        .args([env!("CARGO_BIN_EXE_sse-guard"), "check"])
        .args(["--upstream-url=http://127.0.0.1:1", "--limit-total=300"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("warning: {told}")), "{text}");
}

#[test]
fn requests_in_flight_are_limited_in_each_state() {
    let (greedy, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    for kind in ["hang", "big", "socket", "upload"] {
        let (_go, origin) = origin();
        let flags = [
            "--limit-requests-per-ip=3",
            "--upstream-max-pending=4",
            "--admin-listen=127.0.0.1:0",
        ];
        let mut proxy = Proxy::start(origin.addr, &flags);
        let held: Vec<Client> = (0..3).map(|_| in_flight(kind, greedy, &proxy)).collect();
        origin.wait_for_open(3);
        let mut over = Client::connect_from(greedy, proxy.addr);
        over.send(PLAIN);
        let head = over.head();
        assert!(head.starts_with("http/1.1 429 "), "{kind}: {head}");
        assert!(head.contains("retry-after: ") && head.contains("connection: close\n"));
        assert_eq!(status_of(greedy, GET, &proxy), "429", "{kind}");
        assert_eq!(status_of(other, PLAIN, &proxy), "200", "{kind}");
        drop(stream_from(other, &proxy));
        let rejected = "sse_guard_rejections_total{reason=\"requests\"}";
        assert_eq!(metric(&proxy, rejected), 2.0, "{kind}");
        drop(held);
        wait_until("its place", || status_of(greedy, PLAIN, &proxy) == "200");
        assert_eq!(proxy.stop()["slots"], 0);
    }
}

#[test]
fn event_source_over_the_request_limit_gets_a_retry() {
    let (_go, origin) = origin();
    let flags = ["--limit-requests-per-ip=1", "--limit-reject=retry-later"];
    let proxy = Proxy::start(origin.addr, &flags);
    let _held = in_flight("hang", [127, 0, 0, 1], &proxy);
    origin.wait_for_open(1);
    let mut later = proxy.get("/events");
    assert!(later.head().starts_with("http/1.1 200 "));
    assert_eq!(later.bytes(7), b"retry: ");
    assert_eq!(status_of([127, 0, 0, 1], PLAIN, &proxy), "429");
}

#[test]
fn tunnel_idle_timeout_closes_idle_tunnels_alone() {
    let (_go, origin) = origin();
    let flags = ["--tunnel-idle-timeout=3s", "--admin-listen=127.0.0.1:0"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut tunnel = in_flight("socket", [127, 0, 0, 1], &proxy);
    let mut silent = in_flight("socket", [127, 0, 0, 1], &proxy);
    let pause = std::time::Duration::from_millis(100);
    silent.socket.set_read_timeout(Some(pause)).unwrap();
    let mut ping = || {
        tunnel.send("ping");
        assert_eq!(tunnel.bytes(4), b"ping");
    };
    wait_until("the end of the silent one", || {
        ping();
        let read = (&silent.socket).read(&mut [0]);
        !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
    ping();
    let closed = "sse_guard_tunnels_closed_total{reason=\"idle\"}";
    assert_eq!(metric(&proxy, closed), 1.0);
    assert_eq!(metric(&proxy, "sse_guard_tunnels"), 1.0);
    drop((tunnel, silent.raw()));
    wait_until("its end", || metric(&proxy, "sse_guard_tunnels") == 0.0);
}
