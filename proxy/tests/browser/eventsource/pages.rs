//! The `EventSource` of a browser, in pages of another origin.

use super::*;

#[test]
fn browsers_event_source_of_another_origin_outlives_its_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let preflights = Arc::new(AtomicUsize::new(0));
    let start = |address: &str, event: &'static str, lives: Gate| {
        let preflights = preflights.clone();
        Origin::listening(address, move |received, to| {
            if received.head.starts_with("OPTIONS ") {
                preflights.fetch_add(1, SeqCst);
            }
            stream(to, &allowed(&received));
            to.chunk(format!("id: 7\ndata: {event}\n\n"));
            // Until it dies in the middle of the stream.
            lives.opens();
        })
    };
    let page = pages();
    let (death, lives) = gate();
    let origin = start("127.0.0.1:0", "before", lives);
    let address = origin.addr.to_string();
    let flags = [
        "--limit-retry-after=200ms",
        "--rotation-retry-on-open=200ms",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    browser.open(&format!("http://{}/", page.addr));
    listen(&browser, &format!("http://{}/feed", proxy.addr));
    sees(&browser, "before");

    origin.stop_listening();
    drop((origin, death));
    // Each time it comes back it opens, and ends.
    browser.wait_for("opened > 4");
    let (_death, lives) = gate();
    let origin = start(&address, "after", lives);
    sees(&browser, "after");
    assert_eq!(origin.last_request().field("last-event-id"), Some("7"));
    assert_eq!(
        preflights.load(SeqCst),
        0,
        "an EventSource sends no preflight"
    );
    proxy.wait_for_log("upstream unavailable");
}

#[test]
fn browsers_event_source_of_another_origin_takes_an_early_answer() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (late, lates) = gate();
    let origin = allowing(lates);
    let flags = ["--early-enabled=true", "--early-after=50ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    let page = pages();
    browser.open(&format!("http://{}/", page.addr));
    let of = |path: &str| format!("http://{}{path}", proxy.addr);
    let known = browser.run_async(&format!(
        "return (await fetch('{}', {{ credentials: 'include' }})).status",
        of("/plain")
    ));
    assert_eq!(known, json!(200));
    listen(&browser, &of("/late"));
    browser.wait_for("source.readyState === 1");
    late.send(()).unwrap();
    sees(&browser, "late");
}

#[test]
fn browsers_event_source_of_another_origin_comes_back_from_a_limit() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let flags = [
        "--limit-per-ip=1",
        "--limit-rate=off",
        "--limit-reject=retry-later",
        "--limit-retry-after=100ms",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let pages = pages();
    browser.open(&format!("http://{}/", pages.addr));
    // At the host that the browser names, where the origin is allowed by that.
    let mut holder = proxy.send_request(&format!(
        "GET /feed HTTP/1.1\r\nHost: {}\r\nOrigin: http://{}\r\n{SSE}\r\n",
        proxy.addr, pages.addr
    ));
    holder.head();
    holder.read_until("data: 1");
    listen(&browser, &format!("http://{}/feed", proxy.addr));
    browser.wait_for("opened > 2");
    drop(holder);
    sees(&browser, "1");
}

#[test]
fn page_of_another_origin_reads_the_status_of_a_response_in_place_of_the_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let proxy = Proxy::start(origin.addr, &[]);
    let page = pages();
    browser.open(&format!("http://{}/", page.addr));
    let fetch = format!(
        "const answer = await fetch('http://{}/plain', \
         {{ headers: {{ Authorization: 'Bearer x' }} }}); \
         return [answer.status, await answer.text()];",
        proxy.addr
    );
    assert_eq!(browser.run_async(&fetch), json!([200, ""]));
    origin.stop_listening();
    drop(origin);
    // With a preflight before it, whose answer is not kept.
    let away = json!([502, "sse-guard: cannot connect to the upstream\n"]);
    wait_until("the answer", || browser.run_async(&fetch) == away);
}
