use super::*;
use crate::client_key::PeerAddr;
use crate::connection_limit::ConnectionLimitLayer;
use crate::early::EarlyLayer;
use crate::guard::StreamError;
use crate::guard::testing::{Client, Upstream, ask};
use crate::metrics::MetricsLayer;
use crate::unavailable::UnavailableLayer;
use std::time::Duration;

const APP: &str = "https://app.test";
const OTHER: &str = "https://other.test";

fn request(method: &str, fields: &[(&str, &str)]) -> Request<()> {
    let request = Request::builder().method(method).uri("/feed");
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).unwrap()
}

fn get(origin: &str) -> Request<()> {
    request(
        "GET",
        &[("accept", "text/event-stream"), ("origin", origin)],
    )
}

/// What allows it.
fn allowing(origin: &'static str) -> Upstream {
    Upstream::new().header("access-control-allow-origin", origin)
}

/// A layer's answer in place of the service: of a limit that is used up.
async fn own(cors: &CorsLayer, request: Request<()>) -> Client {
    let limit = ConnectionLimitLayer::new().total(0);
    ask((cors.clone(), limit), request, Upstream::new()).await
}

/// A response of the service.
async fn through(cors: &CorsLayer, request: Request<()>, upstream: Upstream) -> Client {
    ask((cors.clone(), MetricsLayer::new()), request, upstream).await
}

fn allowed(response: &Client) -> (Option<&str>, bool) {
    let field = |name| {
        let value = response.headers().get(name);
        value.map(|value: &HeaderValue| value.to_str().unwrap())
    };
    let credentials = field("access-control-allow-credentials") == Some("true");
    (field("access-control-allow-origin"), credentials)
}

#[tokio::test(start_paused = true)]
async fn own_response_has_the_permission_of_the_service_for_an_hour() {
    let cors = CorsLayer::new();
    let unknown = own(&cors, get(APP)).await;
    assert_eq!(allowed(&unknown), (None, false));
    assert_eq!(unknown.headers()["vary"], "origin");

    through(&cors, get(APP), allowing(APP)).await;
    let known = own(&cors, get(APP)).await;
    assert_eq!(known.status(), 503);
    assert_eq!(allowed(&known), (Some(APP), false));
    assert_eq!(known.headers()["vary"], "origin");
    assert_eq!(
        known.headers()["access-control-expose-headers"],
        "retry-after"
    );

    tokio::time::advance(Duration::from_secs(3599)).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), false));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
}

#[tokio::test]
async fn permission_applies_to_one_origin() {
    let cors = CorsLayer::new();
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&cors, get(APP), with_credentials).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), true));
    for origin in [
        OTHER,
        "https://APP.test",
        "https://app.test:8443",
        "http://app.test",
        "https://app.test.evil.test",
        "null",
        "",
        "*",
    ] {
        assert_eq!(
            allowed(&own(&cors, get(origin)).await),
            (None, false),
            "{origin}"
        );
    }
    through(&cors, get(OTHER), allowing(OTHER)).await;
    assert_eq!(allowed(&own(&cors, get(OTHER)).await), (Some(OTHER), false));
    let none = request("GET", &[("accept", "text/event-stream")]);
    let none = own(&cors, none).await;
    assert_eq!(allowed(&none), (None, false));
    assert_eq!(none.headers()["vary"], "origin");
    let two = request(
        "GET",
        &[
            ("origin", APP),
            ("origin", APP),
            ("accept", "text/event-stream"),
        ],
    );
    assert_eq!(allowed(&own(&cors, two).await), (None, false));
}

#[tokio::test]
async fn wildcard_permission_is_without_credentials() {
    let cors = CorsLayer::new();
    let any = allowing("*").header("access-control-allow-credentials", "true");
    through(&cors, get(APP), any).await;
    for origin in [APP, OTHER] {
        assert_eq!(
            allowed(&own(&cors, get(origin)).await),
            (Some(origin), false)
        );
    }
}

#[tokio::test]
async fn invalid_cors_response_gives_no_permission() {
    for upstream in [
        Upstream::new(),
        allowing(OTHER),
        allowing("https://app.test, https://app.test"),
        allowing("https://APP.test"),
        allowing("null"),
    ] {
        let cors = CorsLayer::new();
        through(&cors, get(APP), upstream).await;
        assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
    }
}

