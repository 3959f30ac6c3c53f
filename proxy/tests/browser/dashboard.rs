//! The dashboard in a real browser. Pictures of it are left in `dashboard/` of cargo's directory.

use crate::browser::Browser;
use crate::support::{Client, End, Origin, Proxy, wait_until};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};

/// Keys, as WebDriver writes them.
const ENTER: &str = "\u{e007}";
const BACK_TAB: &str = "\u{e008}\u{e004}";

/// The rows of live streams that are there, without those that only take up room.
const ROWS: &str =
    "[...document.querySelectorAll('#stream-table tbody tr:not(.spacer):not(.waiting)')]";
const LIVE: &str = "document.querySelector('#feed').dataset.state === 'good'";
const ENDS: &str = "document.querySelector('#end-table tbody').innerText";

/// One event, whose id is the path without its slash, then silence.
fn quiet() -> Origin {
    Origin::start(|received, to| {
        let mut id = received.path[1..].to_owned();
        for (code, sign) in [("%3C", "<"), ("%3E", ">"), ("%22", "\"")] {
            id = id.replace(code, sign);
        }
        to.stream();
        to.chunk(format!("id: {id}\ndata: 1\n\n"));
        to.wait_for_close();
    })
}

/// With an address for the operator, on a free port unless the flags say otherwise.
fn proxy(origin: &Origin, flags: &[&str]) -> Proxy {
    let mut all = vec!["--admin-listen", "127.0.0.1:0"];
    all.extend(flags);
    Proxy::start(origin.addr, &all)
}

fn stream(proxy: &Proxy, path: &str) -> Client {
    stream_of("192.0.2.1", proxy, path)
}

/// Of a client behind a proxy that is trusted.
fn stream_of(address: &str, proxy: &Proxy, path: &str) -> Client {
    let mut client = proxy.send_request(&format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n\
         X-Forwarded-For: {address}\r\n\r\n"
    ));
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("data: 1\n\n");
    client
}

fn look(browser: &Browser, admin: SocketAddr) {
    browser.open(&format!("http://{admin}/"));
}

/// The streams in view, by their paths without the slash.
fn shows(browser: &Browser, paths: &[&str]) {
    browser.wait_for(&format!(
        "{ROWS}.map((row) => row.querySelector('.stream .line').innerText.slice(1)).sort().join() === '{}'",
        paths.join(",")
    ));
}

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
fn dashboard_detects_and_survives_a_restart_of_the_proxy() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let first = proxy(&origin, &[]);
    let admin = first.admin();
    let (address, operator) = (first.addr.to_string(), admin.to_string());
    look(&browser, admin);
    let _old = stream(&first, "/before");
    shows(&browser, &["before"]);
    assert_eq!(browser.problems(), Vec::<String>::new());
    // Else the next one's age could not be told from this one's.
    browser.wait_for("document.querySelector('#about').innerText.match(/up\\s[2-9]/)");
    browser.run("document.querySelector('#stream-table .act button').click()");
    browser.wait_for("document.querySelector('#confirm').open");

    drop(first);
    browser.wait_for("!document.querySelector('#lost').hidden");
    browser.wait_for("document.body.classList.contains('stale')");
    // Its number may be another stream's in the next proxy.
    browser.wait_for("!document.querySelector('#confirm').open");
    browser.photograph("lost");

    let upstream = format!("http://{}", origin.addr);
    let flags = ["--upstream-url", &upstream, "--admin-listen", &operator];
    let second = Proxy::listening(&address, &flags);
    let _new = stream(&second, "/after");
    browser.wait_for(LIVE);
    browser.wait_for("document.querySelector('#lost').hidden");
    browser.wait_for("!document.querySelector('#renewed').hidden");
    shows(&browser, &["after"]);
    browser.photograph("found");
}

