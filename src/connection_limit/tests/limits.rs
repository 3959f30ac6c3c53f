//! Limits, and the form of rejections.

use super::*;

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
    let two = send_request(stack, from("192.0.2.1"), ScriptedUpstream::new()).await;
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

#[tokio::test]
async fn limit_works_inside_and_outside_of_other_layers() {
    let registry = StreamRegistry::new();
    let limit = ConnectionLimitLayer::new().per_client(1);
    let rotation = crate::rotation::RotationLayer::new().registry(&registry);
    let both = tower_layer::Stack::new(rotation, limit.clone());
    let one = send_request(
        both.clone(),
        from("192.0.2.1"),
        ScriptedUpstream::new().hang(),
    )
    .await;
    assert_eq!(one.stream().client().unwrap().to_string(), "192.0.2.1");
    let two = send_request(both, from("192.0.2.1"), ScriptedUpstream::new().hang()).await;
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

#[tokio::test(start_paused = true)]
async fn shared_counts_count_once_and_separate_ones_separately() {
    let one = NonZeroU32::MIN;
    let hour = Duration::from_secs(3600);
    let all = ConnectionLimitLayer::new().per_client(2).total(4);
    let all = all.rate(one.saturating_add(4), hour, one.saturating_add(4));
    let shares = |layer: ConnectionLimitLayer, separate| layer.sharing(&all, separate);
    let nothing = shares(all.clone(), SeparateCounts::default());
    let per_client = SeparateCounts {
        per_client: true,
        ..SeparateCounts::default()
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
    let total = SeparateCounts {
        total: true,
        ..SeparateCounts::default()
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
