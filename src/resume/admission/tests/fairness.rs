use super::*;
use std::sync::atomic::{AtomicU32, AtomicU64};
use tokio::task::JoinSet;

/// Response time for clients that reconnect immediately.
const RESPONSE_TIME: Duration = Duration::from_millis(1_900);
const INTERVAL: Duration = Duration::from_millis(1);
const MAX_CONCURRENT: usize = 32;

/// Streams on one queue, and counters of their turns.
struct Load {
    admission: Admission,
    turns: AtomicU64,
    keys: AtomicU32,
}

impl Load {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            admission: Admission::new(INTERVAL, MAX_CONCURRENT),
            turns: AtomicU64::new(0),
            keys: AtomicU32::new(1_000_000),
        })
    }

    /// One reconnect with this response time. Returns how long it waited: turns of other streams, and time.
    async fn reconnect(&self, key: LaneKey, response_time: Duration) -> (u64, Duration) {
        let member = self.admission.join(key, Some(None));
        let (turns, start) = (self.turns.load(Relaxed), Instant::now());
        let turn = member.turn(Instant::now(), true).await;
        let waited = start.elapsed();
        let turns = self.turns.fetch_add(1, Relaxed) - turns;
        tokio::time::sleep(response_time).await;
        turn.succeeded();
        member.resumed();
        (turns, waited)
    }
}

/// OutageLogKind returns at once after each of its turns.
#[derive(Clone, Copy, Debug)]
struct Flood {
    clients: u32,
    targets: u32,
    /// Each reconnect is of a new client.
    is_new_each_time: bool,
}

impl Flood {
    fn start(self, load: &Arc<Load>, count: &Arc<Mutex<Vec<u64>>>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        *lock(count) = vec![0; self.clients as usize];
        for n in 0..self.clients {
            let (load, count) = (load.clone(), count.clone());
            tasks.spawn(async move {
                loop {
                    let client = match self.is_new_each_time {
                        true => load.keys.fetch_add(1, Relaxed),
                        false => n,
                    };
                    load.reconnect(key(client, n % self.targets), RESPONSE_TIME)
                        .await;
                    lock(&count)[n as usize] += 1;
                }
            });
        }
        tasks
    }
}

/// Clients and targets.
const FLOODS: [(u32, u32); 5] = [(60, 4), (60, 1), (40, 40), (5, 2), (200, 3)];

#[tokio::test(start_paused = true)]
async fn clients_that_reconnect_immediately_delay_others_by_one_round_at_most() {
    for (clients, targets) in FLOODS {
        for (healthy, is_new_each_time) in [(20, false), (20, true), (1, false), (70, false)] {
            let flood = Flood {
                clients,
                targets,
                is_new_each_time,
            };
            let (load, count) = (Load::new(), Arc::default());
            let _tasks = flood.start(&load, &count);
            let streams = (0..healthy).map(|n| {
                let load = load.clone();
                tokio::spawn(async move {
                    let mut longest = (0, Duration::ZERO);
                    for _ in 0..8 {
                        tokio::time::sleep(Duration::from_secs(3)).await;
                        let key = key(100_000 + n, 100_000);
                        let (turns, waited) = load.reconnect(key, Duration::ZERO).await;
                        longest = (longest.0.max(turns), longest.1.max(waited));
                    }
                    longest
                })
            });
            let streams: Vec<_> = streams.collect();
            let all = clients + healthy;
            let round = RESPONSE_TIME * all.div_ceil(MAX_CONCURRENT as u32) + INTERVAL * all;
            for stream in streams {
                let (turns, waited) = stream.await.unwrap();
                // One more may be given and not counted yet.
                assert!(turns <= u64::from(all) + 1, "{flood:?}: {turns}");
                assert!(waited <= round, "{flood:?}: {waited:?}");
            }
            // They do not starve each other either.
            let count = lock(&count).clone();
            let (least, most) = (count.iter().min().unwrap(), count.iter().max().unwrap());
            assert!(*least * 2 + 2 >= *most, "{flood:?}: {count:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn client_with_many_streams_gets_exactly_one_turn_in_a_round() {
    for (clients, targets) in FLOODS {
        for is_new_each_time in [false, true] {
            let flood = Flood {
                clients,
                targets,
                is_new_each_time,
            };
            let (load, count) = (Load::new(), Arc::default());
            let mut tasks = flood.start(&load, &count);
            let crowd = Arc::new(AtomicU64::new(0));
            for n in 0..100 {
                let (load, crowd) = (load.clone(), crowd.clone());
                tasks.spawn(async move {
                    loop {
                        let key = key(100_000, 100_000 + n % 10);
                        load.reconnect(key, Duration::ZERO).await;
                        crowd.fetch_add(1, Relaxed);
                    }
                });
            }
            let (mut rounds, mut own) = (0, 0);
            let one = key(200_000, 200_000);
            for _ in 0..20 {
                let before = crowd.load(Relaxed);
                load.reconnect(one, Duration::ZERO).await;
                own = own.max(crowd.load(Relaxed) - before);
                rounds += 1;
            }
            assert!(own <= 2, "{flood:?}: {own}");
            // The first and the last round are incomplete.
            let crowd = crowd.load(Relaxed);
            assert!(crowd.abs_diff(rounds) <= 2, "{flood:?}: {crowd}");
        }
    }
}
