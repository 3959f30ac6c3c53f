//! A listener that redirects to HTTPS.

use super::{Run, admin, listener, next_status, origin};
use crate::support::{Client, free_address};

/// The status and the `Location` of the response to these bytes.
fn redirect(client: &mut Client, request: &str) -> (u16, Option<String>) {
    client.send(request);
    let head = client.head();
    let mut lines = head.lines();
    let location = lines.find_map(|line| line.strip_prefix("location: "));
    let status = head[9..12].parse().unwrap();
    if status == 308 {
        assert!(head.contains("\ncontent-length: 0\n"), "{head}");
    }
    (status, location.map(str::to_owned))
}

#[test]
fn each_request_is_redirected_to_the_host_that_it_names_without_the_upstream() {
    let origin = origin();
    let (plain, other) = (free_address(), free_address());
    let run = Run::start(&origin, |_| {
        listener("plain", plain, "redirect_https = true")
            + &listener("other", other, "redirect_https = 8443")
    });
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
    for (address, port) in [(plain, ""), (other, ":8443")] {
        // All on one connection.
        let mut client = Client::connect(address);
        for (request, host, target) in [
            (
                get(
                    "/feed?token=s",
                    "Host: app.test\r\nAccept: text/event-stream\r\n",
                ),
                "app.test",
                "/feed?token=s",
            ),
            (
                "POST /v1 HTTP/1.1\r\nHost: app.test:80\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
                "app.test",
                "/v1",
            ),
            (get("/", "Host: [::1]:80\r\n"), "[::1]", "/"),
            (get("http://b.test:80", "Host: app.test\r\n"), "b.test", "/"),
            (
                get("//evil.test/%2e%2e", "Host: app.test\r\n"),
                "app.test",
                "//evil.test/%2e%2e",
            ),
            (
                get(
                    "/",
                    "Host: app.test\r\nX-Forwarded-Host: evil.test\r\nForwarded: host=evil.test\r\n",
                ),
                "app.test",
                "/",
            ),
            (
                "OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n".to_owned(),
                "app.test",
                "",
            ),
        ] {
            let location = format!("https://{host}{port}{target}");
            let found = redirect(&mut client, &request);
            assert_eq!(found, (308, Some(location)), "{request}");
        }
    }
    assert_eq!(origin.served(), 0);
    let line = run.proxy.wait_for_log("\"status\":308");
    let has_fields = line.contains("\"listener\":\"plain\"") && line.contains("\"path\":\"/feed\"");
    assert!(has_fields, "{line}");
    assert!(!run.proxy.log().contains("token"));
    let (_, metrics) = admin(&run.proxy, "GET", "/metrics");
    let sample = "sse_guard_requests_total{route=\"\",status=\"3xx\"} 14\n";
    assert!(metrics.contains(sample), "{metrics}");
}

#[test]
fn request_without_one_valid_host_is_refused_and_not_redirected() {
    let origin = origin();
    let plain = free_address();
    let redirects = listener("plain", plain, "redirect_https = true");
    let _run = Run::start(&origin, |_| redirects);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: a.test/x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a.test\\@b.test\r\n\r\n", 400),
        ("GET /a\\b HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", 405),
    ] {
        let mut client = Client::connect(plain);
        assert_eq!(redirect(&mut client, request), (status, None), "{request}");
    }
}

#[test]
fn reload_switches_the_redirect_for_the_next_request_of_each_connection() {
    let origin = origin();
    let plain = free_address();
    let redirects = listener("plain", plain, "redirect_https = true");
    let run = Run::start(&origin, |_| redirects.clone());
    let mut client = Client::connect(plain);
    assert_eq!(next_status(&mut client, "/a"), 308);
    assert_eq!(run.reload(&listener("plain", plain, "")).0, 200);
    assert_eq!(next_status(&mut client, "/a"), 200);
    assert_eq!(run.reload(&redirects).0, 200);
    assert_eq!(next_status(&mut client, "/a"), 308);
}