#[tokio::test]
async fn responses_of_the_service_are_not_changed() {
    for cors in [
        CorsLayer::any(),
        CorsLayer::origins([APP]),
        CorsLayer::new(),
    ] {
        through(&cors, get(OTHER), allowing(OTHER)).await;
        let response = through(&cors, get(APP), Upstream::new().status(404)).await;
        assert_eq!(allowed(&response), (None, false));
        assert!(!response.headers().contains_key("vary"));
    }
}

#[tokio::test]
async fn origin_list_replaces_the_permissions_of_the_service() {
    let listed = CorsLayer::origins([APP]);
    assert_eq!(allowed(&own(&listed, get(APP)).await), (Some(APP), false));
    // The list says who, the service who with credentials.
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&listed, get(APP), with_credentials).await;
    assert_eq!(allowed(&own(&listed, get(APP)).await), (Some(APP), true));
    through(&listed, get(OTHER), allowing(OTHER)).await;
    assert_eq!(allowed(&own(&listed, get(OTHER)).await), (None, false));

    assert_eq!(
        allowed(&own(&CorsLayer::any(), get(OTHER)).await),
        (Some(OTHER), false)
    );

    let off = CorsLayer::new().enabled(false);
    through(&off, get(APP), allowing(APP)).await;
    let answer = own(&off, get(APP)).await;
    assert_eq!(allowed(&answer), (None, false));
    assert!(!answer.headers().contains_key("vary"));
    assert_eq!(off.memory.seen.sizes(), (0, 0));
    let on = CorsLayer::new().remembering_with(&listed);
    assert_eq!(allowed(&own(&on, get(OTHER)).await), (Some(OTHER), false));
}

#[tokio::test]
async fn masked_failure_keeps_the_cors_fields_of_the_service() {
    let cors = CorsLayer::any();
    let layers = (cors, UnavailableLayer::new(), MetricsLayer::new());
    let ours = Upstream::new().status(503);
    let response = ask(layers.clone(), get(APP), ours).await;
    assert_eq!(
        (response.status(), allowed(&response)),
        (200, (Some(APP), false))
    );
    let said = allowing(OTHER).status(503).header("vary", "accept");
    let response = ask(layers, get(APP), said).await;
    assert_eq!(
        (response.status(), allowed(&response)),
        (200, (Some(OTHER), false))
    );
    assert_eq!(response.headers()["vary"], "accept");
}

/// A request of this client, by its last number.
fn of(client: u8, mut request: Request<()>) -> Request<()> {
    let address = std::net::SocketAddr::from(([192, 0, 2, client], 5000));
    request.extensions_mut().insert(PeerAddr::from(address));
    request
}

fn at(uri: &str, host: &str, mut request: Request<()>) -> Request<()> {
    *request.uri_mut() = uri.parse().unwrap();
    let host = host.parse().unwrap();
    request.headers_mut().insert("host", host);
    request
}

#[tokio::test(start_paused = true)]
async fn invented_origins_of_one_client_do_not_displace_those_of_others() {
    let cors = CorsLayer::new();
    through(&cors, of(1, get(APP)), allowing(APP)).await;
    let reflect = async |origin: &str| {
        let name = Box::leak(origin.to_owned().into_boxed_str());
        for _ in 0..2 {
            through(&cors, of(2, get(origin)), allowing(name)).await;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    };
    for i in 0..2 * seen::MAX_ORIGINS {
        reflect(&format!("https://{i}.test")).await;
    }
    assert_eq!(cors.memory.seen.sizes(), (seen::MAX_ORIGINS, 0));
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), false));
    let gone = own(&cors, get("https://0.test")).await;
    assert_eq!(allowed(&gone), (None, false));

    // A full table has room for the origin of a real page.
    through(&cors, of(3, get(OTHER)), allowing(OTHER)).await;
    reflect("https://new.test").await;
    for origin in [APP, OTHER, "https://new.test"] {
        let answer = own(&cors, get(origin)).await;
        assert_eq!(allowed(&answer), (Some(origin), false));
    }
    tokio::time::advance(table::PERMISSION_TTL).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
}

