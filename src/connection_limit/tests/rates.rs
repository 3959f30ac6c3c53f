//! Rates at which clients open streams, and the table of clients.

use super::*;

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

#[tokio::test(start_paused = true)]
async fn rate_is_refunded_for_a_response_other_than_a_stream() {
    let two = NonZeroU32::new(2).unwrap();
    let limit = ConnectionLimitLayer::new().rate(NonZeroU32::MIN, Duration::from_secs(60), two);
    let json = || ScriptedUpstream::new().content_type("application/json");
    let call = |upstream| send_request(limit.clone(), from("192.0.2.1"), upstream);
    for upstream in [
        json(),
        json().status(500),
        ScriptedUpstream::new().status(204),
    ] {
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
async fn shared_rate_is_used_once() {
    let one = NonZeroU32::MIN;
    let all = ConnectionLimitLayer::new().rate(one, Duration::from_secs(60), one);
    let other = all.clone().retry_after(Duration::from_secs(1));
    let other = other.sharing(&all, SeparateCounts::default());
    assert_eq!(open(&all, from("192.0.2.1")).await.status(), 200);
    assert_eq!(open(&other, from("192.0.2.1")).await.status(), 429);
    // It stays shared when the one that it is shared with gets another rate.
    let faster = ConnectionLimitLayer::new().rate(one, Duration::from_secs(30), one);
    let faster = faster.counting_with(&all);
    let other = faster.clone().sharing(&faster, SeparateCounts::default());
    assert_eq!(open(&other, from("192.0.2.1")).await.status(), 200);
    assert_eq!(open(&faster, from("192.0.2.1")).await.status(), 429);
}
