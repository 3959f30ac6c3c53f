//! A browser over TLS: HTTP/2 carries more streams of one origin than the six connections of HTTP/1.1.

use crate::browser::Browser;
use crate::support::Origin;
use crate::support::ways::Ways;
use serde_json::json;

const FEEDS: usize = 30;

#[test]
fn thirty_event_sources_of_one_origin_are_open_at_once_over_http2() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = Origin::start(|received, to| match received.path.strip_prefix("/feed/") {
        Some(number) => {
            to.stream();
            to.chunk(format!("data: {number}\n\n"));
            to.wait_for_close();
        }
        None => {
            to.raw(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\
                  Content-Length: 15\r\n\r\n<!doctype html>",
            );
        }
    });
    let url = format!("http://{}", origin.addr);
    let flags = ["--heartbeat-interval=50ms", "--heartbeat-style=event"];
    let mut ways = Ways::start(&url, &flags);
    browser.open(&format!("https://{}/", ways.tls_addr));
    browser.run(&format!(
        "window.seen = new Set(); window.beats = new Set(); window.sources = []; \
         for (let n = 0; n < {FEEDS}; n++) {{ \
             const source = new EventSource('/feed/' + n); \
             source.onmessage = (event) => seen.add(event.data); \
             source.addEventListener('ping', () => beats.add(n)); \
             sources.push(source); \
         }}"
    ));
    browser.wait_for(&format!("seen.size === {FEEDS} && beats.size === {FEEDS}"));
    assert_eq!(
        browser.run("return sources.every((source) => source.readyState === 1)"),
        json!(true)
    );
    origin.wait_for_open(FEEDS);
    // Another request has its turn beside them, over HTTP/2.
    let protocol = browser.run_async(
        "const response = await fetch('/page'); await response.text(); \
         const entries = performance.getEntriesByType('resource'); \
         return [response.status, entries.at(-1).nextHopProtocol];",
    );
    assert_eq!(protocol, json!([200, "h2"]));
    // One that is closed ends alone.
    browser.run("sources[7].close()");
    origin.wait_for_open(FEEDS - 1);
    browser.run("beats.clear()");
    browser.wait_for(&format!("beats.size === {}", FEEDS - 1));
    browser.run("sources.forEach((source) => source.close())");
    origin.wait_for_open(0);
    drop(browser);
    let last = ways.proxy.stop();
    assert_eq!(
        (&last["active"], &last["opened"]),
        (&json!(0), &json!(FEEDS))
    );
}