#[tokio::test]
async fn permission_applies_to_one_virtual_host() {
    let with_credentials = || allowing(APP).header("access-control-allow-credentials", "true");
    for upstream in [with_credentials(), allowing("*")] {
        let cors = CorsLayer::new();
        through(&cors, at("/feed", "a.test", get(APP)), upstream).await;
        let a = own(&cors, at("/other", "A.test", get(APP))).await;
        assert_eq!(allowed(&a).0, Some(APP));
        for host in ["b.test", "a.test:8443", "a.test.b.test"] {
            let b = own(&cors, at("/feed", host, get(APP))).await;
            assert_eq!(allowed(&b), (None, false), "{host}");
        }
        for (name, value) in [
            ("x-forwarded-host", "b.test"),
            ("forwarded", "for=192.0.2.1;Host=b.test"),
        ] {
            let mut behind = at("/feed", "a.test", get(APP));
            let value = value.parse().unwrap();
            behind.headers_mut().insert(name, value);
            assert_eq!(allowed(&own(&cors, behind).await), (None, false), "{name}");
        }
        let uri = own(&cors, at("http://a.test/feed", "b.test", get(APP))).await;
        assert_eq!(allowed(&uri).0, Some(APP));
    }
}

#[tokio::test]
async fn response_without_permission_withdraws_it() {
    let refuses = Upstream::new;
    let with = |name: &'static str, value: &str| {
        let mut request = get(APP);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let options = || {
        let mut request = get(APP);
        *request.method_mut() = Method::OPTIONS;
        request
    };
    let elsewhere = || at("/elsewhere", "x", get(APP));
    let known = || at("/feed", "x", get(APP));
    for (request, refusal, is_withdrawn) in [
        (known(), refuses(), true),
        (known(), refuses().status(403), true),
        (known(), allowing(OTHER), true),
        (elsewhere(), refuses(), true),
        // Of another client: only if the request is alike.
        (of(2, known()), refuses(), true),
        (of(2, elsewhere()), refuses(), false),
        (of(2, known()), refuses().status(403), false),
        // Which says nothing of the origin.
        (known(), refuses().status(500), false),
        (known(), refuses().status(404), false),
        (known(), refuses().status(302), false),
        (with("sec-fetch-mode", "navigate"), refuses(), false),
        (with("sec-fetch-mode", "no-cors"), refuses(), false),
        (with("sec-fetch-site", "same-origin"), refuses(), false),
        (options(), refuses(), false),
        (get(OTHER), refuses(), false),
    ] {
        let case = format!("{request:?}");
        let cors = CorsLayer::new();
        let named = |mut request: Request<()>| {
            let host = "x".parse().unwrap();
            request.headers_mut().insert("host", host);
            match request.extensions().get::<PeerAddr>() {
                Some(_) => request,
                None => of(1, request),
            }
        };
        through(&cors, named(get(APP)), allowing(APP)).await;
        through(&cors, named(request), refusal).await;
        let answer = own(&cors, named(get(APP))).await;
        assert_eq!(allowed(&answer).0.is_none(), is_withdrawn, "{case}");
    }
    // `*` as well.
    let cors = CorsLayer::new();
    through(&cors, get(APP), allowing("*")).await;
    through(&cors, get(OTHER), refuses()).await;
    assert_eq!(allowed(&own(&cors, get(APP)).await), (None, false));
}

#[tokio::test]
async fn response_without_credentials_withdraws_them_for_its_target() {
    let with_credentials = || allowing(APP).header("access-control-allow-credentials", "true");
    for without in [allowing(APP), allowing("*")] {
        let cors = CorsLayer::new();
        let public = || at("/public", "x", get(APP));
        let session = || at("/session", "x", get(APP));
        through(&cors, session(), with_credentials()).await;
        assert_eq!(allowed(&own(&cors, public()).await), (Some(APP), true));
        through(&cors, public(), without).await;
        assert_eq!(allowed(&own(&cors, public()).await), (Some(APP), false));
        assert_eq!(allowed(&own(&cors, session()).await), (Some(APP), true));
        through(&cors, public(), with_credentials()).await;
        assert_eq!(allowed(&own(&cors, public()).await), (Some(APP), true));
    }
}