/// A socket that is bound and does not listen: connections are refused, and no other process gets the port.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn unreachable_upstream_is_shown_with_cause_and_remedy_until_it_is_back() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (place, address) = refusing();
    let proxy = Proxy::start(
        address,
        &[
            "--admin-listen=127.0.0.1:0",
            "--memory-budget=1GiB",
            "--files-budget=1000",
        ],
    );
    look(&browser, proxy.admin());
    let well = "document.querySelector('#overall').innerText === 'Healthy: 1 route, 1 upstream'";
    browser.wait_for(well);
    let budgets = "document.querySelector('#budgets').innerText";
    browser.wait_for(&format!(r"/memory \d+ of 1,024 MiB/.test({budgets})"));
    browser.wait_for(&format!(
        r"/open file descriptors \d+ of 1,000/.test({budgets})"
    ));
    browser.photograph("healthy");

    // As many as it takes to be no accident.
    for _ in 0..3 {
        // In place of a 502, and no less a failure.
        proxy.get("/").retry_later();
    }
    browser.wait_for("document.querySelector('#overall').innerText === '1 failing'");
    let unwell = browser.run("return document.querySelector('#unwell').innerText");
    let unwell = unwell.as_str().unwrap().to_lowercase();
    for part in [
        "failing",
        &format!("upstream {address}"),
        "cannot connect",
        "remedy: start it",
    ] {
        assert!(unwell.contains(part), "{part}: {unwell}");
    }
    let row = "document.querySelector('#upstreams tbody').innerText";
    browser.wait_for(&format!("{row}.includes('failing')"));
    for (name, scheme, width, height) in [
        ("failing", "light", 1280, 1000),
        ("failing-dark", "dark", 1280, 1000),
        ("failing-phone", "light", 480, 1000),
    ] {
        browser.colours(scheme);
        browser.resize(width, height);
        browser.wait_for(&format!(
            "innerWidth === {width} && document.documentElement.scrollWidth <= {width}"
        ));
        browser.photograph(name);
    }

    drop(place);
    let _origin = Origin::listening(&address.to_string(), |_, to| {
        to.stream();
        to.wait_for_close();
    });
    browser.wait_for(well);
    browser.wait_for("document.querySelector('#unwell').children.length === 0");
    browser.wait_for(&format!("{row}.includes('healthy')"));
    // Each change was told once, however many seconds it lasted.
    let told = browser.run(
        "return [...document.querySelectorAll('#announce p')].map((told) => told.innerText)
             .filter((told) => told.startsWith('Health')).join()",
    );
    assert_eq!(told, "Health: 1 failing,Health: healthy");
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn unreachable_upstream_that_readiness_tolerates_is_named() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_place, address) = refusing();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let text = format!("[[route]]\npath = '/dead'\nupstream.url = 'http://{address}'");
    std::fs::write(&file, text).unwrap();
    let proxy = proxy(&quiet(), &["--config", file.to_str().unwrap()]);
    look(&browser, proxy.admin());
    let chip = |text: &str| {
        browser.wait_for(&format!(
            "document.querySelector('#readiness').innerText === '{text}'"
        ));
    };
    chip("Ready");
    for _ in 0..3 {
        proxy.get("/dead").retry_later();
    }
    // Said once: by Health.
    let cause = "document.querySelector('#unwell').innerText";
    browser.wait_for(&format!("{cause}.includes('{address}')"));
    chip("Ready");
    std::fs::write(
        &file,
        format!(
            "ready.when = 'all'\n{}",
            std::fs::read_to_string(&file).unwrap()
        ),
    )
    .unwrap();
    proxy.signal("-HUP");
    chip("Not ready: 1 upstream unreachable");
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn token_is_requested_and_sent() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let proxy = proxy(&origin, &["--admin-token", "correct-horse-battery"]);
    let _one = stream(&proxy, "/one");
    look(&browser, proxy.admin());
    browser.wait_for("document.querySelector('#login').open");
    browser.write("#login input", &format!("wrong{ENTER}"));
    browser.wait_for("document.querySelector('#login-wrong').innerText");
    browser.photograph("token");
    browser.write("#login input", &format!("correct-horse-battery{ENTER}"));
    shows(&browser, &["one"]);
    browser.wait_for(LIVE);
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
        browser.colours(scheme);
        browser.resize(width, height);
        // Nothing sticks out: the page itself does not scroll sideways.
        browser.wait_for(&format!(
            "innerWidth === {width} && document.documentElement.scrollWidth <= {width}"
        ));
        browser.photograph(name);
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

#[test]
fn route_is_not_healthy_while_its_streams_wait_for_their_upstream() {
    let Some(browser) = Browser::start() else {
        return;
    };
    // The first stream breaks off, and those that should continue it are not answered.
    let origin = Origin::start(|received, to| {
        if received.field("last-event-id").is_some() {
            to.wait_for_close();
            return;
        }
        to.stream();
        to.chunk("id: 1\ndata: 1\n\n");
    });
    let proxy = proxy(&origin, &["--resume-mode=on"]);
    look(&browser, proxy.admin());
    let _stream = stream(&proxy, "/feed");
    let route = "document.querySelector('#routes tbody').innerText";
    browser.wait_for(&format!("{route}.includes('failing')"));
    let health = "document.querySelector('#unwell').innerText";
    browser.wait_for(&format!(
        "{health}.includes('1 of 1 streams have lost their upstream and wait for it')"
    ));
    assert_eq!(browser.problems(), Vec::<String>::new());
}

#[test]
fn forms_report_what_has_been_sent_and_what_a_reload_has_changed() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("");
    let proxy = proxy(&origin, &["--config", file.to_str().unwrap()]);
    let mut feed = stream(&proxy, "/feed");
    let mut answer =
        proxy.send_request("POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    answer.head();
    answer.read_until("data: 1\n\n");
    look(&browser, proxy.admin());
    browser.wait_for(LIVE);
    browser.run("document.querySelector('#send').to.value = 'route'");
    browser.write("#send [name=value]", "/");
    browser.write("#send [name=data]", "back at 10:00");
    browser.click("#send button");
    let result = |of: &str, text: &str| {
        browser.wait_for(&format!(
            "document.querySelector('#{of}').innerText === '{text}'"
        ));
    };
    result(
        "sent",
        "Sent to 1 stream. 1 stream skipped: not an EventSource stream.",
    );
    feed.read_until("data: back at 10:00\n\n");
    browser.click("#reload button");
    result("reloaded", "No key has changed.");
    write("heartbeat.interval = '7s'\nlisten = '127.0.0.1:1'\n");
    browser.click("#reload button");
    browser.wait_for("document.querySelector('#reloaded').innerText.startsWith('Changed: ')");
    write("heartbeat.interval = 'never'");
    browser.click("#reload button");
    browser.wait_for("document.querySelector('#reloaded').innerText.startsWith('Reload failed: ')");
}
