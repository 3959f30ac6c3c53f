//! Rate, concurrency and order of turns.

use super::*;

#[tokio::test(start_paused = true)]
async fn turns_are_granted_in_order_at_the_rate() {
    let admission = Admission::new(millis(100), 100);
    let start = Instant::now();
    let mut turns = Vec::new();
    for n in 0..20_u32 {
        turns.push(admission.turn().await);
        assert_eq!(start.elapsed().as_millis(), u128::from(n) * 100);
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_turns_are_bounded() {
    let admission = Admission::new(millis(1), 2);
    let (one, two) = (admission.turn().await, admission.turn().await);
    let third = tokio::time::timeout(Duration::from_secs(60), admission.turn());
    assert!(third.await.is_err());
    one.succeeded();
    two.succeeded();
    admission.turn().await;
}

#[tokio::test(start_paused = true)]
async fn slow_response_does_not_count_as_concurrent() {
    let admission = Admission::new(millis(1), 1);
    let mut hung = Vec::new();
    for n in 0..50 {
        let mut turn = admission.turn_of(key(n, n)).await;
        turn.release_slow();
        hung.push(turn);
    }
    let start = Instant::now();
    drop(admission.turn().await);
    assert!(start.elapsed() <= millis(1));
    // They are released once.
    drop(hung);
    let held = admission.turn().await;
    let next = tokio::time::timeout(Duration::from_secs(60), admission.turn());
    assert!(next.await.is_err());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn stream_that_leaves_the_queue_leaves_no_gap() {
    let admission = Admission::new(Duration::from_secs(1), 100);
    drop(admission.turn().await);
    let start = Instant::now();
    for _ in 0..10 {
        let leaves = tokio::time::timeout(millis(1), admission.turn());
        assert!(leaves.await.is_err());
    }
    drop(admission.turn().await);
    assert_eq!(start.elapsed().as_millis(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn queue_of_10000_keeps_rate_and_order_with_two_polls_each() {
    const STREAMS: usize = 10_000;
    let admission = Admission::default();
    let (order, polls) = (Arc::new(Mutex::new(Vec::new())), Arc::default());
    let start = Instant::now();
    let streams = (0..STREAMS).map(|n| {
        let (admission, order) = (admission.clone(), order.clone());
        let polls: Arc<AtomicU32> = Arc::clone(&polls);
        tokio::spawn(async move {
            let mut turn = std::pin::pin!(admission.turn());
            std::future::poll_fn(|cx| {
                polls.fetch_add(1, Relaxed);
                turn.as_mut().poll(cx)
            })
            .await
            .succeeded();
            order.lock().unwrap().push(n);
        })
    });
    let streams: Vec<_> = streams.collect();
    for stream in streams {
        stream.await.unwrap();
    }
    let gap = millis(10);
    let took = start.elapsed();
    let whole = gap * (STREAMS as u32 - 1);
    assert!(took >= whole && took <= whole + gap, "{took:?}");
    assert!(order.lock().unwrap().is_sorted());
    let polls = polls.load(Relaxed) as usize;
    assert!(polls <= 2 * STREAMS, "{polls}");
    assert_eq!(admission.lanes(), 0);
}

#[tokio::test(start_paused = true)]
async fn interval_of_any_length_is_accepted() {
    let admission = Admission::new(Duration::MAX, usize::MAX);
    drop(admission.turn().await);
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, admission.turn()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn queue_keeps_nothing_of_streams_that_have_left() {
    let admission = Admission::new(Duration::ZERO, 32);
    for n in 0..1_000 {
        let member = admission.join(key(n, n), Some(None));
        let turn = member.turn(Instant::now(), true).await;
        turn.failed(match n % 2 {
            0 => AttemptFailure::Response,
            _ => AttemptFailure::Unreachable,
        });
        let leaves = member.turn(Instant::now() + Duration::from_secs(9), true);
        assert!(tokio::time::timeout(millis(1), leaves).await.is_err());
    }
    assert_eq!(admission.lanes(), 0);
    tokio::time::sleep(MAX_PROBE_INTERVAL).await;
    assert!(!admission.0.timer.is_running());
}
