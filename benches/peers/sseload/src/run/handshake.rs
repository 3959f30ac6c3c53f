//! TLS connections that are made and closed: what a handshake costs.

use crate::bench::{Bench, Workload};
use crate::client::{Dialer, Failure, Failures, within};
use crate::clock::{now_ns, secs};
use crate::report::Report;
use crate::transport::Transport;
use anyhow::{Context, Result};
use rustls::HandshakeKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

/// A ticket comes right after the handshake, or never.
const TICKET: Duration = Duration::from_millis(50);

/// Options of `sseload handshake`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Handshake {
    /// Connections to make
    #[arg(long, default_value_t = 2000)]
    pub conns: usize,
    /// Connections at the same time
    #[arg(long, default_value_t = 4)]
    pub at_once: usize,
    /// Resume the session of the connection before
    #[arg(long)]
    pub resume: bool,
    /// Connections before the measuring, of each of those
    #[arg(long, default_value_t = 5)]
    pub warm_up: usize,
}

#[derive(Default)]
struct Counts {
    full: AtomicUsize,
    resumed: AtomicUsize,
}

/// One connection after the other.
async fn handshake(
    dialer: Dialer,
    connector: &TlsConnector,
    i: usize,
    resume: bool,
    counts: &Counts,
) -> Result<(), Failure> {
    let Transport::Tls(mut tls) = Transport::over(dialer.dial(i).await?, Some(connector)).await? else {
        unreachable!("there was a connector");
    };
    let mut byte = [0];
    while resume && tls.get_ref().1.tls13_tickets_received() == 0 {
        if timeout(TICKET, tls.read(&mut byte)).await.is_err() {
            break;
        }
    }
    let count = match tls.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => &counts.resumed,
        _ => &counts.full,
    };
    count.fetch_add(1, Relaxed);
    tls.shutdown().await.map_err(Failure::Io)
}

impl Handshake {
    async fn make(
        &self,
        bench: &Bench<'_>,
        each: usize,
        connectors: &[TlsConnector],
    ) -> Result<(Arc<Counts>, Failures)> {
        let (counts, limit) = (Arc::new(Counts::default()), bench.open_limit());
        let (dialer, resume) = (bench.dialer(), self.resume);
        let mut tasks = JoinSet::new();
        for (worker, connector) in connectors.iter().cloned().enumerate() {
            let counts = counts.clone();
            tasks.spawn(async move {
                let mut failures = Failures::default();
                for i in 0..each {
                    let made = within(limit, handshake(dialer, &connector, worker + i * 7, resume, &counts)).await;
                    if let Err(failure) = made {
                        failures.add(&failure);
                    }
                }
                failures
            });
        }
        let mut failures = Failures::default();
        while let Some(some) = tasks.join_next().await {
            failures.merge(&some?);
        }
        Ok((counts, failures))
    }
}

impl Workload for Handshake {
    const NAME: &'static str = "handshake";

    fn seconds(&self) -> f64 {
        self.conns as f64 / 100.0
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let protocol = bench.common.protocol;
        let connector = || protocol.connector(self.resume).context("--protocol tls or h2-tls");
        let at_once = self.at_once.max(1);
        let connectors = (0..at_once).map(|_| connector()).collect::<Result<Vec<_>>>()?;
        self.make(bench, self.warm_up, &connectors).await?;
        sleep(Duration::from_millis(500)).await;
        let (before, begin) = (bench.clocks().await?, now_ns());
        let (counts, failures) = self.make(bench, self.conns.div_ceil(at_once), &connectors).await?;
        let wall = secs(begin, now_ns());
        // The last ones are being closed.
        sleep(Duration::from_millis(200)).await;
        let after = bench.clocks().await?;

        let mut report = Report::default();
        let (full, resumed) = (counts.full.load(Relaxed), counts.resumed.load(Relaxed));
        report.set("conns", self.conns);
        report.set("full", full);
        report.set("resumed", resumed);
        report.set("not_as_wanted", if self.resume { full } else { resumed });
        failures.report("failed", &mut report);
        report.number("wall_s", wall);
        after.report_since(&before, (full + resumed) as u64, &mut report);
        Ok(report)
    }
}
