//! The table of streams and the details of one.

use super::*;

#[test]
fn stream_is_listed_found_ended_and_its_end_is_shown() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let proxy = proxy(&origin, &["--trusted-proxies=127.0.0.1"]);
    look(&browser, proxy.admin());
    browser.wait_for(LIVE);
    browser.wait_for("!document.querySelector('#stream-empty').hidden");
    browser.photograph("nobody");

    let one = stream(&proxy, "/one");
    let mut other = stream_of("192.0.2.77", &proxy, "/other");
    shows(&browser, &["one", "other"]);
    browser.photograph("streams");

    browser.write("#stream-filters [name=q]", "2.77");
    shows(&browser, &["other"]);
    // By keyboard alone: the row's button, then the one that says yes, which is not the first choice.
    browser.run("document.querySelector('#stream-table .act button').focus()");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#confirm').open");
    let effect = "document.querySelector('#confirm-text').innerText";
    browser.wait_for(&format!(
        "{effect}.endsWith('the client reconnects by itself with Last-Event-ID other.')"
    ));
    browser.photograph("confirm");
    browser.press(ENTER);
    browser.wait_for("!document.querySelector('#confirm').open");
    shows(&browser, &["other"]);
    browser.run("document.querySelector('#stream-table .act button').focus()");
    browser.press(ENTER);
    browser.wait_for("document.querySelector('#confirm').open");
    browser.press(BACK_TAB);
    browser.press(ENTER);
    let (last_words, end) = other.rest();
    let last_words = String::from_utf8(last_words).unwrap();
    // A slow machine leaves time for heartbeats.
    let last_words = last_words.replace(": heartbeat\n", "");
    assert!(last_words.starts_with("retry: "), "{last_words:?}");
    assert_eq!(end, End::Clean);
    shows(&browser, &[]);
    browser.click("#stream-filters [type=reset]");
    shows(&browser, &["one"]);

    browser.wait_for(&format!("{ENDS}.includes('operator')"));
    drop(one);
    browser.wait_for(&format!("{ENDS}.includes('client gone')"));
    browser.write("#end-filters [name=q]", "Client Gone");
    browser.wait_for(&format!(
        "!{ENDS}.includes('operator') && {ENDS}.includes('client gone')"
    ));
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn ends_are_exported_as_filtered_and_without_formulas() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let proxy = proxy(&origin, &[]);
    look(&browser, proxy.admin());
    browser.wait_for(LIVE);
    // Files stay in the page here.
    browser.run(
        "window.saved = [];
         URL.createObjectURL = (blob) => { blob.text().then((text) => saved.push(text)); return '#'; };
         HTMLAnchorElement.prototype.click = () => {};",
    );
    for path in ["/=1+1", "/%3Cb%3Ebold,%22two%22", "/plain"] {
        drop(stream(&proxy, path));
    }
    browser.wait_for("document.querySelector('#end-count').innerText === '3 streams'");
    assert_eq!(
        browser.run("return document.querySelectorAll('td b').length"),
        0
    );
    browser.click("#csv");
    browser.wait_for("saved.length === 1");
    let csv = browser.run("return saved[0]");
    let csv = csv.as_str().unwrap();
    assert!(
        csv.starts_with("seq,id,ended_ms,reason,fault,client,"),
        "{csv}"
    );
    assert_eq!(csv.matches("\r\n").count(), 4, "{csv}");
    assert!(csv.contains(",'=1+1\r\n"), "{csv}");
    assert!(csv.contains(",\"<b>bold,\"\"two\"\"\"\r\n"), "{csv}");
    browser.write("#end-filters [name=q]", "plain");
    browser.wait_for("document.querySelector('#end-count').innerText === '1 of 3 streams'");
    browser.click("#json");
    browser.wait_for("saved.length === 2");
    let json = browser.run("return JSON.parse(saved[1])");
    assert_eq!(json[0]["last_event_id"], "plain");
    assert_eq!(json[1], serde_json::Value::Null);
}

