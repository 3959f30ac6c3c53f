//! Early answers, and the late head of the service.

use super::*;

#[tokio::test(start_paused = true)]
async fn early_answer_passes_a_late_head_that_allows_its_origin() {
    let event = "data: 1\n\n";
    let with_credentials = || allowing(APP).header("access-control-allow-credentials", "true");
    let with = |name: &'static str, value: &str| {
        let mut request = get(APP);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let cookie = || with("cookie", "user=1");
    for (request, known, late) in [
        (get(APP), allowing(APP), allowing(APP)),
        (get(APP), allowing("*"), allowing("*")),
        (cookie(), with_credentials(), with_credentials()),
        (get(APP), with_credentials(), with_credentials()),
        // Of its own origin it may read anything.
        (
            with("host", "app.test"),
            allowing(APP),
            ScriptedUpstream::new(),
        ),
        (
            with("sec-fetch-site", "same-origin"),
            allowing(APP),
            ScriptedUpstream::new(),
        ),
        (
            request("GET", &[("accept", "text/event-stream")]),
            allowing(APP),
            ScriptedUpstream::new(),
        ),
    ] {
        let response = early(request, known, late.send(event)).await;
        assert_eq!(response.text().await, event);
    }
    let mut other_site = with("host", "app.test");
    let site = "same-site".parse().unwrap();
    other_site.headers_mut().insert("sec-fetch-site", site);
    for (request, known, late) in [
        (get(APP), allowing(APP), ScriptedUpstream::new()),
        (
            with("host", "app.test:8443"),
            allowing(APP),
            ScriptedUpstream::new(),
        ),
        (other_site, allowing(APP), ScriptedUpstream::new()),
        (get(APP), allowing("*"), allowing(OTHER)),
        (cookie(), with_credentials(), allowing(APP)),
        (cookie(), with_credentials(), allowing("*")),
        // The login may be of the connection, or of a proxy on the way.
        (get(APP), with_credentials(), allowing(APP)),
        (get(APP), with_credentials(), allowing("*")),
        (
            get(APP),
            allowing(APP),
            ScriptedUpstream::new()
                .status(500)
                .content_type("text/plain"),
        ),
    ] {
        let response = early(request, known, late.send("data: secret\n\n")).await;
        assert_eq!(allowed(&response).0, Some(APP));
        let (text, _) = response.read().await;
        assert!(text.starts_with("event: error\n"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn page_that_cannot_read_an_early_answer_waits_for_the_service() {
    let cookie = || {
        let mut request = get(APP);
        let value = "user=1".parse().unwrap();
        request.headers_mut().insert("cookie", value);
        request
    };
    for (request, known, is_early) in [
        (get(APP), APP, true),
        (get(APP), "*", true),
        (get(OTHER), APP, false),
        (cookie(), APP, false),
        (cookie(), "*", false),
    ] {
        let late = allowing(known).header("x-late", "1").send("data: 1\n\n");
        let response = early(request, allowing(known), late).await;
        assert_eq!(!response.headers().contains_key("x-late"), is_early);
    }
}

#[tokio::test(start_paused = true)]
async fn late_head_updates_permissions() {
    let cors = CorsLayer::new();
    let layers = || {
        let early = EarlyLayer::new(Duration::from_secs(1));
        (cors.clone(), MetricsLayer::new(), early)
    };
    let session = at("/session", "x", get(APP));
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&cors, session, with_credentials).await;
    let public = || at("/feed", "x", get(APP));
    let late = |origin| allowing(origin).send("data: 1\n\n").late(5);
    let first = send_request(layers(), public(), late("*")).await;
    assert_eq!(allowed(&first), (Some(APP), true));
    assert!(first.read().await.0.starts_with("event: error\n"));
    // The page needs no credentials there: the next answer does not allow them, and the stream passes.
    let second = send_request(layers(), public(), late("*")).await;
    assert_eq!(allowed(&second), (Some(APP), false));
    assert_eq!(second.text().await, "data: 1\n\n");
    let closed = send_request(layers(), public(), late(OTHER)).await;
    assert!(closed.read().await.0.starts_with("event: error\n"));
    assert_eq!(allowed(&own(&cors, public()).await), (None, false));
}
