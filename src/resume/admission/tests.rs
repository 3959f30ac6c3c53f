mod fairness;

use super::queue::{AWAY_AFTER, PROBE_GAP};
use super::*;

use std::sync::atomic::AtomicU32;

fn key(client: u32, path: u32) -> Key {
    Key::new(client, path)
}

impl Admission {
    /// The turn of a stream whose backoff is over.
    pub(in crate::resume) async fn turn(&self) -> Turn {
        self.turn_of(key(0, 0)).await
    }

    async fn turn_of(&self, key: Key) -> Turn {
        self.join(key, Some(None)).turn(Instant::now(), true).await
    }

    fn lanes(&self) -> usize {
        lock(&self.0.queue).lanes()
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Lets all tasks do what they can without the time passing.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn turns_come_at_their_rate_and_in_order() {
    let admission = Admission::new(millis(100), 100);
    let start = Instant::now();
    let mut turns = Vec::new();
    for n in 0..20_u32 {
        turns.push(admission.turn().await);
        assert_eq!(start.elapsed().as_millis(), u128::from(n) * 100);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_allowed_ask_at_once() {
    let admission = Admission::new(millis(1), 2);
    let (one, two) = (admission.turn().await, admission.turn().await);
    let third = tokio::time::timeout(Duration::from_secs(60), admission.turn());
    assert!(third.await.is_err());
    one.succeeded();
    two.succeeded();
    admission.turn().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_hangs_does_not_count_as_concurrent() {
    let admission = Admission::new(millis(1), 1);
    let mut hung = Vec::new();
    for n in 0..50 {
        let mut turn = admission.turn_of(key(n, n)).await;
        turn.hangs();
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
async fn a_stream_that_leaves_the_queue_leaves_no_gap() {
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
async fn a_queue_of_ten_thousand_takes_its_time_in_order_with_two_polls_each() {
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
async fn a_gap_without_measure_is_one_that_does_not_pass() {
    let admission = Admission::new(Duration::MAX, usize::MAX);
    drop(admission.turn().await);
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, admission.turn()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_refuses_connections_is_probed_by_one_stream_each_second() {
    let admission = Admission::new(millis(1), 100);
    let members: Vec<_> = (0..40)
        .map(|n| admission.join(key(n, n), Some(None)))
        .collect();
    let mut attempts = 0;
    while !admission.is_broken() {
        let turn = members[attempts].turn(Instant::now(), true).await;
        turn.failed(Failure::Unreachable);
        attempts += 1;
    }
    assert_eq!(attempts, AWAY_AFTER as usize);
    let count = Arc::new(AtomicU32::new(0));
    let probes = members.into_iter().map(|member| {
        let count = count.clone();
        tokio::spawn(async move {
            loop {
                // Its own backoff would be over too late.
                let due = Instant::now() + Duration::from_secs(3_600);
                member.turn(due, true).await.failed(Failure::Unreachable);
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
async fn the_first_success_lets_all_follow_whatever_their_own_backoff() {
    for says in [
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
        for _ in 0..AWAY_AFTER {
            admission.turn().await.failed(Failure::Unreachable);
        }
        let hour = Duration::from_secs(3_600);
        let streams = (0..30).map(|n| {
            let admission = admission.clone();
            tokio::spawn(async move {
                let member = admission.join(key(n % 3, n), Some(None));
                // Half of them must not probe.
                let turn = member.turn(Instant::now() + hour, n % 2 == 0).await;
                turn.succeeded();
                member.resumed();
            })
        });
        let streams: Vec<_> = streams.collect();
        settle().await;
        let start = Instant::now();
        says(&admission);
        for stream in streams {
            stream.await.unwrap();
        }
        let took = start.elapsed();
        assert!(took <= PROBE_GAP + millis(320), "{took:?}");
    }
}

/// Streams of `failing` that fail whenever they have a turn, without an end.
fn fail(
    admission: &Admission,
    failing: impl IntoIterator<Item = Key>,
    failure: Failure,
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
    let paths: [fn(u32) -> u32; 2] = [|_| 1, |n| n];
    for path in paths {
        let admission = Admission::default();
        let failed = fail(
            &admission,
            (0..30).map(|n| key(1, path(n))),
            Failure::Answered,
        );
        for _ in 0..50 {
            tokio::time::sleep(millis(330)).await;
            let start = Instant::now();
            admission.turn_of(key(2, 1_000)).await.succeeded();
            assert!(start.elapsed() <= millis(21), "{:?}", start.elapsed());
            // They say nothing of the upstream.
            assert!(!admission.is_broken());
        }
        // Each path once, then one or two a second, of whatever path.
        let failed = failed.load(Relaxed);
        assert!((16..=30 + 17 * 2).contains(&failed), "{failed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_that_fails_for_all_does_not_delay_another_of_the_same_clients() {
    let admission = Admission::default();
    fail(&admission, (0..40).map(|n| key(n, 1)), Failure::Answered);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for n in 0..40 {
        let start = Instant::now();
        admission.turn_of(key(n, 2)).await.succeeded();
        assert!(start.elapsed() <= millis(21), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn hung_attempts_of_one_client_or_path_leave_room_for_others() {
    let keys: [fn(u32) -> Key; 3] = [|n| key(1, n), |n| key(n, 1), |_| key(1, 1)];
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
async fn turns_alternate_between_clients_however_many_streams_and_paths_one_has() {
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
    // Those with many are not ahead of the one with ten, and those with few leave the rest to them.
    assert_eq!(count(3), 10, "{served:?}");
    assert!(count(2) >= 10, "{}", count(2));
    assert!(count(1) >= 10, "{}", count(1));
}

#[tokio::test(start_paused = true)]
async fn what_has_recovered_for_one_is_tried_by_all_at_once() {
    // As a balancer answers for a service that is away.
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
                turn.failed(Failure::Answered);
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
    assert!(took <= Duration::from_secs(2) + PROBE_GAP, "{took:?}");
    assert_eq!(admission.lanes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lone_stream_probes_twice_a_second_at_least_and_never_faster_than_the_rate() {
    for failure in [Failure::Answered, Failure::Unreachable] {
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
async fn a_stream_that_counts_its_tries_has_each_at_its_own_time() {
    let admission = Admission::new(millis(1), 32);
    let member = admission.join(key(1, 1), Some(None));
    let start = Instant::now();
    for n in 1..=5_u32 {
        let due = Instant::now() + Duration::from_secs(10);
        let turn = member.turn(due, false).await;
        assert!(turn.was_due());
        turn.failed(Failure::Unreachable);
        let took = start.elapsed().as_secs();
        assert!(
            (10 * u64::from(n)..=11 * u64::from(n)).contains(&took),
            "{took}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_streams_that_wait_no_more() {
    let admission = Admission::new(Duration::ZERO, 32);
    for n in 0..1_000 {
        let member = admission.join(key(n, n), Some(None));
        let turn = member.turn(Instant::now(), true).await;
        turn.failed(match n % 2 {
            0 => Failure::Answered,
            _ => Failure::Unreachable,
        });
        let leaves = member.turn(Instant::now() + Duration::from_secs(9), true);
        assert!(tokio::time::timeout(millis(1), leaves).await.is_err());
    }
    assert_eq!(admission.lanes(), 0);
    tokio::time::sleep(PROBE_GAP).await;
    assert!(!lock(&admission.0.driver).is_running);
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_on_word_that_an_upstream_is_back_that_was_never_away() {
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
