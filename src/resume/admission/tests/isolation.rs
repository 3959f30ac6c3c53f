//! Failing or hanging streams and the turns of other clients and targets.

use super::*;

/// Streams of `failing` that fail at each of their turns.
fn fail(
    admission: &Admission,
    failing: impl IntoIterator<Item = LaneKey>,
    failure: AttemptFailure,
) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    for key in failing {
        let (admission, count) = (admission.clone(), count.clone());
        tokio::spawn(async move {
            let member = admission.join(key, Some(None));
            loop {
                member.turn(Instant::now(), true).await.failed(failure);
                count.fetch_add(1, Relaxed);
            }
        });
    }
    count
}

#[tokio::test(start_paused = true)]
async fn failures_of_one_client_do_not_delay_another() {
    let targets: [fn(u32) -> u32; 2] = [|_| 1, |n| n];
    for target in targets {
        let admission = Admission::default();
        let failed = fail(
            &admission,
            (0..30).map(|n| key(1, target(n))),
            AttemptFailure::Response,
        );
        for _ in 0..50 {
            tokio::time::sleep(millis(330)).await;
            let start = Instant::now();
            admission.turn_of(key(2, 1_000)).await.succeeded();
            assert!(start.elapsed() <= millis(21), "{:?}", start.elapsed());
            // They do not count against the upstream.
            assert!(!admission.is_broken());
        }
        // Each target once, then one or two a second, of whatever target.
        let failed = failed.load(Relaxed);
        assert!((16..=30 + 17 * 2).contains(&failed), "{failed}");
    }
}

#[tokio::test(start_paused = true)]
async fn failing_target_does_not_delay_another_of_the_same_clients() {
    let admission = Admission::default();
    fail(
        &admission,
        (0..40).map(|n| key(n, 1)),
        AttemptFailure::Response,
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    for n in 0..40 {
        let start = Instant::now();
        admission.turn_of(key(n, 2)).await.succeeded();
        assert!(start.elapsed() <= millis(21), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn hung_attempts_of_one_client_or_target_leave_turns_to_others() {
    let keys: [fn(u32) -> LaneKey; 3] = [|n| key(1, n), |n| key(n, 1), |_| key(1, 1)];
    for hung in keys {
        let admission = Admission::default();
        for n in 0..100 {
            let admission = admission.clone();
            tokio::spawn(async move {
                let _turn = admission.turn_of(hung(n)).await;
                std::future::pending::<()>().await;
            });
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for n in 0..20 {
            let start = Instant::now();
            admission
                .turn_of(key(1_000 + n, 2_000 + n))
                .await
                .succeeded();
            assert!(start.elapsed() <= millis(11), "{:?}", start.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn turns_alternate_between_clients_regardless_of_their_streams_and_targets() {
    let admission = Admission::new(millis(10), 1_000);
    let (served, hold) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let keys = (0..300)
        .map(|n| key(1, n))
        .chain((0..30).map(|n| key(2, n % 2)));
    for key in keys.chain((0..10).map(|_| key(3, 7))) {
        let (admission, served, hold) = (admission.clone(), served.clone(), hold.clone());
        tokio::spawn(async move {
            let member = admission.join(key, Some(None));
            let turn = member.turn(Instant::now(), true).await;
            served.lock().unwrap().push(key.client);
            turn.succeeded();
            hold.notified().await;
        });
    }
    tokio::time::sleep(millis(10 * 40)).await;
    let served = served.lock().unwrap().clone();
    let count = |client: u32| {
        let client = key(client, 0).client;
        served.iter().filter(|served| **served == client).count()
    };
    // Clients with many streams do not precede the one with ten, and get the turns that it does not need.
    assert_eq!(count(3), 10, "{served:?}");
    assert!(count(2) >= 10, "{}", count(2));
    assert!(count(1) >= 10, "{}", count(1));
}
