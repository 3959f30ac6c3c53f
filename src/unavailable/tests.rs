use super::*;
use crate::connection_limit::ConnectionLimitLayer;
use crate::guard::testing::{ScriptedUpstream, TestResponse, send_request};
use crate::metrics::MetricsLayer;
use http::Method;
use http::header::RETRY_AFTER;

fn layer() -> UnavailableLayer {
    UnavailableLayer::new().retry(Duration::from_secs(4))
}

/// In its place, around another layer.
fn stack(layer: UnavailableLayer) -> (UnavailableLayer, MetricsLayer) {
    (layer, MetricsLayer::new())
}

fn feed() -> Request<()> {
    let get = Request::get("/").header("accept", "text/event-stream");
    get.body(()).unwrap()
}

fn upstream(status: u16) -> ScriptedUpstream {
    ScriptedUpstream::new()
        .status(status)
        .content_type("text/html")
        .send("<p>down")
}

async fn milliseconds(response: TestResponse) -> u64 {
    let text = response.text().await;
    let retry = text
        .strip_prefix("retry: ")
        .and_then(|text| text.strip_suffix('\n'));
    retry.unwrap_or_else(|| panic!("{text:?}")).parse().unwrap()
}

#[tokio::test]
async fn temporary_failure_becomes_an_empty_stream() {
    for status in [500, 502, 503, 504, 507, 520, 529] {
        let response = send_request(stack(layer()), feed(), upstream(status)).await;
        assert_eq!(response.status(), 200, "{status}");
        let headers = response.headers();
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-accel-buffering"], "no");
        let retry = milliseconds(response).await;
        assert!((2_000..=6_000).contains(&retry), "{retry}");
    }
}

#[tokio::test]
async fn permanent_failure_keeps_its_status_and_body() {
    for status in [
        204, 301, 400, 401, 404, 408, 429, 501, 505, 506, 508, 510, 511,
    ] {
        let response = send_request(stack(layer()), feed(), upstream(status)).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "text/html");
        assert_eq!(response.text().await, "<p>down");
    }
}

#[tokio::test]
async fn empty_stream_is_sent_only_to_clients_that_reconnect() {
    let with = |method: Method, fields: &[(&str, &str)]| {
        let request = Request::builder().method(method);
        let request = fields.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).unwrap()
    };
    let accepts = ("accept", "text/event-stream");
    for (request, status) in [
        (with(Method::GET, &[accepts]), 200),
        (with(Method::GET, &[accepts, ("mcp-session-id", "1")]), 200),
        (
            with(Method::GET, &[accepts, ("anthropic-version", "1")]),
            503,
        ),
        (with(Method::GET, &[accepts, ("openai-project", "1")]), 503),
        (with(Method::GET, &[]), 503),
        (with(Method::GET, &[("accept", "*/*")]), 503),
        (with(Method::HEAD, &[accepts]), 503),
        (with(Method::OPTIONS, &[accepts]), 503),
        (with(Method::POST, &[accepts]), 503),
    ] {
        let what = format!("{request:?}");
        let response = send_request(stack(layer()), request, upstream(503)).await;
        assert_eq!(response.status(), status, "{what}");
    }
}

#[tokio::test]
async fn retry_after_is_honoured_within_bounds() {
    let layer = layer().max_retry(Duration::from_secs(60));
    for (value, bounds) in [
        ("20", 20_000..=30_000),
        ("50", 50_000..=60_000),
        ("3600", 60_000..=60_000),
        ("18446744073709551615", 60_000..=60_000),
        ("18446744073709551616", 60_000..=60_000),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60_000..=60_000),
        ("0", 2_000..=6_000),
        ("-1", 2_000..=6_000),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 2_000..=6_000),
    ] {
        let upstream = upstream(503).header("retry-after", value);
        let response = send_request(stack(layer.clone()), feed(), upstream).await;
        assert!(!response.headers().contains_key(RETRY_AFTER));
        let retry = milliseconds(response).await;
        assert!(bounds.contains(&retry), "{value}: {retry}");
    }
}

#[tokio::test]
async fn replaced_head_keeps_fields_that_do_not_describe_the_body() {
    let upstream = upstream(503)
        .header("content-encoding", "gzip")
        .header("content-length", "7")
        .header("etag", "\"1\"")
        .header("set-cookie", "node=2")
        .header("access-control-allow-origin", "https://app.test")
        .header("vary", "origin");
    let response = send_request(stack(layer()), feed(), upstream).await;
    let headers = response.headers();
    for gone in ["content-encoding", "content-length", "etag"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert_eq!(headers["set-cookie"], "node=2");
    assert_eq!(headers["access-control-allow-origin"], "https://app.test");
    assert_eq!(headers["vary"], "origin");
}

#[tokio::test]
async fn rejection_of_a_limit_passes() {
    let limit = ConnectionLimitLayer::new().total(0);
    let response = send_request((layer(), limit), feed(), ScriptedUpstream::new()).await;
    assert_eq!(response.status(), 503);
}

#[tokio::test]
async fn layers_outside_count_a_failure() {
    let metrics = MetricsLayer::new();
    let layers = (metrics.clone(), layer(), MetricsLayer::new());
    let response = send_request(layers, feed(), upstream(502)).await;
    assert_eq!(response.status(), 200);
    milliseconds(response).await;
    let snapshot = metrics.snapshot();
    assert_eq!(
        (snapshot.opened, snapshot.failed, snapshot.rejected),
        (0, 1, 0)
    );
}

#[tokio::test]
async fn disabled_layer_changes_nothing() {
    let response = send_request(stack(layer().enabled(false)), feed(), upstream(502)).await;
    assert_eq!(response.status(), 502);
    assert_eq!(response.text().await, "<p>down");
}