fn preflight(origin: &str, path: &str, method: &str, headers: Option<&str>) -> Request<()> {
    let fields = [
        ("origin", origin),
        ("access-control-request-method", method),
    ];
    let mut request = request("OPTIONS", &fields);
    if let Some(headers) = headers {
        let headers = headers.parse().unwrap();
        request
            .headers_mut()
            .insert("access-control-request-headers", headers);
    }
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// A layer's 503 in place of the service.
async fn away(cors: &CorsLayer, request: Request<()>) -> Client {
    #[derive(Clone)]
    struct Away;
    impl<S> Layer<S> for Away {
        type Service = Gone;
        fn layer(&self, _: S) -> Gone {
            Gone
        }
    }
    struct Gone;
    impl Service<Request<()>> for Gone {
        type Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, StreamError>>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            use http_body_util::{BodyExt, Empty};
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.extensions_mut().insert(Own);
            std::future::ready(Ok(response))
        }
    }
    ask((cors.clone(), Away), request, Upstream::new()).await
}

#[tokio::test(start_paused = true)]
async fn preflight_is_answered_if_the_service_allowed_exactly_that() {
    let cors = CorsLayer::new();
    let asks = || preflight(APP, "/v1/chat?x=1", "POST", Some("authorization,x-a"));
    let refused = away(&cors, asks()).await;
    assert_eq!((refused.status(), allowed(&refused)), (502, (None, false)));

    let answer = allowing(APP)
        .status(204)
        .header("access-control-allow-credentials", "true")
        .header("access-control-allow-headers", "X-A, Authorization");
    through(&cors, asks(), answer).await;
    let answer = away(&cors, asks()).await;
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
        at("/v1/chat?x=1", "b.test", asks()),
        preflight(APP, "/v1/chat?x=1", "DELETE", Some("authorization,x-a")),
        preflight(APP, "/v1/chat?x=1", "POST", Some("authorization,x-b")),
        preflight(APP, "/v1/chat?x=1", "POST", None),
        request("OPTIONS", &[("origin", APP)]),
    ] {
        assert_eq!(away(&cors, other).await.status(), 502);
    }
    tokio::time::advance(table::PERMISSION_TTL).await;
    assert_eq!(away(&cors, asks()).await.status(), 502);
}

#[tokio::test]
async fn invalid_preflight_response_is_not_remembered() {
    let asks = |method| preflight(APP, "/", method, Some("authorization"));
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
        through(&cors, asks(method), answer).await;
        assert_eq!(cors.memory.seen.sizes().1, 0, "{method}");
        assert_eq!(away(&cors, asks(method)).await.status(), 502);
    }
    let cors = CorsLayer::new();
    let answer = any().header("access-control-allow-methods", "PUT, DELETE");
    through(&cors, asks("DELETE"), answer).await;
    assert_eq!(away(&cors, asks("DELETE")).await.status(), 204);
}

#[tokio::test]
async fn preflight_response_has_the_credentials_of_the_original() {
    let cors = CorsLayer::new();
    let asks = || preflight(APP, "/api", "DELETE", Some("x-a"));
    let with_credentials = allowing(APP).header("access-control-allow-credentials", "true");
    through(&cors, get(APP), with_credentials).await;
    for origin in ["*", APP] {
        let answer = allowing(origin)
            .header("access-control-allow-methods", "DELETE")
            .header("access-control-allow-headers", "x-a");
        through(&cors, asks(), answer).await;
        let answer = away(&cors, asks()).await;
        assert_eq!(
            (answer.status(), allowed(&answer)),
            (204, (Some(APP), false))
        );
    }
    assert_eq!(allowed(&own(&cors, get(APP)).await), (Some(APP), true));
}

#[tokio::test]
async fn preflight_refused_later_is_forgotten() {
    let asks = || preflight(APP, "/api", "DELETE", None);
    let allows = || allowing(APP).header("access-control-allow-methods", "DELETE");
    for (later, status) in [
        (Upstream::new().status(204), 502),
        (Upstream::new().status(403), 502),
        (Upstream::new().status(405), 502),
        (allows().status(403), 502),
        (allowing(APP), 502),
        (allowing(OTHER), 502),
        (Upstream::new().status(503), 204),
        (Upstream::new().status(429), 204),
        (Upstream::new().status(431), 204),
        (Upstream::new().status(400), 502),
        (allows(), 204),
    ] {
        let cors = CorsLayer::new();
        through(&cors, asks(), allows()).await;
        through(&cors, asks(), later).await;
        assert_eq!(away(&cors, asks()).await.status(), status);
    }
}

