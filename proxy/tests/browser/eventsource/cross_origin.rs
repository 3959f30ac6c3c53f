//! Pages of other origins: which responses of the proxy they may read.

use super::*;

#[test]
fn responses_in_place_of_the_upstream_allow_its_origins() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let flags = [
        "--upstream-head-timeout=500ms",
        "--upstream-max-pending=1",
        "--limit-per-ip=1",
        "--limit-rate=off",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    let head = |path: &str, origin: &str, fields: &str| page(&proxy, path, origin, fields).head();
    // Before the upstream has allowed anything.
    let unknown = head("/mute", APP, "");
    assert!(
        unknown.starts_with("http/1.1 504 ") && !may_read(&unknown, APP),
        "{unknown}"
    );
    assert!(head("/plain", APP, "").starts_with("http/1.1 200 "));

    let timeout = head("/mute", APP, "");
    assert!(
        timeout.starts_with("http/1.1 504 ") && may_read(&timeout, APP),
        "{timeout}"
    );
    let masked = head("/mute", APP, SSE);
    assert!(
        masked.starts_with("http/1.1 200 ") && may_read(&masked, APP),
        "{masked}"
    );
    let other = head("/mute", "https://other.test", "");
    assert!(!may_read(&other, "https://other.test"), "{other}");

    let mut feed = page(&proxy, "/feed", APP, SSE);
    assert!(may_read(&feed.head(), APP));
    feed.read_until("data: 1");
    let limit = head("/feed", APP, SSE);
    assert!(
        limit.starts_with("http/1.1 429 ") && may_read(&limit, APP),
        "{limit}"
    );
    assert!(
        limit.contains("access-control-expose-headers: retry-after\n"),
        "{limit}"
    );

    let _waits = page(&proxy, "/late", APP, "");
    wait_until("a request that waits", || {
        origin.last_request().path == "/late"
    });
    let busy = head("/plain", APP, "");
    assert!(
        busy.starts_with("http/1.1 503 ") && may_read(&busy, APP),
        "{busy}"
    );
}

#[test]
fn listed_origins_read_the_status_of_a_path_without_a_route() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let write = |origins: &str| {
        let text = format!(
            "listen = '127.0.0.1:0'\nadmin.listen = 'off'\ncors.allowed_origins = {origins}\n\
             [[route]]\npath = '/plain'\nupstream.url = 'http://{}'\n\
             [[route]]\npath = '/away'\nupstream.url = 'http://{}'\n",
            origin.addr,
            free_address(),
        );
        std::fs::write(&file, text).unwrap();
    };
    write("'upstream'");
    let proxy = Proxy::from_file(&file);
    let may = |path: &str| {
        let head = page(&proxy, path, APP, "").head();
        let allowed = head.contains(&format!("access-control-allow-origin: {APP}\n"));
        (head[9..12].to_owned(), allowed)
    };
    assert_eq!(may("/none"), ("404".into(), false));
    assert_eq!(may("/plain"), ("200".into(), true));
    assert_eq!(may("/none"), ("404".into(), true));
    // Another route's upstream has allowed nothing.
    assert_eq!(may("/away"), ("502".into(), false));
    // What was seen outlives a reload.
    write("\"upstream\"");
    proxy.signal("-HUP");
    proxy.wait_for_log("config reloaded");
    assert_eq!(may("/none"), ("404".into(), true));
    for (times, (origins, allowed)) in [
        ("[\"https://app.test\", \"https://b.test\"]", true),
        ("[\"https://b.test\"]", false),
        ("'*'", true),
        ("'off'", false),
    ]
    .into_iter()
    .enumerate()
    {
        write(origins);
        proxy.signal("-HUP");
        proxy.wait_for_log_lines("config reloaded", times + 2);
        assert_eq!(may("/away"), ("502".into(), allowed), "{origins}");
        assert_eq!(may("/none"), ("404".into(), allowed), "{origins}");
    }
}

#[test]
fn early_answer_allows_an_origin_that_its_late_head_must_confirm() {
    let (late, lates) = gate();
    let origin = allowing(lates);
    let flags = ["--early-enabled=true", "--early-after=50ms"];
    let proxy = Proxy::start(origin.addr, &flags);
    page(&proxy, "/plain", APP, "").head();
    let mut client = page(&proxy, "/late", APP, SSE);
    assert!(may_read(&client.head(), APP));
    late.send(()).unwrap();
    client.read_until("data: late\n\n");

    let mut client = page(&proxy, "/closed", APP, SSE);
    assert!(may_read(&client.head(), APP));
    late.send(()).unwrap();
    let (text, end) = client.rest();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("event: error\n") && text.contains("allow this origin"),
        "{text}"
    );
    assert!(!text.contains("data: late"), "{text}");
    assert_eq!(end, End::Clean);
}

#[test]
fn early_answer_with_credentials_needs_a_late_head_with_credentials() {
    let (late, lates) = gate();
    let origin = Origin::start(
        move |received, to: &mut Answer| match received.path.as_str() {
            "/session" => plain(to, &allowed(&received)),
            path => {
                if !lates.opens() {
                    return;
                }
                let allowed = format!("Access-Control-Allow-Origin: {APP}\r\n");
                stream(
                    to,
                    match path {
                        "/any" => "Access-Control-Allow-Origin: *\r\n",
                        _ => &allowed,
                    },
                );
                to.chunk("data: secret\n\n");
                to.end();
            }
        },
    );
    let flags = [
        "--early-enabled=true",
        "--early-after=50ms",
        "--trusted-proxies=127.0.0.1",
    ];
    let proxy = Proxy::start(origin.addr, &flags);
    page(&proxy, "/session", APP, "").head();
    // Of a user whom a trusted proxy names: no cookie shows it.
    let user = format!("{SSE}X-Remote-User: alice\r\n");
    for path in ["/any", "/origin"] {
        let mut client = page(&proxy, path, APP, &user);
        assert!(may_read(&client.head(), APP));
        late.send(()).unwrap();
        let (text, _) = client.rest();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("event: error\n"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        // By now it is known that there are no credentials here.
        let mut client = page(&proxy, path, APP, &user);
        assert!(!has_credentials(&client.head()));
        late.send(()).unwrap();
        client.read_until("data: secret\n\n");
    }
}

#[test]
fn origins_of_one_client_do_not_displace_those_of_another() {
    let (_late, lates) = gate();
    let origin = allowing(lates);
    let proxy = Proxy::start(origin.addr, &["--trusted-proxies=127.0.0.1"]);
    let by = |client: &str, origin: &str| {
        let client = format!("X-Forwarded-For: {client}\r\n");
        page(&proxy, "/plain", origin, &client).head()
    };
    by("192.0.2.1", APP);
    for i in 0..300 {
        let origin = format!("https://{i}.test");
        for _ in 0..2 {
            by("192.0.2.2", &origin);
        }
    }
    by("192.0.2.3", "https://late.test");
    by("192.0.2.2", "https://more.test");
    stop(&origin, &proxy);
    for origin in [APP, "https://late.test", "https://more.test"] {
        let answer = by("192.0.2.4", origin);
        assert!(answer.starts_with("http/1.1 502 "), "{answer}");
        assert!(may_read(&answer, origin), "{answer}");
    }
    let gone = "https://0.test";
    assert!(!may_read(&by("192.0.2.4", gone), gone));
}
