//! Events at a steady rate on many streams: how late they come, and what each costs.

use crate::bench::{Bench, Workload};
use crate::clock::now_ns;
use crate::crowd::{Crowd, Recorder};
use crate::report::Report;
use anyhow::Result;
use std::time::Duration;
use tokio::time::sleep;

/// Options of `sseload latency`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Latency {
    /// Streams to open
    #[arg(long, default_value_t = 1000)]
    pub conns: usize,
    /// Events per second and stream
    #[arg(long, default_value_t = 10.0)]
    pub rate: f64,
    /// Bytes per event
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0)]
    pub secs: f64,
    /// Seconds between the last opening and the measuring
    #[arg(long, default_value_t = 2.0)]
    pub warm_up: f64,
}

impl Workload for Latency {
    const NAME: &'static str = "latency";

    fn seconds(&self) -> f64 {
        self.secs + self.warm_up
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let recorder = Recorder::new(self.conns)?;
        let path = format!("/tick?interval_ms={}&size={}", 1e3 / self.rate, self.size);
        let crowd = Crowd::open(bench, &path, self.conns, |i| recorder.handler(i)).await?;
        sleep(Duration::from_secs_f64(self.warm_up)).await;

        let before = bench.clocks().await?;
        let from = now_ns();
        recorder.window(from, from + (self.secs * 1e9) as u64);
        sleep(Duration::from_secs_f64(self.secs)).await;
        let after = bench.clocks().await?;
        // The last events of the window are still under way.
        sleep(Duration::from_millis(500)).await;

        let mut report = Report::default();
        report.set("conns", self.conns);
        report.number("rate", self.rate);
        report.set("size", self.size);
        crowd.report(&mut report);
        crowd.close().await;
        let totals = recorder.totals()?;
        report.number("expected", self.conns as f64 * self.rate * self.secs);
        report.set("received", totals.latency.len());
        totals.report_order(&mut report);
        totals.report_latency(&mut report);
        after.report_since(&before, totals.latency.len(), &mut report);
        Ok(report)
    }
}
