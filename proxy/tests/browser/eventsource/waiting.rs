//! New streams that wait for their upstream.

use super::*;

const WAIT: [&str; 4] = [
    "--upstream-unavailable=wait",
    "--resume-mode=on",
    "--heartbeat-interval=50ms",
    "--resume-backoff=50ms",
];

/// One event with an id, then silence.
fn numbered(address: &str) -> Origin {
    Origin::listening(address, |received, to| {
        match received.path.as_str() {
            "/closed" => stream(to, ""),
            _ => stream(to, &allowed(&received)),
        };
        to.chunk("id: 1\ndata: there\n\n");
        to.wait_for_close();
    })
}

#[test]
fn new_stream_waits_for_its_upstream_if_resume_is_on() {
    let address = free_address();
    let mut flags = WAIT.to_vec();
    flags.push("--admin-listen=127.0.0.1:0");
    let proxy = Proxy::start(address, &flags);
    let mut client = page(&proxy, "/feed", APP, SSE);
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/event-stream\n"), "{head}");
    assert!(head.contains("x-accel-buffering: no\n"), "{head}");
    for _ in 0..3 {
        client.read_until(": heartbeat\n");
    }
    // Others are told the status, or to come back later where a stream is not resumed.
    assert_eq!(other(&proxy, "GET", "/feed", ""), 502);
    assert_eq!(other(&proxy, "POST", "/feed", SSE), 502);
    let mcp = "GET / HTTP/1.1\r\nHost: x\r\nMcp-Session-Id: 1\r\n";
    proxy.send_request(&format!("{mcp}{SSE}\r\n")).retry_later();

    // A failure all the same.
    let metrics = metrics(&proxy);
    for line in [
        "sse_guard_unavailable_total{answer=\"wait\"} 1\n",
        "sse_guard_unavailable_total{answer=\"retry_later\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let failed = metrics.lines().find(|line| {
        line.starts_with("sse_guard_streams_total{") && line.contains("outcome=\"failed\"")
    });
    // With the POST, which accepts a stream.
    assert!(failed.unwrap().ends_with(" 3"), "{metrics}");

    let _origin = numbered(&address.to_string());
    client.read_until("data: there\n\n");
}

#[test]
fn waiting_stream_is_readable_by_an_origin_that_its_upstream_allows() {
    let (closed, open) = ("/closed", "/feed");
    let origin = numbered("127.0.0.1:0");
    let address = origin.addr.to_string();
    let proxy = Proxy::start(origin.addr, &WAIT);
    let mut known = page(&proxy, open, APP, SSE);
    known.head();
    known.read_until("data: there\n\n");
    drop(known);
    origin.stop_listening();
    drop(origin);
    let begin = |path| {
        let mut client = page(&proxy, path, APP, SSE);
        assert!(may_read(&client.head(), APP));
        client.read_until(": heartbeat\n");
        client
    };
    let (mut allowed, mut denied) = (begin(open), begin(closed));
    let _origin = numbered(&address);
    allowed.read_until("data: there\n\n");
    let (text, _) = denied.rest();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("event: error\n") && !text.contains("there"),
        "{text}"
    );
}

#[test]
fn unavailable_wait_without_resume_sends_a_retry() {
    let proxy = Proxy::start(free_address(), &WAIT[..1]);
    proxy.get("/").retry_later();
    proxy.wait_for_log("requires resume.mode, which is off");
}

#[test]
fn browsers_event_source_of_another_origin_waits_for_its_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let pages = pages();
    let app = format!("http://{}", pages.addr);
    let address = free_address();
    let mut flags = WAIT.to_vec();
    // From the start on, when nothing was seen yet.
    let origins = format!("--cors-allowed-origins={app}");
    flags.push(&origins);
    let proxy = Proxy::start(address, &flags);
    browser.open(&format!("{app}/"));
    browser.run(&format!(
        "window.seen = []; window.opened = 0; \
         window.source = new EventSource('http://{}/feed'); \
         source.onopen = () => opened++; \
         source.onmessage = (event) => seen.push(event.data);",
        proxy.addr
    ));
    browser.wait_for("source.readyState === 1");
    let _origin = numbered(&address.to_string());
    sees(&browser, "there");
    assert_eq!(browser.run("return opened"), json!(1));
}
