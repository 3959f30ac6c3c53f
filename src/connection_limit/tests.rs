use super::*;
use crate::client_key::PeerAddr;
use crate::guard::testing::{Client, Inner, Upstream, ask};
use crate::stream::StreamRegistry;
use http::{Method, Response};
use std::net::{IpAddr, SocketAddr};
use tower::{Service, ServiceExt, service_fn};

fn from(ip: &str) -> Request<()> {
    let ip: IpAddr = ip.parse().unwrap();
    Request::get("/")
        .header("accept", "text/event-stream")
        .extension(PeerAddr::from(SocketAddr::new(ip, 5000)))
        .body(())
        .unwrap()
}

fn without_accept(ip: &str) -> Request<()> {
    let mut request = from(ip);
    request.headers_mut().clear();
    request
}

async fn open(limit: &ConnectionLimitLayer, request: Request<()>) -> Client {
    ask(
        limit.clone(),
        request,
        Upstream::new().send("data: 1\n\n").hang(),
    )
    .await
}

#[tokio::test]
async fn client_over_its_limit_gets_429_until_one_of_its_streams_is_dropped() {
    let limit = ConnectionLimitLayer::new().per_client(2);
    let one = open(&limit, from("192.0.2.1")).await;
    let _two = open(&limit, from("192.0.2.1")).await;
    let three = open(&limit, from("192.0.2.1")).await;
    assert_eq!(three.status(), 429);
    assert_eq!(three.headers()["retry-after"], "5");
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 200);
    drop(one);
    assert_eq!(open(&limit, from("192.0.2.1")).await.status(), 200);
}

#[tokio::test]
async fn rejection_response_sets_body_and_headers() {
    let limit = ConnectionLimitLayer::new().per_client(1);
    let limit = limit.rejection_response(|reason, default| {
        assert_eq!(default.headers()["retry-after"], "5");
        let body = format!("{} {}", default.status().as_u16(), reason.as_str());
        let response = Response::builder().status(420).header("x-limit", "1");
        response.body(body.into()).unwrap()
    });
    let metrics = crate::metrics::MetricsLayer::new();
    let stack = crate::SseGuardLayer::new()
        .metrics(metrics.clone())
        .limit(limit.clone());
    let _one = open(&limit, from("192.0.2.1")).await;
    let two = ask(stack, from("192.0.2.1"), Upstream::new()).await;
    assert_eq!(
        (two.status(), &two.headers()["x-limit"]),
        (420, &"1".parse().unwrap())
    );
    assert_eq!(two.text().await, "429 per_client");
    assert_eq!(metrics.snapshot().rejected, 1);

    // A response that is a stream in itself.
    let later = limit.reject(Reject::RetryLater);
    let two = open(&later, from("192.0.2.1")).await;
    assert_eq!(two.status(), 200);
    assert!(two.text().await.starts_with("retry: "));
}

#[tokio::test]
async fn total_limit_rejects_every_client_with_503() {
    let limit = ConnectionLimitLayer::new().total(1);
    let one = open(&limit, from("192.0.2.1")).await;
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 503);
    drop(one);
    assert_eq!(limit.active(), 0);
}

