//! Preflights that are answered in place of the service.

use super::*;

#[tokio::test(start_paused = true)]
async fn preflight_is_answered_if_the_service_allowed_exactly_that() {
    let cors = CorsLayer::new();
    let preflight_request = || preflight(APP, "/v1/chat?x=1", "POST", Some("authorization,x-a"));
    let refused = away(&cors, preflight_request()).await;
    assert_eq!((refused.status(), allowed(&refused)), (502, (None, false)));

    let answer = allowing(APP)
        .status(204)
        .header("access-control-allow-credentials", "true")
        .header("access-control-allow-headers", "X-A, Authorization");
    through(&cors, preflight_request(), answer).await;
    let answer = away(&cors, preflight_request()).await;
    assert_eq!(
        (answer.status(), allowed(&answer)),
        (204, (Some(APP), true))
    );
    let headers = answer.headers();
    assert_eq!(headers["access-control-allow-methods"], "POST");
    assert_eq!(headers["access-control-allow-headers"], "authorization,x-a");
    assert_eq!(headers["vary"], "origin");
    assert!(!headers.contains_key("access-control-max-age"));
    assert_eq!(answer.text().await, "");

    for other in [
        preflight(OTHER, "/v1/chat?x=1", "POST", Some("authorization,x-a")),
        preflight(APP, "/v1/admin?x=1", "POST", Some("authorization,x-a")),
        preflight(APP, "/v1/chat?x=2", "POST", Some("authorization,x-a")),
        at("/v1/chat?x=1", "b.test", preflight_request()),
        preflight(APP, "/v1/chat?x=1", "DELETE", Some("authorization,x-a")),
        preflight(APP, "/v1/chat?x=1", "POST", Some("authorization,x-b")),
        preflight(APP, "/v1/chat?x=1", "POST", None),
        request("OPTIONS", &[("origin", APP)]),
    ] {
        assert_eq!(away(&cors, other).await.status(), 502);
    }
    tokio::time::advance(table::PERMISSION_TTL).await;
    assert_eq!(away(&cors, preflight_request()).await.status(), 502);
}

#[tokio::test]
async fn invalid_preflight_response_is_not_remembered() {
    let preflight_request = |method| preflight(APP, "/", method, Some("authorization"));
    let any = || allowing(APP).header("access-control-allow-headers", "authorization");
    for (method, answer) in [
        ("POST", any().status(403)),
        ("DELETE", any()),
        (
            "DELETE",
            any().header("access-control-allow-methods", "PUT"),
        ),
        ("POST", allowing(APP)),
        (
            "POST",
            allowing(APP).header("access-control-allow-headers", "*"),
        ),
        (
            "POST",
            allowing(OTHER).header("access-control-allow-headers", "authorization"),
        ),
    ] {
        let cors = CorsLayer::origins([APP]);
        through(&cors, preflight_request(method), answer).await;
        assert_eq!(cors.memory.permissions.sizes().1, 0, "{method}");
        assert_eq!(away(&cors, preflight_request(method)).await.status(), 502);
    }
    let cors = CorsLayer::new();
    let answer = any().header("access-control-allow-methods", "PUT, DELETE");
    through(&cors, preflight_request("DELETE"), answer).await;
    assert_eq!(away(&cors, preflight_request("DELETE")).await.status(), 204);
}

#[tokio::test]
async fn preflight_response_has_the_credentials_of_the_original() {
    let cors = CorsLayer::new();
    let preflight_request = || preflight(APP, "/api", "DELETE", Some("x-a"));
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&cors, get(APP), with_credentials).await;
    for origin in ["*", APP] {
        let answer = allowing(origin)
            .header("access-control-allow-methods", "DELETE")
            .header("access-control-allow-headers", "x-a");
        through(&cors, preflight_request(), answer).await;
        let answer = away(&cors, preflight_request()).await;
        assert_eq!(
            (answer.status(), allowed(&answer)),
            (204, (Some(APP), false))
        );
    }
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), true));
}

#[tokio::test]
async fn preflight_refused_later_is_forgotten() {
    let preflight_request = || preflight(APP, "/api", "DELETE", None);
    let allows = || allowing(APP).header("access-control-allow-methods", "DELETE");
    for (later, status) in [
        (ScriptedUpstream::new().status(204), 502),
        (ScriptedUpstream::new().status(403), 502),
        (ScriptedUpstream::new().status(405), 502),
        (allows().status(403), 502),
        (allowing(APP), 502),
        (allowing(OTHER), 502),
        (ScriptedUpstream::new().status(503), 204),
        (ScriptedUpstream::new().status(429), 204),
        (ScriptedUpstream::new().status(431), 204),
        (ScriptedUpstream::new().status(400), 502),
        (allows(), 204),
    ] {
        let cors = CorsLayer::new();
        through(&cors, preflight_request(), allows()).await;
        through(&cors, preflight_request(), later).await;
        assert_eq!(away(&cors, preflight_request()).await.status(), status);
    }
}

#[tokio::test]
async fn preflight_table_is_bounded_by_client() {
    let cors = CorsLayer::new();
    let real = || preflight(APP, "/real", "POST", None);
    let late = || preflight(APP, "/late", "POST", None);
    through(&cors, of(1, real()), allowing(APP)).await;
    for i in 0..super::super::permissions::MAX_PREFLIGHTS + 100 {
        let preflight_request = preflight(OTHER, &format!("/{i}"), "POST", None);
        through(&cors, of(2, preflight_request), allowing(OTHER)).await;
    }
    assert_eq!(
        cors.memory.permissions.sizes(),
        (2, super::super::permissions::MAX_PREFLIGHTS)
    );
    through(&cors, of(3, late()), allowing(APP)).await;
    assert_eq!(
        cors.memory.permissions.sizes(),
        (2, super::super::permissions::MAX_PREFLIGHTS)
    );
    for known in [real(), late()] {
        assert_eq!(away(&cors, known).await.status(), 204);
    }
}

#[tokio::test]
async fn preflight_takes_no_slot_of_a_limit() {
    let limit = ConnectionLimitLayer::new().total(0);
    let mut preflight_request = preflight(APP, "/", "GET", None);
    let accept = "text/event-stream".parse().unwrap();
    preflight_request.headers_mut().insert("accept", accept);
    let upstream = ScriptedUpstream::new()
        .status(204)
        .content_type("text/plain");
    let response = send_request((CorsLayer::new(), limit), preflight_request, upstream).await;
    assert_eq!(response.status(), 204);
}
