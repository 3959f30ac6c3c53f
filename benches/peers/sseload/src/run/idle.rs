//! Streams on which nothing happens: what each costs to hold.

use crate::bench::{Bench, Workload, grown};
use crate::clock::{now_ns, secs};
use crate::crowd::Crowd;
use crate::report::Report;
use crate::wire::Seen;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::sleep;

/// How long the origin may take to be rid of the streams.
const RELEASE_S: f64 = 30.0;

/// Options of `sseload idle`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Idle {
    /// Streams to open
    #[arg(long, default_value_t = 1000)]
    pub conns: usize,
    /// Seconds to hold them
    #[arg(long, default_value_t = 10.0)]
    pub hold: f64,
    /// Seconds between the end of the last at the origin and the last look at the target's memory
    #[arg(long, default_value_t = 1.0)]
    pub rest: f64,
    /// Streams to open and close before memory is measured for the first time
    #[arg(long, default_value_t = 10)]
    pub warm_up: usize,
}

impl Workload for Idle {
    const NAME: &'static str = "idle";

    fn seconds(&self) -> f64 {
        self.hold + self.rest
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let (path, tree) = ("/idle", bench.tree);
        Crowd::open(bench, path, self.warm_up, |_| |_, _| ()).await?.close().await;
        sleep(Duration::from_millis(500)).await;
        let stats_before = bench.stats().await?;
        let (memory_before, fds_before, cpu_before) = (tree.memory()?, tree.fds()?, tree.cpu()?);

        let comments = Arc::new(AtomicU64::new(0));
        let crowd = Crowd::open(bench, path, self.conns, |_| {
            let comments = comments.clone();
            move |seen, _| {
                if let Seen::Comment(_) = seen {
                    comments.fetch_add(1, Relaxed);
                }
            }
        })
        .await?;
        let cpu_open = tree.cpu()?;
        sleep(Duration::from_secs_f64(self.hold)).await;
        let (cpu_held, memory_held, fds_held) = (tree.cpu()?, tree.memory()?, tree.fds()?);
        let stats_held = bench.stats().await?;
        let mut report = Report::default();
        report.set("conns", self.conns);
        report.set("opening", bench.common.opening);
        report.number("hold", self.hold);
        crowd.report(&mut report);
        let n = crowd.opened().max(1) as f64;
        report.number("comments_per_conn", comments.load(Relaxed) as f64 / n);
        report.set("origin_streams_held", stats_held.open_streams - stats_before.open_streams);

        let closing = now_ns();
        crowd.close().await;
        // The proxy may be slow to notice, or never do.
        let released = loop {
            let left = bench.stats().await?.open_streams - stats_before.open_streams;
            let at = secs(closing, now_ns());
            if left <= 0 {
                break Some(at);
            }
            if at > RELEASE_S {
                report.set("origin_streams_kept", left);
                break None;
            }
            sleep(Duration::from_millis(20)).await;
        };
        report.number("origin_released_s", released);
        sleep(Duration::from_secs_f64(self.rest)).await;
        let (memory_after, fds_after, cpu_after) = (tree.memory()?, tree.fds()?, tree.cpu()?);
        grown(&mut report, "bytes_per_conn", memory_before, memory_held, n);
        grown(&mut report, "kept_bytes_per_conn", memory_before, memory_after, n);
        report.number("fds_per_conn", (fds_held as f64 - fds_before as f64) / n);
        report.set("fds_kept", fds_after as i64 - fds_before as i64);
        report.number("open_cpu_ms_per_conn", (cpu_open - cpu_before) * 1e3 / n);
        report.number("hold_cpu_s", cpu_held - cpu_open);
        report.number("hold_core_percent", (cpu_held - cpu_open) / self.hold * 100.0);
        report.number("close_cpu_ms_per_conn", (cpu_after - cpu_held) * 1e3 / n);
        Ok(report)
    }
}
