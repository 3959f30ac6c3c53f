//! What all workloads share: options, a target with its process, runs by turns.

use crate::client::{Dialer, OriginStats, get};
use crate::opener::Opener;
use crate::procfs::{Memory, Tree, machine_busy};
use crate::report::Report;
use crate::target::Target;
use crate::transport::Protocol;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddrV4;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// On top of what a run is asked to take.
const GRACE: Duration = Duration::from_secs(120);
/// Between two targets.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of every workload.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Common {
    /// Servers under load, run one after the other: NAME=127.x.x.x:PORT@PID,...; descendants of PID count, too
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    pub targets: Vec<Target>,
    /// The origin behind them
    #[arg(long, value_name = "IP:PORT")]
    pub origin: SocketAddrV4,
    /// Connections being opened at the same time
    #[arg(long, default_value_t = 128)]
    pub opening: usize,
    /// How streams are carried to the target
    #[arg(long, value_enum, default_value_t = Protocol::H1)]
    pub protocol: Protocol,
    /// Streams on one connection of HTTP/2
    #[arg(long, default_value_t = 1)]
    pub per_connection: usize,
    /// Seconds that opening one stream may take
    #[arg(long, default_value_t = 30.0)]
    pub timeout: f64,
}

/// One target of a run.
pub struct Bench<'a> {
    /// The options.
    pub common: &'a Common,
    /// The server under load.
    pub target: &'a Target,
    /// Its process and what that started.
    pub tree: Tree,
}

impl Bench<'_> {
    /// A dialer to the target.
    pub fn dialer(&self) -> Dialer {
        Dialer { addr: self.target.addr, receive_buffer: None }
    }

    /// Opens streams for `path`.
    pub fn opener(&self, path: &str) -> Opener {
        Opener::new(self.dialer(), self.common.protocol, self.common.per_connection, path)
    }

    /// The request for `path` by HTTP/1.1.
    pub fn request(&self, path: &str) -> Vec<u8> {
        get(self.target.addr, path)
    }

    /// Longest time to open one stream.
    pub fn open_limit(&self) -> Duration {
        Duration::from_secs_f64(self.common.timeout)
    }

    /// The origin's counters.
    pub async fn stats(&self) -> Result<OriginStats> {
        OriginStats::get(self.common.origin).await
    }

    /// CPU time of all concerned so far.
    pub async fn clocks(&self) -> Result<Clocks> {
        // The target's last, so that little else happens between its reading and the caller.
        let origin = self.stats().await?;
        let (own, busy) = (Tree(std::process::id()).cpu()?, machine_busy()?);
        Ok(Clocks { origin, own, busy, target: self.tree.cpu()? })
    }
}

/// CPU time used so far, in seconds, and the origin's other counters.
pub struct Clocks {
    target: f64,
    origin: OriginStats,
    own: f64,
    busy: f64,
}

impl Clocks {
    /// Writes what was used since `before`: by the target, and the same per million of `events`; by the
    /// origin, the load generator; and the share that everything else on the machine had, which is noise.
    pub fn report_since(&self, before: &Self, events: u64, report: &mut Report) {
        let target = self.target - before.target;
        let origin = self.origin.cpu_s - before.origin.cpu_s;
        let own = self.own - before.own;
        report.number("cpu_s", target);
        report.number("cpu_s_per_million_events", target / events as f64 * 1e6);
        report.number("own_cpu_s", own);
        report.number("origin_cpu_s", origin);
        let busy = self.busy - before.busy;
        report.number("noise_percent", (busy - target - origin - own).max(0.0) / busy * 100.0);
        report.set("origin_sent", self.origin.events - before.origin.events);
    }
}

/// Memory in bytes that `n` things made it grow by, for each.
pub fn grown(report: &mut Report, key: &str, from: Memory, to: Memory, n: f64) {
    report.number(&format!("rss_{key}"), (to - from).rss as f64 / n);
    report.number(&format!("pss_{key}"), (to - from).pss as f64 / n);
}

/// A kind of load.
pub trait Workload {
    /// Its name in reports.
    const NAME: &'static str;
    /// Seconds that it takes by its options.
    fn seconds(&self) -> f64;
    /// Runs it once.
    async fn run(&self, bench: &Bench<'_>) -> Result<Report>;
}

/// Runs a workload on one target after the other and prints a JSON object for each. What fails on one
/// is told, and keeps none of the others from being measured.
pub async fn drive<W: Workload>(workload: &W, common: &Common) -> Result<()> {
    let limit = Duration::from_secs_f64(workload.seconds()) + GRACE;
    let mut failed = Vec::new();
    for (i, target) in common.targets.iter().enumerate() {
        if i > 0 {
            sleep(PAUSE).await;
        }
        eprintln!("  {}", target.name);
        let bench = Bench { common, target, tree: Tree(target.pid) };
        let found = timeout(limit, workload.run(&bench))
            .await
            .with_context(|| format!("not done in {} s", limit.as_secs()))
            .flatten();
        let report = found.unwrap_or_else(|error| {
            eprintln!("  {}: {error:#}", target.name);
            failed.push(target.name.as_str());
            let mut report = Report::default();
            report.set("error", format!("{error:#}"));
            report
        });
        println!("{}", report.to_json(W::NAME, &target.name));
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