#[tokio::test]
async fn closed_gate_rejects_new_streams_and_keeps_open_ones() {
    let gate = Gate::new();
    let limit = ConnectionLimitLayer::new().gate(&gate);
    let _one = open(&limit, from("192.0.2.1")).await;
    gate.close(RejectReason::Memory);
    let two = open(&limit, from("192.0.2.1")).await;
    assert_eq!(two.status(), 200);
    let (text, end) = two.read().await;
    assert!(text.starts_with("retry: ") && end.is_ok(), "{text}");
    let mut post = from("192.0.2.1");
    *post.method_mut() = Method::POST;
    assert_eq!(open(&limit, post).await.status(), 503);
    assert_eq!(limit.active(), 1);
    gate.open();
    let mut three = open(&limit, from("192.0.2.1")).await;
    assert_eq!(three.next().await.unwrap().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn addresses_count_by_network() {
    for (limited, other) in [
        ("2001:db8::1", "2001:db8::ffff:1"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
    ] {
        let limit = ConnectionLimitLayer::new().per_client(1);
        let _one = open(&limit, from(limited)).await;
        assert_eq!(open(&limit, from(other)).await.status(), 429);
        assert_eq!(open(&limit, from("2001:db8:0:1::1")).await.status(), 200);
    }
    let limit = ConnectionLimitLayer::new().per_client(1).ipv6_prefix(128);
    let _one = open(&limit, from("2001:db8::1")).await;
    assert_eq!(open(&limit, from("2001:db8::2")).await.status(), 200);
}

#[tokio::test]
async fn allowed_networks_are_neither_limited_nor_counted() {
    let limit = ConnectionLimitLayer::new()
        .total(0)
        .allow(["192.0.2.0/24".parse().unwrap()]);
    let one = open(&limit, from("192.0.2.1")).await;
    assert_eq!((one.status(), limit.active()), (200, 0));
    assert_eq!(open(&limit, from("198.51.100.1")).await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn client_over_its_rate_is_admitted_after_its_retry_after() {
    let [two, three] = [2, 3].map(|n| NonZeroU32::new(n).unwrap());
    let limit = ConnectionLimitLayer::new()
        .rate(two, Duration::from_secs(60), three)
        .retry_after(Duration::from_secs(1));
    for _ in 0..3 {
        assert_eq!(open(&limit, from("192.0.2.1")).await.status(), 200);
    }
    let rejected = open(&limit, from("192.0.2.1")).await;
    assert_eq!(rejected.status(), 429);
    assert_eq!(rejected.headers()["retry-after"], "30");
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 200);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(open(&limit, from("192.0.2.1")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn clients_without_a_stream_are_removed_when_their_rate_has_recovered() {
    let one = NonZeroU32::MIN;
    let limit = ConnectionLimitLayer::new().rate(one, Duration::from_secs(1), one);
    for n in 0..5_000_u32 {
        let ip = IpAddr::from(n.to_be_bytes()).to_string();
        open(&limit, from(&ip)).await;
    }
    assert_eq!(limit.clients(), 5_000);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!((limit.clients(), limit.active()), (0, 0));
}

#[tokio::test]
async fn client_table_is_bounded() {
    let limit = ConnectionLimitLayer::new().max_clients(2);
    let one = open(&limit, from("192.0.2.1")).await;
    let _two = open(&limit, from("192.0.2.2")).await;
    assert_eq!(open(&limit, from("192.0.2.3")).await.status(), 503);
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 200);
    drop(one);
    assert_eq!(open(&limit, from("192.0.2.3")).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn full_table_is_swept_once_per_second() {
    let one = NonZeroU32::MIN;
    let limit =
        ConnectionLimitLayer::new()
            .max_clients(1)
            .rate(one, Duration::from_millis(100), one);
    drop(open(&limit, from("192.0.2.1")).await);
    // The first refusal has swept, too early.
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 503);
    tokio::time::advance(Duration::from_millis(900)).await;
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 503);
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(open(&limit, from("192.0.2.2")).await.status(), 200);
}

#[tokio::test]
async fn retry_later_applies_to_gets_that_accept_a_stream() {
    let limit = ConnectionLimitLayer::new()
        .total(0)
        .reject(Reject::RetryLater);
    let rejected = open(&limit, from("192.0.2.1")).await;
    assert_eq!(rejected.status(), 200);
    assert_eq!(rejected.headers()["content-type"], "text/event-stream");
    let text = rejected.text().await;
    let millis: u64 = text
        .strip_prefix("retry: ")
        .unwrap()
        .trim_end()
        .parse()
        .unwrap();
    assert!((2_500..=7_500).contains(&millis));

    assert_eq!(
        open(&limit, without_accept("192.0.2.1")).await.status(),
        503
    );
    let mut post = from("192.0.2.1");
    *post.method_mut() = Method::POST;
    assert_eq!(open(&limit, post).await.status(), 503);
}

#[tokio::test]
async fn slot_is_taken_at_the_head_of_an_unannounced_stream() {
    let limit = ConnectionLimitLayer::new().per_client(1);
    let one = open(&limit, without_accept("192.0.2.1")).await;
    assert_eq!((one.status(), limit.active()), (200, 1));
    assert_eq!(
        open(&limit, without_accept("192.0.2.1")).await.status(),
        429
    );
    assert_eq!(limit.active(), 1);
}

#[tokio::test]
async fn slot_is_released_at_the_head_of_another_response() {
    let limit = ConnectionLimitLayer::new();
    let plain = Upstream::new().content_type("text/plain").hang();
    let _response = ask(limit.clone(), from("192.0.2.1"), plain).await;
    assert_eq!((limit.active(), limit.clients()), (0, 0));
}

#[tokio::test]
async fn slot_of_an_encoded_stream_is_held_to_its_end() {
    let limit = ConnectionLimitLayer::new();
    let coded = Upstream::new().header("content-encoding", "gzip").send("x");
    let response = ask(limit.clone(), from("192.0.2.1"), coded).await;
    assert_eq!(limit.active(), 1);
    assert_eq!(response.text().await, "x");
    assert_eq!(limit.active(), 0);
}

#[tokio::test]
async fn slot_is_released_at_the_end_of_a_body_that_is_kept() {
    let limit = ConnectionLimitLayer::new();
    let mut response = ask(limit.clone(), from("192.0.2.1"), Upstream::new().send("x")).await;
    while response.frame().await.is_some() {}
    assert_eq!(limit.active(), 0);
}

#[tokio::test]
async fn slot_is_released_when_the_body_fails() {
    let limit = ConnectionLimitLayer::new();
    let response = ask(limit.clone(), from("192.0.2.1"), Upstream::new().fail()).await;
    assert!(response.read().await.1.is_err());
    assert_eq!(limit.active(), 0);
}

/// A service that neither answers nor fails, or does whatever `respond` does.
async fn ask_service<F>(
    limit: &ConnectionLimitLayer,
    respond: impl Fn() -> F + Clone,
) -> Result<(), String>
where
    F: Future<Output = Result<Response<Empty>, String>>,
{
    let service = limit.layer(service_fn(move |_: Request<()>| respond()));
    service.oneshot(from("192.0.2.1")).await.map(drop)
}

type Empty = http_body_util::Empty<bytes::Bytes>;

#[tokio::test(start_paused = true)]
async fn slot_is_released_when_the_client_disconnects_before_the_head() {
    let limit = ConnectionLimitLayer::new();
    {
        let never = ask_service(&limit, std::future::pending);
        tokio::pin!(never);
        assert!(futures_util::poll!(&mut never).is_pending());
        assert_eq!(limit.active(), 1);
    }
    assert_eq!((limit.active(), limit.clients()), (0, 0));
}

#[tokio::test]
async fn slot_is_released_when_the_service_fails_or_panics() {
    let limit = ConnectionLimitLayer::new();
    let failed = ask_service(&limit, || async { Err("no".to_owned()) }).await;
    assert_eq!((failed, limit.active()), (Err("no".into()), 0));

    let ask = |at_once: bool| {
        let limit = limit.clone();
        tokio::spawn(async move {
            let panics = || {
                assert!(!at_once, "in the call");
                async { panic!("in the future") }
            };
            ask_service(&limit, panics).await
        })
    };
    for at_once in [true, false] {
        assert!(ask(at_once).await.unwrap_err().is_panic());
        assert_eq!((limit.active(), limit.clients()), (0, 0));
    }
}

#[tokio::test]
async fn services_of_one_layer_share_its_limit() {
    let limit = ConnectionLimitLayer::new().per_client(1);
    let mut services = [limit.layer(inner()), limit.layer(inner())];
    let mut statuses = Vec::new();
    let mut kept = Vec::new();
    for service in &mut services {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(from("192.0.2.1"))
            .await
            .unwrap();
        statuses.push(response.status().as_u16());
        kept.push(response);
    }
    assert_eq!(statuses, [200, 429]);
}

fn inner() -> Inner {
    Inner::new(Upstream::new().hang())
}

#[tokio::test]
async fn limit_works_inside_and_outside_of_other_layers() {
    let registry = StreamRegistry::new();
    let limit = ConnectionLimitLayer::new().per_client(1);
    let rotation = crate::rotation::RotationLayer::new().registry(&registry);
    let both = tower_layer::Stack::new(rotation, limit.clone());
    let one = ask(both.clone(), from("192.0.2.1"), Upstream::new().hang()).await;
    assert_eq!(one.stream().client().unwrap().to_string(), "192.0.2.1");
    let two = ask(both, from("192.0.2.1"), Upstream::new().hang()).await;
    assert_eq!((two.status(), registry.live()), (429, 1));
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_streams_are_open() {
    let rate = |layer: ConnectionLimitLayer, streams: u32| {
        let streams = NonZeroU32::new(streams).unwrap();
        layer.rate(streams, Duration::from_secs(3600), streams)
    };
    let old = rate(ConnectionLimitLayer::new().per_client(2), 2);
    let _one = open(&old, from("192.0.2.1")).await;
    let two = open(&old, from("192.0.2.1")).await;
    tokio::time::advance(Duration::from_secs(100)).await;

    let new = rate(ConnectionLimitLayer::new().per_client(3).total(3), 5).counting_with(&old);
    assert_eq!(new.active(), 2);
    let three = open(&new, from("192.0.2.1")).await;
    assert_eq!(three.status(), 200);
    assert_eq!(open(&new, from("192.0.2.1")).await.status(), 503);
    drop(two);
    assert_eq!(open(&new, from("192.0.2.1")).await.status(), 200);
    drop(three);
    assert_eq!((new.active(), old.active()), (1, 1));

    // One that was let in by the old limits may still be on its way.
    let _late = open(&old, from("192.0.2.2")).await;
    assert_eq!(open(&new, from("192.0.2.2")).await.status(), 200);

    // What was used up of a rate that stays the same is not given back.
    let same = rate(ConnectionLimitLayer::new(), 5).counting_with(&new);
    for _ in 0..3 {
        assert_eq!(open(&same, from("192.0.2.1")).await.status(), 200);
    }
    assert_eq!(open(&same, from("192.0.2.1")).await.status(), 429);
}

fn plain(ip: &str) -> Request<()> {
    let mut request = without_accept(ip);
    *request.method_mut() = Method::POST;
    request
}

async fn text(limit: &ConnectionLimitLayer, request: Request<()>, upstream: Upstream) -> Client {
    ask(limit.clone(), request, upstream.content_type("text/plain")).await
}

#[tokio::test(start_paused = true)]
async fn request_counts_from_its_admission_to_the_end_of_its_body() {
    let limit = ConnectionLimitLayer::new().requests_per_client(2);
    let client = "192.0.2.1";
    let slow = || {
        Upstream::new()
            .content_type("text/plain")
            .late(60)
            .send("x")
    };
    // One waits for its head, one for the end of its body.
    let waiting = tokio::spawn(ask(limit.clone(), plain(client), slow()));
    tokio::task::yield_now().await;
    let download = text(&limit, plain(client), Upstream::new().send("x").hang()).await;
    let over = text(&limit, plain(client), Upstream::new().send("x")).await;
    assert_eq!(over.status(), 429);
    assert_eq!(over.headers()["retry-after"], "5");
    // Another client has its own.
    let other = text(&limit, plain("192.0.2.2"), Upstream::new().send("x")).await;
    assert_eq!(other.status(), 200);
    drop((download, other));
    assert_eq!(limit.clients(), 1);
    // Ahead of its head, its client goes.
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(limit.clients(), 0);
}

#[tokio::test]
async fn stream_counts_as_a_request_until_its_head() {
    let limit = ConnectionLimitLayer::new().requests_per_client(1);
    let client = "192.0.2.1";
    let _asked = open(&limit, from(client)).await;
    let _unasked = open(&limit, plain(client)).await;
    let download = text(&limit, plain(client), Upstream::new().hang()).await;
    assert_eq!((download.status(), limit.active()), (200, 2));
    assert_eq!(open(&limit, from(client)).await.status(), 429);
    let later = limit.clone().reject(Reject::RetryLater);
    let (text, end) = open(&later, from(client)).await.read().await;
    assert!(text.starts_with("retry: ") && end.is_ok(), "{text}");
    assert_eq!(limit.active(), 2);
}

/// An OPTIONS request with these fields.
fn options(ip: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = without_accept(ip);
    *request.method_mut() = Method::OPTIONS;
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn preflights_count_separately() {
    let limit = ConnectionLimitLayer::new().requests_per_client(1);
    let client = "192.0.2.1";
    let origin = ("origin", "https://app.test");
    let method = ("access-control-request-method", "GET");
    let preflight = || options(client, &[origin, method]);
    let download = text(&limit, plain(client), Upstream::new().hang()).await;
    let hangs = text(&limit, preflight(), Upstream::new().hang()).await;
    assert_eq!((download.status(), hangs.status()), (200, 200));
    let over = text(&limit, preflight(), Upstream::new().send("x")).await;
    assert_eq!(over.status(), 429);
    drop(hangs);
    // No more than OPTIONS is a request like any other.
    for fields in [&[][..], &[origin], &[method]] {
        let over = text(&limit, options(client, fields), Upstream::new()).await;
        assert_eq!(over.status(), 429, "{fields:?}");
    }
    let mut get = preflight();
    *get.method_mut() = Method::GET;
    assert_eq!(text(&limit, get, Upstream::new()).await.status(), 429);
    drop(download);
    let hangs = text(&limit, preflight(), Upstream::new().hang()).await;
    let other = text(&limit, plain(client), Upstream::new().send("x")).await;
    assert_eq!((hangs.status(), other.status()), (200, 200));
    drop((hangs, other));
    // What turns out to be a stream takes the slot of one.
    let streams = limit.clone().per_client(1);
    let stream = open(&streams, preflight()).await;
    assert_eq!((stream.status(), streams.active()), (200, 1));
    assert_eq!(open(&streams, preflight()).await.status(), 429);
    drop(stream);
    assert_eq!(streams.clients(), 0);
}

#[tokio::test]
async fn service_holds_the_place_of_a_tunnel() {
    let limit = ConnectionLimitLayer::new().requests_per_client(1);
    let held = Arc::new(std::sync::Mutex::new(None));
    let keeps = held.clone();
    let service = service_fn(move |request: Request<()>| {
        let in_flight: &InFlight = request.extensions().get().unwrap();
        *keeps.lock().unwrap() = in_flight.hold();
        async {
            Ok::<_, std::convert::Infallible>(Response::new(
                http_body_util::Empty::<bytes::Bytes>::new(),
            ))
        }
    });
    let service = limit.layer(service);
    let call = || {
        let mut request = plain("192.0.2.1");
        let upgrade = "websocket".parse().unwrap();
        request.headers_mut().insert("upgrade", upgrade);
        service.clone().oneshot(request)
    };
    assert_eq!(call().await.unwrap().status(), 200);
    assert_eq!(call().await.unwrap().status(), 429);
    held.lock().unwrap().take();
    assert_eq!(call().await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_of_allowed_networks_and_without_a_key_are_not_counted() {
    let limit = ConnectionLimitLayer::new()
        .requests_per_client(1)
        .allow(["192.0.2.0/24".parse().unwrap()]);
    let nobody = || Request::post("/").body(()).unwrap();
    for request in [plain("192.0.2.1"), plain("192.0.2.1"), nobody(), nobody()] {
        let held = text(&limit, request, Upstream::new().hang()).await;
        assert_eq!(held.status(), 200);
        std::mem::forget(held);
    }
    assert_eq!(limit.clients(), 0);
}

#[tokio::test(start_paused = true)]
async fn rate_is_refunded_for_a_response_other_than_a_stream() {
    let two = NonZeroU32::new(2).unwrap();
    let limit = ConnectionLimitLayer::new().rate(NonZeroU32::MIN, Duration::from_secs(60), two);
    let json = || Upstream::new().content_type("application/json");
    let call = |upstream| ask(limit.clone(), from("192.0.2.1"), upstream);
    for upstream in [json(), json().status(500), Upstream::new().status(204)] {
        for _ in 0..5 {
            let status = call(upstream.clone()).await.status();
            assert_ne!(status, 429);
        }
    }
    // No more than was taken.
    assert_eq!(open(&limit, from("192.0.2.1")).await.status(), 200);
    assert_ne!(call(json()).await.status(), 429);
    assert_eq!(open(&limit, from("192.0.2.1")).await.status(), 200);
    assert_eq!(open(&limit, from("192.0.2.1")).await.status(), 429);
    assert_eq!(limit.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn shared_counts_count_once_and_separate_ones_separately() {
    let one = NonZeroU32::MIN;
    let hour = Duration::from_secs(3600);
    let all = ConnectionLimitLayer::new().per_client(2).total(4);
    let all = all.rate(one.saturating_add(4), hour, one.saturating_add(4));
    let shares = |layer: ConnectionLimitLayer, separate| layer.sharing(&all, separate);
    let nothing = shares(all.clone(), Separate::default());
    let per_client = Separate {
        per_client: true,
        ..Separate::default()
    };
    let own = shares(ConnectionLimitLayer::new().per_client(1), per_client);

    let _held = [
        open(&all, from("192.0.2.1")).await,
        open(&nothing, from("192.0.2.1")).await,
        open(&own, from("192.0.2.1")).await,
    ];
    for limit in [&all, &nothing, &own] {
        assert_eq!(limit.active(), 3);
        assert_eq!(open(limit, from("192.0.2.1")).await.status(), 429);
    }
    let total = Separate {
        total: true,
        ..Separate::default()
    };
    let _fourth = open(&all, from("192.0.2.2")).await;
    assert_eq!(open(&nothing, from("192.0.2.3")).await.status(), 503);
    let alone = shares(all.clone().total(1), total);
    let mut fifth = open(&alone, from("192.0.2.3")).await;
    assert_eq!((fifth.status(), alone.active()), (200, 1));
    assert!(fifth.next().await.is_some());
    drop(fifth);
    assert_eq!((alone.active(), all.active()), (0, 4));
}

#[tokio::test(start_paused = true)]
async fn shared_rate_is_used_once() {
    let one = NonZeroU32::MIN;
    let all = ConnectionLimitLayer::new().rate(one, Duration::from_secs(60), one);
    let other = all.clone().retry_after(Duration::from_secs(1));
    let other = other.sharing(&all, Separate::default());
    assert_eq!(open(&all, from("192.0.2.1")).await.status(), 200);
    assert_eq!(open(&other, from("192.0.2.1")).await.status(), 429);
    // It stays shared when the one that it is shared with gets another rate.
    let faster = ConnectionLimitLayer::new().rate(one, Duration::from_secs(30), one);
    let faster = faster.counting_with(&all);
    let other = faster.clone().sharing(&faster, Separate::default());
    assert_eq!(open(&other, from("192.0.2.1")).await.status(), 200);
    assert_eq!(open(&faster, from("192.0.2.1")).await.status(), 429);
}
