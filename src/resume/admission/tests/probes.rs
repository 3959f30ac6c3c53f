//! Probes of an upstream that fails, and its recovery.

use super::*;

#[tokio::test(start_paused = true)]
async fn unreachable_upstream_is_probed_by_one_stream_each_second() {
    let admission = Admission::new(millis(1), 100);
    let members: Vec<_> = (0..40)
        .map(|n| admission.join(key(n, n), Some(None)))
        .collect();
    let mut attempts = 0;
    while !admission.is_broken() {
        let turn = members[attempts].turn(Instant::now(), true).await;
        turn.failed(AttemptFailure::Unreachable);
        attempts += 1;
    }
    assert_eq!(attempts, UNREACHABLE_AFTER_FAILURES as usize);
    let count = Arc::new(AtomicU32::new(0));
    let probes = members.into_iter().map(|member| {
        let count = count.clone();
        tokio::spawn(async move {
            loop {
                // Its own backoff is longer than the test.
                let due = Instant::now() + Duration::from_secs(3_600);
                member
                    .turn(due, true)
                    .await
                    .failed(AttemptFailure::Unreachable);
                count.fetch_add(1, Relaxed);
            }
        })
    });
    let probes: Vec<_> = probes.collect();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let count = count.load(Relaxed);
    assert!((100..=200).contains(&count), "{count}");
    for probe in probes {
        probe.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn first_success_ends_the_backoff_of_all_streams() {
    for notify in [
        |admission: &Admission| admission.upstream_is_back(),
        |admission: &Admission| {
            let turn = admission.join(key(99, 99), None);
            let admission = admission.clone();
            tokio::spawn(async move {
                turn.turn(Instant::now(), true).await.succeeded();
                assert!(!admission.is_broken());
            });
        },
    ] {
        let admission = Admission::new(millis(10), 32);
        for _ in 0..UNREACHABLE_AFTER_FAILURES {
            admission.turn().await.failed(AttemptFailure::Unreachable);
        }
        let hour = Duration::from_secs(3_600);
        let streams = (0..30).map(|n| {
            let admission = admission.clone();
            tokio::spawn(async move {
                let member = admission.join(key(n % 3, n), Some(None));
                // Half of them may not probe.
                let turn = member.turn(Instant::now() + hour, n % 2 == 0).await;
                turn.succeeded();
                member.resumed();
            })
        });
        let streams: Vec<_> = streams.collect();
        settle().await;
        let start = Instant::now();
        notify(&admission);
        for stream in streams {
            stream.await.unwrap();
        }
        let took = start.elapsed();
        assert!(took <= MAX_PROBE_INTERVAL + millis(320), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn recovery_of_one_lane_gives_each_failing_lane_an_attempt() {
    // A load balancer responds for a service that is down.
    let admission = Admission::new(millis(10), 32);
    let is_up = Arc::new(AtomicBool::new(false));
    let streams = (0..200).map(|n| {
        let (admission, is_up) = (admission.clone(), is_up.clone());
        tokio::spawn(async move {
            let member = admission.join(key(n, n), Some(None));
            loop {
                let turn = member.turn(Instant::now() + millis(100), true).await;
                if is_up.load(Relaxed) {
                    turn.succeeded();
                    return;
                }
                turn.failed(AttemptFailure::Response);
            }
        })
    });
    let streams: Vec<_> = streams.collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    is_up.store(true, Relaxed);
    let start = Instant::now();
    for stream in streams {
        stream.await.unwrap();
    }
    let took = start.elapsed();
    assert!(
        took <= Duration::from_secs(2) + MAX_PROBE_INTERVAL,
        "{took:?}"
    );
    assert_eq!(admission.lanes(), 0);
}

#[tokio::test(start_paused = true)]
async fn sole_stream_probes_every_half_second_within_the_rate() {
    for failure in [AttemptFailure::Response, AttemptFailure::Unreachable] {
        for (gap, most) in [(millis(1), 4), (Duration::from_secs(2), 1)] {
            let admission = Admission::new(gap, 32);
            let member = admission.join(key(1, 1), Some(None));
            let start = Instant::now();
            for _ in 0..100 {
                let due = Instant::now() + Duration::from_secs(30);
                member.turn(due, true).await.failed(failure);
            }
            let rate = 100.0 / start.elapsed().as_secs_f64();
            let least = (1.0 / gap.as_secs_f64()).min(2.0) * 0.4;
            assert!(
                rate <= f64::from(most) && rate >= least,
                "{rate} {failure:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_with_limited_attempts_waits_for_its_backoff_before_each() {
    let admission = Admission::new(millis(1), 32);
    let member = admission.join(key(1, 1), Some(None));
    let start = Instant::now();
    for n in 1..=5_u32 {
        let due = Instant::now() + Duration::from_secs(10);
        let turn = member.turn(due, false).await;
        assert!(turn.was_due());
        turn.failed(AttemptFailure::Unreachable);
        let took = start.elapsed().as_secs();
        assert!(
            (10 * u64::from(n)..=11 * u64::from(n)).contains(&took),
            "{took}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn return_of_an_upstream_that_was_not_lost_changes_nothing() {
    let admission = Admission::default();
    let member = admission.join(key(1, 1), Some(None));
    let due = Instant::now() + Duration::from_secs(10);
    let mut turn = std::pin::pin!(member.turn(due, true));
    assert!(
        tokio::time::timeout(millis(1), turn.as_mut())
            .await
            .is_err()
    );
    admission.upstream_is_back();
    let turn = turn.await;
    assert!(Instant::now() >= due);
    drop(turn);
}
