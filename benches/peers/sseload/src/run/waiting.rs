//! Connections that wait: for a response's head, for the next request, for the first one.

use crate::bench::{Bench, Workload, grown};
use crate::client::{Failure, Failures, fetch, within};
use crate::report::Report;
use crate::wire::Response;
use anyhow::Result;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Time for the target to notice that its clients have gone.
const RELEASE: Duration = Duration::from_secs(10);

/// What the connections wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum For {
    /// The response's head, which the origin holds back
    Head,
    /// The second request: the first one was answered whole
    Next,
    /// The first request: nothing was sent
    First,
}

/// Options of `sseload waiting`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Waiting {
    /// What the connections wait for
    #[arg(long = "for", value_enum, default_value_t = For::Head)]
    pub what: For,
    /// Connections to open
    #[arg(long, default_value_t = 1000)]
    pub conns: usize,
    /// Seconds to hold them
    #[arg(long, default_value_t = 5.0)]
    pub hold: f64,
    /// Seconds between their end and the last look at the target's memory
    #[arg(long, default_value_t = 1.0)]
    pub rest: f64,
    /// Connections to open and close before memory is measured for the first time
    #[arg(long, default_value_t = 10)]
    pub warm_up: usize,
}

impl Waiting {
    /// Opens `n` connections, at most `opening` at a time, and brings each to where it waits.
    async fn open(&self, bench: &Bench<'_>, n: usize) -> Result<(Vec<TcpStream>, Failures)> {
        let (dialer, limit, waits_for) = (bench.dialer(), bench.open_limit(), self.what);
        let request = match waits_for {
            For::Head => bench.request("/hold"),
            For::Next => bench.request("/plain"),
            For::First => Vec::new(),
        };
        let before = bench.stats().await?.open_streams;
        let (mut tasks, mut open, mut failures) = (JoinSet::new(), Vec::with_capacity(n), Failures::default());
        for i in 0..n {
            if tasks.len() >= bench.common.opening.max(1)
                && let Some(opened) = tasks.join_next().await
            {
                take(opened?, &mut open, &mut failures);
            }
            let request = request.clone();
            tasks.spawn(within(limit, async move {
                let mut tcp = dialer.dial(i).await?;
                tcp.write_all(&request).await.map_err(Failure::Io)?;
                if waits_for == For::Next {
                    read_whole(&mut tcp).await?;
                }
                Ok(tcp)
            }));
        }
        while let Some(opened) = tasks.join_next().await {
            take(opened?, &mut open, &mut failures);
        }
        // The requests have reached the origin when it holds as many responses.
        let deadline = Instant::now() + limit;
        while waits_for == For::Head && Instant::now() < deadline {
            if bench.stats().await?.open_streams - before >= open.len() as i64 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok((open, failures))
    }

    /// Closes them and waits until the target has given back their files.
    async fn close(&self, bench: &Bench<'_>, open: Vec<TcpStream>, fds: usize) -> Result<()> {
        drop(open);
        let deadline = Instant::now() + RELEASE;
        while bench.tree.fds()? > fds && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn take(opened: Result<TcpStream, Failure>, open: &mut Vec<TcpStream>, failures: &mut Failures) {
    match opened {
        Ok(tcp) => open.push(tcp),
        Err(failure) => failures.add(&failure),
    }
}

async fn read_whole(tcp: &mut TcpStream) -> Result<(), Failure> {
    let (mut response, mut buffer) = (Response::default(), [0; 4096]);
    while !response.done() {
        let n = tcp.read(&mut buffer).await.map_err(Failure::Io)?;
        if n == 0 {
            return Err(Failure::Ended);
        }
        response.feed(&buffer[..n], &mut |_| Ok(()))?;
    }
    match response.status() {
        Some(200) => Ok(()),
        other => Err(Failure::Status(other.unwrap_or_default())),
    }
}

/// Whether the other side has neither closed the connection nor sent anything.
fn is_quiet(tcp: &TcpStream) -> bool {
    matches!(tcp.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

impl Workload for Waiting {
    const NAME: &'static str = "waiting";

    fn seconds(&self) -> f64 {
        self.hold + self.rest
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let tree = bench.tree;
        // It listens before it serves: what it sets up in between is none of its connections'.
        fetch(bench.target.addr, &bench.request("/plain")).await?;
        sleep(Duration::from_millis(500)).await;
        let fds = tree.fds()?;
        let (open, _) = self.open(bench, self.warm_up).await?;
        sleep(Duration::from_millis(500)).await;
        self.close(bench, open, fds).await?;
        sleep(Duration::from_millis(500)).await;
        let (memory_before, fds_before, cpu_before) = (tree.memory()?, tree.fds()?, tree.cpu()?);

        let (open, failures) = self.open(bench, self.conns).await?;
        let cpu_open = tree.cpu()?;
        sleep(Duration::from_secs_f64(self.hold)).await;
        let (memory_held, fds_held, cpu_held) = (tree.memory()?, tree.fds()?, tree.cpu()?);
        let mut report = Report::default();
        report.set("for", format!("{:?}", self.what).to_lowercase());
        report.set("conns", self.conns);
        report.number("hold", self.hold);
        report.set("opened", open.len());
        failures.report("not_opened", &mut report);
        report.set("dropped", open.iter().filter(|tcp| !is_quiet(tcp)).count());
        let n = open.len().max(1) as f64;
        self.close(bench, open, fds_before).await?;
        sleep(Duration::from_secs_f64(self.rest)).await;
        let (memory_after, fds_after) = (tree.memory()?, tree.fds()?);
        grown(&mut report, "bytes_per_conn", memory_before, memory_held, n);
        grown(&mut report, "kept_bytes_per_conn", memory_before, memory_after, n);
        report.number("fds_per_conn", (fds_held as f64 - fds_before as f64) / n);
        report.set("fds_kept", fds_after as i64 - fds_before as i64);
        report.number("open_cpu_ms_per_conn", (cpu_open - cpu_before) * 1e3 / n);
        report.number("hold_cpu_s", cpu_held - cpu_open);
        Ok(report)
    }
}
