//! Streams as fast as they go.

use crate::bench::{Bench, Workload};
use crate::client::{Failure, Failures, within};
use crate::clock::{now_ns, secs};
use crate::report::Report;
use crate::wire::{Seen, Sequence};
use anyhow::{Result, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Options of `sseload throughput`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Throughput {
    /// Streams at the same time
    #[arg(long, default_value_t = 16)]
    pub conns: usize,
    /// Events per stream
    #[arg(long, default_value_t = 200_000)]
    pub events: u64,
    /// Bytes per event
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// Bytes per HTTP chunk of the origin, wherever events end; 0: one event each
    #[arg(long, default_value_t = 0)]
    pub chunk: usize,
    /// Seconds after which a stream counts as stuck
    #[arg(long, default_value_t = 120.0)]
    pub limit: f64,
}

impl Workload for Throughput {
    const NAME: &'static str = "throughput";

    fn seconds(&self) -> f64 {
        self.limit
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let path = format!("/burst?events={}&size={}&chunk={}", self.events, self.size, self.chunk);
        let opener = Arc::new(bench.opener(&path));
        let limit = Duration::from_secs_f64(self.limit);
        let mut connections = Vec::new();
        for i in 0..self.conns {
            let connected = within(bench.open_limit(), opener.connect(i)).await;
            connections.push(connected.map_err(|f| anyhow::anyhow!("connection {i}: {}", f.key()))?);
        }

        let before = bench.clocks().await?;
        let begin = now_ns();
        let mut tasks = JoinSet::new();
        for connected in connections {
            tasks.spawn(async move {
                let mut sequence = Sequence::default();
                let mut on = |seen, _| {
                    if let Seen::Event(Some(stamp)) = seen {
                        let stamp: crate::event::Stamp = stamp;
                        sequence.see(stamp.seq);
                    }
                };
                let work = async {
                    let mut stream = connected.start().await?;
                    while stream.read(&mut on).await? {}
                    Ok::<_, Failure>(stream.body_bytes)
                };
                let result = within(limit, work).await;
                (sequence, result)
            });
        }
        let (mut total, mut bytes, mut failures) = (Sequence::default(), 0, Failures::default());
        while let Some(done) = tasks.join_next().await {
            let (sequence, result) = done?;
            total.received += sequence.received;
            total.lost += sequence.lost;
            total.misordered += sequence.misordered;
            match result {
                Ok(n) => bytes += n,
                Err(failure) => failures.add(&failure),
            }
        }
        let wall = secs(begin, now_ns());
        let after = bench.clocks().await?;
        ensure!(wall > 0.0, "the clock stood still");

        let mut report = Report::default();
        report.set("conns", self.conns);
        report.set("size", self.size);
        report.set("chunk", self.chunk);
        failures.report("failed", &mut report);
        report.set("expected", self.events * self.conns as u64);
        report.set("events", total.received);
        report.set("lost", total.lost);
        report.set("misordered", total.misordered);
        report.set("bytes", bytes);
        report.number("wall_s", wall);
        report.number("events_per_s", total.received as f64 / wall);
        report.number("mb_per_s", bytes as f64 / 1e6 / wall);
        after.report_since(&before, total.received, &mut report);
        Ok(report)
    }
}