#[test]
fn table_of_a_thousand_streams_holds_the_rows_in_view_alone() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let proxy = proxy(&origin, &["--limit-per-ip=off", "--limit-rate=off"]);
    let streams: Vec<_> = (0..1000).map(|n| proxy.get(&format!("/{n}"))).collect();
    wait_until("the streams", || origin.served() == streams.len());
    look(&browser, proxy.admin());
    browser.wait_for("document.querySelector('#stream-count').innerText === '1,000 streams'");
    browser.wait_for(
        "document.querySelector('#stream-table').getAttribute('aria-rowcount') === '1001'",
    );
    browser.wait_for(&format!("{ROWS}.length > 10 && {ROWS}.length < 100"));
    let top = "document.querySelector('#stream-scroller').scrollTop";
    browser.run(&format!("{top} = 1e9"));
    browser.wait_for(&format!(
        "{ROWS}.some((row) => row.querySelector('th').innerText === '1')"
    ));
    // The rows last in order are at the end, and say so.
    browser.wait_for(&format!(
        "{ROWS}.at(-1).getAttribute('aria-rowindex') === '1001'"
    ));
    browser.click("#stream-table button[data-key=id]");
    browser.wait_for("document.querySelector('#stream-table th.id').ariaSort === 'ascending'");
    browser.wait_for(&format!(
        "{top} === 0 && {ROWS}[0].querySelector('th').innerText === '1'"
    ));
    for width in [390, 700, 1000, 1280, 1680] {
        browser.resize(width, 900);
        // Six tiles and six charts fill their rows.
        for grid in ["#tiles", "#chart-grid"] {
            browser.wait_for(&format!(
                "innerWidth === {width} && 6 % getComputedStyle(document.querySelector('{grid}'))
                     .gridTemplateColumns.split(' ').length === 0"
            ));
        }
    }
    for (name, scheme, width, height) in [
        ("light", "light", 1280, 2300),
        ("dark", "dark", 1280, 2300),
        ("phone", "light", 400, 1800),
    ] {
        browser.photograph_at(name, scheme, width, height);
    }
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn row_opens_its_details_and_unprotected_streams_are_listed() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = Origin::start(|received, to| {
        let fields = match received.path.split('?').next().unwrap() {
            "/coded" => "Content-Type: text/event-stream\r\nContent-Encoding: gzip",
            "/typed" => "Content-Type: text/event-streams",
            _ => "Content-Type: text/event-stream",
        };
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\nTransfer-Encoding: chunked\r\n\r\n");
        to.raw(head.as_bytes());
        to.chunk("id: 7\ndata: 1\n\n");
        to.wait_for_close();
    });
    let proxy = proxy(&origin, &[]);
    look(&browser, proxy.admin());
    browser.wait_for(LIVE);
    let feed = stream(&proxy, "/feed/of/prices?token=secret");
    let _coded = stream(&proxy, "/coded");
    let _typed = stream(&proxy, "/typed");
    let _answer = {
        let mut client = proxy.send_request(
            "POST /answer HTTP/1.1\r\nHost: proxy.test\r\nUser-Agent: OpenAI/Python 1.0\r\n\
             Content-Length: 0\r\n\r\n",
        );
        client.head();
        client.read_until("data: 1\n\n");
        client
    };
    shows(&browser, &["answer", "coded", "feed/of/prices"]);
    // What it takes to tell one stream from another fits.
    let cut = |table: &str, cells: &str| {
        browser.wait_for(&format!(
            "[...document.querySelectorAll('{table} tbody :is({cells})')]
                 .flatMap((cell) => [cell, ...cell.querySelectorAll('.line')])
                 .every((cell) => cell.scrollWidth <= cell.clientWidth || cell.clientWidth === 0)"
        ));
    };
    cut("#stream-table", ".state, .stream, .client, .family, .age");
    let unprotected = "document.querySelector('#unguarded').innerText";
    for part in [
        "GET /coded",
        "Compressed",
        "GET /typed",
        "Other Content-Type",
    ] {
        browser.wait_for(&format!("{unprotected}.includes('{part}')"));
    }

    let open = |path: &str| {
        browser.run(&format!(
            "{ROWS}.find((row) => row.innerText.includes('{path}')).querySelector('th button').click()"
        ));
        browser.wait_for("document.querySelector('#details').open");
    };
    let details = "document.querySelector('#details').innerText";
    let say = |parts: &[&str]| {
        for part in parts {
            browser.wait_for(&format!("{details}.includes('{part}')"));
        }
    };
    open("/answer");
    say(&[
        "POST /answer HTTP/1.1",
        "openai: client of the OpenAI API",
        "the OpenAI SDK raises a connection error",
    ]);
    browser.photograph("details");
    browser.click("#details-close");
    open("/coded");
    say(&["none: the upstream compresses the stream"]);
    browser.click("#details-close");
    open("/feed/of/prices");
    say(&[
        "GET /feed/of/prices HTTP/1.1",
        "eventsource: EventSource",
        "the client reconnects by itself with Last-Event-ID 7",
        "Held in memory",
        "Heartbeats sent",
        "UTC",
    ]);
    // The details follow their stream to its end.
    drop(feed);
    say(&["ended: client gone", "closed the connection"]);
    assert_eq!(
        browser.run(&format!("return {details}.includes('secret')")),
        false
    );
    browser.click("#details-close");
    cut(
        "#end-table",
        ".time, .reason, .stream, .client, .family, .age",
    );
    browser.run("document.querySelector('#end-table tbody th button').click()");
    say(&["ended: client gone", "GET /feed/of/prices HTTP/1.1"]);
    // The details may be requested at the moment at which their stream ends.
    let mut problems = browser.problems();
    problems.retain(|text| !text.contains("/api/streams/") || !text.contains("404"));
    assert_eq!(problems, Vec::<String>::new());
}
