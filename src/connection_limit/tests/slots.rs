//! Slots of streams: when they are taken and released.

use super::*;

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
    let plain = ScriptedUpstream::new().content_type("text/plain").hang();
    let _response = send_request(limit.clone(), from("192.0.2.1"), plain).await;
    assert_eq!((limit.active(), limit.clients()), (0, 0));
}

#[tokio::test]
async fn slot_of_an_encoded_stream_is_held_to_its_end() {
    let limit = ConnectionLimitLayer::new();
    let coded = ScriptedUpstream::new()
        .header("content-encoding", "gzip")
        .send("x");
    let response = send_request(limit.clone(), from("192.0.2.1"), coded).await;
    assert_eq!(limit.active(), 1);
    assert_eq!(response.text().await, "x");
    assert_eq!(limit.active(), 0);
}

#[tokio::test]
async fn slot_is_released_at_the_end_of_a_body_that_is_kept() {
    let limit = ConnectionLimitLayer::new();
    let mut response = send_request(
        limit.clone(),
        from("192.0.2.1"),
        ScriptedUpstream::new().send("x"),
    )
    .await;
    while response.frame().await.is_some() {}
    assert_eq!(limit.active(), 0);
}

#[tokio::test]
async fn slot_is_released_when_the_body_fails() {
    let limit = ConnectionLimitLayer::new();
    let response = send_request(
        limit.clone(),
        from("192.0.2.1"),
        ScriptedUpstream::new().fail(),
    )
    .await;
    assert!(response.read().await.1.is_err());
    assert_eq!(limit.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn slot_is_released_when_the_client_disconnects_before_the_head() {
    let limit = ConnectionLimitLayer::new();
    {
        let never = call_service(&limit, std::future::pending);
        tokio::pin!(never);
        assert!(futures_util::poll!(&mut never).is_pending());
        assert_eq!(limit.active(), 1);
    }
    assert_eq!((limit.active(), limit.clients()), (0, 0));
}

#[tokio::test]
async fn slot_is_released_when_the_service_fails_or_panics() {
    let limit = ConnectionLimitLayer::new();
    let failed = call_service(&limit, || async { Err("no".to_owned()) }).await;
    assert_eq!((failed, limit.active()), (Err("no".into()), 0));

    let send_request = |at_once: bool| {
        let limit = limit.clone();
        tokio::spawn(async move {
            let panics = || {
                assert!(!at_once, "in the call");
                async { panic!("in the future") }
            };
            call_service(&limit, panics).await
        })
    };
    for at_once in [true, false] {
        assert!(send_request(at_once).await.unwrap_err().is_panic());
        assert_eq!((limit.active(), limit.clients()), (0, 0));
    }
}
