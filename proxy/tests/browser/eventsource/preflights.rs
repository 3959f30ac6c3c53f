//! Preflights, and what is answered in place of the upstream.

use super::*;

#[test]
fn preflights_take_no_slots_and_are_answered_while_the_upstream_is_away() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let flags = ["--limit-rate=1/h", "--limit-burst=1", "--limit-per-ip=1"];
    let proxy = Proxy::start(origin.addr, &flags);
    let preflight = |origin: &str| {
        proxy
            .send_request(&format!(
                "OPTIONS /feed HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n{SSE}\
                 Access-Control-Request-Method: GET\r\n\
                 Access-Control-Request-Headers: authorization\r\n\r\n"
            ))
            .head()
    };
    for _ in 0..5 {
        assert!(preflight(APP).starts_with("http/1.1 200 "));
    }
    let mut feed = page(&proxy, "/feed", APP, SSE);
    assert!(feed.head().starts_with("http/1.1 200 "));
    feed.read_until("data: 1");
    assert!(preflight(APP).starts_with("http/1.1 200 "));

    origin.stop_listening();
    wait_until("the upstream is away", || {
        page(&proxy, "/plain", APP, "")
            .head()
            .starts_with("http/1.1 502 ")
    });
    let known = preflight(APP);
    assert!(
        known.starts_with("http/1.1 204 ") && may_read(&known, APP),
        "{known}"
    );
    assert!(
        known.contains("access-control-allow-headers: authorization\n"),
        "{known}"
    );
    assert!(
        known.contains("access-control-allow-methods: get\n"),
        "{known}"
    );
    assert!(preflight("https://other.test").starts_with("http/1.1 502 "));
}

#[test]
fn preflight_is_allowed_no_more_than_its_upstream_allowed() {
    let is_closed = Arc::new(AtomicUsize::new(0));
    let closed = is_closed.clone();
    let origin = Origin::start(move |received, to: &mut Answer| {
        let is_private = received.field("host") == Some("private.test");
        let fields = match received.path.as_str() {
            "/session" => allowed(&received),
            "/api?later" if closed.load(SeqCst) == 1 => String::new(),
            path if path.starts_with("/api") && !is_private => {
                "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: DELETE\r\n".into()
            }
            _ => String::new(),
        };
        plain(to, &fields);
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let send_request = |method: &str, host: &str, path: &str, fields: &str| {
        proxy
            .send_request(&format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {APP}\r\n{fields}\r\n"
            ))
            .head()
    };
    let asks = "Access-Control-Request-Method: DELETE\r\n";
    let preflight = |host: &str, path: &str| send_request("OPTIONS", host, path, asks);
    send_request("GET", "app.test", "/session", "");
    for path in ["/api", "/api?later"] {
        preflight("app.test", path);
    }
    preflight("private.test", "/api");
    is_closed.store(1, SeqCst);
    preflight("app.test", "/api?later");
    stop(&origin, &proxy);

    let known = preflight("app.test", "/api");
    assert!(known.starts_with("http/1.1 204 "), "{known}");
    assert!(!has_credentials(&known), "{known}");
    assert!(known.contains(&format!("access-control-allow-origin: {APP}\n")));
    for (host, path) in [
        ("private.test", "/api"),
        ("app.test", "/api?later"),
        ("app.test", "/api?other"),
    ] {
        let refused = preflight(host, path);
        assert!(refused.starts_with("http/1.1 502 "), "{refused}");
    }
    let session = send_request("GET", "app.test", "/session", "");
    assert!(may_read(&session, APP), "{session}");
    let private = send_request("GET", "private.test", "/session", "");
    assert!(!may_read(&private, APP), "{private}");
}

#[test]
fn preflights_have_a_limit_apart_from_requests() {
    let origin = Origin::start(|received, to: &mut Answer| match received.path.as_str() {
        "/hang" => assert!(to.wait_for_close()),
        _ => plain(to, &allowed(&received)),
    });
    let proxy = Proxy::start(origin.addr, &["--limit-requests-per-ip=1"]);
    let asks = "Access-Control-Request-Method: GET\r\n";
    let send_request = |method: &str, path: &str, fields: &str| {
        proxy.send_request(&format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\n{fields}\r\n"
        ))
    };
    let get = send_request("GET", "/hang", "");
    wait_until("the GET", || origin.served() == 1);
    assert_eq!(status(&mut send_request("OPTIONS", "/", asks)), 200);
    assert_eq!(status(&mut send_request("OPTIONS", "/", "")), 429);
    assert_eq!(status(&mut send_request("GET", "/", asks)), 429);
    let preflight = send_request("OPTIONS", "/hang", asks);
    wait_until("the preflight", || origin.served() == 3);
    assert_eq!(status(&mut send_request("OPTIONS", "/", asks)), 429);
    drop(get);
    wait_until("the place of the GET", || {
        status(&mut send_request("GET", "/", "")) == 200
    });
    assert_eq!(status(&mut send_request("OPTIONS", "/", asks)), 429);
    drop(preflight);
    wait_until("the place of the preflight", || {
        status(&mut send_request("OPTIONS", "/", asks)) == 200
    });
}