#[tokio::test]
async fn preflight_table_is_bounded_by_client() {
    let cors = CorsLayer::new();
    let real = || preflight(APP, "/real", "POST", None);
    let late = || preflight(APP, "/late", "POST", None);
    through(&cors, of(1, real()), allowing(APP)).await;
    for i in 0..seen::MAX_PREFLIGHTS + 100 {
        let asks = preflight(OTHER, &format!("/{i}"), "POST", None);
        through(&cors, of(2, asks), allowing(OTHER)).await;
    }
    assert_eq!(cors.memory.seen.sizes(), (2, seen::MAX_PREFLIGHTS));
    through(&cors, of(3, late()), allowing(APP)).await;
    assert_eq!(cors.memory.seen.sizes(), (2, seen::MAX_PREFLIGHTS));
    for known in [real(), late()] {
        assert_eq!(away(&cors, known).await.status(), 204);
    }
}

#[tokio::test]
async fn preflight_takes_no_slot_of_a_limit() {
    let limit = ConnectionLimitLayer::new().total(0);
    let mut asks = preflight(APP, "/", "GET", None);
    let accept = "text/event-stream".parse().unwrap();
    asks.headers_mut().insert("accept", accept);
    let upstream = Upstream::new().status(204).content_type("text/plain");
    let response = ask((CorsLayer::new(), limit), asks, upstream).await;
    assert_eq!(response.status(), 204);
}

/// An early answer to a page of another origin, which was known by then.
async fn early(request: Request<()>, known: Upstream, late: Upstream) -> Client {
    let cors = CorsLayer::new();
    let mut before = get(APP);
    if let Some(host) = request.headers().get("host") {
        before.headers_mut().insert("host", host.clone());
    }
    through(&cors, before, known).await;
    let early = EarlyLayer::new(Duration::from_secs(1));
    let layers = (cors, MetricsLayer::new(), early);
    let response = ask(layers, request, late.late(5)).await;
    assert_eq!(response.status(), 200);
    response
}

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
        (with("host", "app.test"), allowing(APP), Upstream::new()),
        (
            with("sec-fetch-site", "same-origin"),
            allowing(APP),
            Upstream::new(),
        ),
        (
            request("GET", &[("accept", "text/event-stream")]),
            allowing(APP),
            Upstream::new(),
        ),
    ] {
        let response = early(request, known, late.send(event)).await;
        assert_eq!(response.text().await, event);
    }
    let mut other_site = with("host", "app.test");
    let site = "same-site".parse().unwrap();
    other_site.headers_mut().insert("sec-fetch-site", site);
    for (request, known, late) in [
        (get(APP), allowing(APP), Upstream::new()),
        (
            with("host", "app.test:8443"),
            allowing(APP),
            Upstream::new(),
        ),
        (other_site, allowing(APP), Upstream::new()),
        (get(APP), allowing("*"), allowing(OTHER)),
        (cookie(), with_credentials(), allowing(APP)),
        (cookie(), with_credentials(), allowing("*")),
        // The login may be of the connection, or of a proxy on the way.
        (get(APP), with_credentials(), allowing(APP)),
        (get(APP), with_credentials(), allowing("*")),
        (
            get(APP),
            allowing(APP),
            Upstream::new().status(500).content_type("text/plain"),
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
    let first = ask(layers(), public(), late("*")).await;
    assert_eq!(allowed(&first), (Some(APP), true));
    assert!(first.read().await.0.starts_with("event: error\n"));
    // The page needs no credentials there: the next answer does not allow them, and the stream passes.
    let second = ask(layers(), public(), late("*")).await;
    assert_eq!(allowed(&second), (Some(APP), false));
    assert_eq!(second.text().await, "data: 1\n\n");
    let closed = ask(layers(), public(), late(OTHER)).await;
    assert!(closed.read().await.0.starts_with("event: error\n"));
    assert_eq!(allowed(&own(&cors, public()).await), (None, false));
}
