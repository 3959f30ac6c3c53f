//! Requests in flight.

use super::*;

#[tokio::test(start_paused = true)]
async fn request_counts_from_its_admission_to_the_end_of_its_body() {
    let limit = ConnectionLimitLayer::new().requests_per_client(2);
    let client = "192.0.2.1";
    let slow = || {
        ScriptedUpstream::new()
            .content_type("text/plain")
            .late(60)
            .send("x")
    };
    // One waits for its head, one for the end of its body.
    let waiting = tokio::spawn(send_request(limit.clone(), plain(client), slow()));
    tokio::task::yield_now().await;
    let download = text(
        &limit,
        plain(client),
        ScriptedUpstream::new().send("x").hang(),
    )
    .await;
    let over = text(&limit, plain(client), ScriptedUpstream::new().send("x")).await;
    assert_eq!(over.status(), 429);
    assert_eq!(over.headers()["retry-after"], "5");
    // Another client has its own.
    let other = text(
        &limit,
        plain("192.0.2.2"),
        ScriptedUpstream::new().send("x"),
    )
    .await;
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
    let download = text(&limit, plain(client), ScriptedUpstream::new().hang()).await;
    assert_eq!((download.status(), limit.active()), (200, 2));
    assert_eq!(open(&limit, from(client)).await.status(), 429);
    let later = limit.clone().reject(Reject::RetryLater);
    let (text, end) = open(&later, from(client)).await.read().await;
    assert!(text.starts_with("retry: ") && end.is_ok(), "{text}");
    assert_eq!(limit.active(), 2);
}

#[tokio::test]
async fn preflights_count_separately() {
    let limit = ConnectionLimitLayer::new().requests_per_client(1);
    let client = "192.0.2.1";
    let origin = ("origin", "https://app.test");
    let method = ("access-control-request-method", "GET");
    let preflight = || options(client, &[origin, method]);
    let download = text(&limit, plain(client), ScriptedUpstream::new().hang()).await;
    let hangs = text(&limit, preflight(), ScriptedUpstream::new().hang()).await;
    assert_eq!((download.status(), hangs.status()), (200, 200));
    let over = text(&limit, preflight(), ScriptedUpstream::new().send("x")).await;
    assert_eq!(over.status(), 429);
    drop(hangs);
    // No more than OPTIONS is a request like any other.
    for fields in [&[][..], &[origin], &[method]] {
        let over = text(&limit, options(client, fields), ScriptedUpstream::new()).await;
        assert_eq!(over.status(), 429, "{fields:?}");
    }
    let mut get = preflight();
    *get.method_mut() = Method::GET;
    assert_eq!(
        text(&limit, get, ScriptedUpstream::new()).await.status(),
        429
    );
    drop(download);
    let hangs = text(&limit, preflight(), ScriptedUpstream::new().hang()).await;
    let other = text(&limit, plain(client), ScriptedUpstream::new().send("x")).await;
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
        let held = text(&limit, request, ScriptedUpstream::new().hang()).await;
        assert_eq!(held.status(), 200);
        std::mem::forget(held);
    }
    assert_eq!(limit.clients(), 0);
}
