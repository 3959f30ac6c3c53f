//! Clients that come and go: half of them close (FIN), half of them break off (RST).

use crate::bench::{Bench, Workload};
use crate::client::{Failures, within};
use crate::clock::{now_ns, secs};
use crate::crowd::Crowd;
use crate::procfs::Memory;
use crate::report::Report;
use anyhow::Result;
use hdrhistogram::Histogram;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Streams open at the same time at most: more would come than the target can take.
const AT_ONCE: usize = 2000;
/// What is left over is looked for after so long.
const REST: Duration = Duration::from_secs(2);

/// Options of `sseload churn`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Churn {
    /// Streams to open per second
    #[arg(long, default_value_t = 200.0)]
    pub rate: f64,
    /// Seconds to do so
    #[arg(long, default_value_t = 10.0)]
    pub secs: f64,
    /// Streams to open and close before files are counted for the first time
    #[arg(long, default_value_t = 10)]
    pub warm_up: usize,
}

struct Seen {
    first_event: Histogram<u64>,
    failures: Failures,
}

impl Workload for Churn {
    const NAME: &'static str = "churn";

    fn seconds(&self) -> f64 {
        self.secs
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let (path, tree) = ("/idle", bench.tree);
        Crowd::open(bench, path, self.warm_up, |_| |_, _| ()).await?.close().await;
        sleep(Duration::from_millis(500)).await;
        let (opener, limit) = (Arc::new(bench.opener(path)), bench.open_limit());
        let seen = Arc::new(Mutex::new(Seen {
            first_event: Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?,
            failures: Failures::default(),
        }));
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let stats_before = bench.stats().await?;
        let (cpu_before, fds_before) = (tree.cpu()?, tree.fds()?);

        let total = (self.rate * self.secs) as usize;
        let mut memory_halfway = Memory::default();
        let mut clock = interval(Duration::from_secs_f64(1.0 / self.rate));
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut tasks = JoinSet::new();
        let begin = now_ns();
        for i in 0..total {
            clock.tick().await;
            if i == total / 2 {
                memory_halfway = tree.memory()?;
            }
            let permit = at_once.clone().acquire_owned().await?;
            let (opener, seen) = (opener.clone(), seen.clone());
            tasks.spawn(async move {
                let start = now_ns();
                let opened = within(limit, async {
                    let mut stream = opener.connect(i).await?.start().await?;
                    stream.ready(&mut |_, _| ()).await?;
                    Ok(stream)
                })
                .await;
                let now = now_ns();
                {
                    let mut seen = seen.lock().expect("no panic inside");
                    match &opened {
                        Ok(_) => seen.first_event.saturating_record(now - start),
                        Err(failure) => seen.failures.add(failure),
                    }
                }
                if let Ok(stream) = opened
                    && i % 2 == 0
                    && let Some(tcp) = stream.tcp()
                {
                    // Makes the close that follows a reset.
                    let _ = tcp.set_zero_linger();
                }
                drop(permit);
            });
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
        let wall = secs(begin, now_ns());
        sleep(REST).await;
        let (cpu_after, memory_after, fds_after) = (tree.cpu()?, tree.memory()?, tree.fds()?);
        let stats_after = bench.stats().await?;

        let mut report = Report::default();
        let seen = seen.lock().expect("no panic inside");
        let done = seen.first_event.len();
        report.number("rate", self.rate);
        report.number("secs", self.secs);
        report.set("done", done);
        seen.failures.report("failed", &mut report);
        report.number("achieved_per_s", done as f64 / wall);
        if done > 0 {
            for (key, q) in [("first_event_p50_us", 0.5), ("first_event_p99_us", 0.99)] {
                report.number(key, seen.first_event.value_at_quantile(q) as f64 / 1e3);
            }
        }
        report.number("cpu_s", cpu_after - cpu_before);
        report.number("cpu_ms_per_conn", (cpu_after - cpu_before) * 1e3 / done as f64);
        // What the first half made it take is no leak.
        let growth = memory_after - memory_halfway;
        report.set("rss_growth_second_half", growth.rss);
        report.set("pss_growth_second_half", growth.pss);
        report.set("fds_left", fds_after as i64 - fds_before as i64);
        report.set("origin_streams_left", stats_after.open_streams - stats_before.open_streams);
        report.set("origin_connections_left", stats_after.open_connections - stats_before.open_connections);
        Ok(report)
    }
}
