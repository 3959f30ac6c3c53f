//! Clients that ask for an endless stream and never read it.
//!
//! What becomes of such a connection cannot be seen at the client's end: its window is shut, so that a
//! FIN would wait behind the data. The kernel's table of sockets tells: the server's end has left the
//! state "established" (closed), or is in the table no more (reset: the kernel holds nothing of it).

use crate::bench::{Bench, Workload};
use crate::client::within;
use crate::clock::{now_ns, secs};
use crate::procfs::{ESTABLISHED, sockets};
use crate::report::Report;
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Options of `sseload slow`.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Slow {
    /// Clients that do not read
    #[arg(long, default_value_t = 50)]
    pub conns: usize,
    /// Seconds to watch
    #[arg(long, default_value_t = 40.0)]
    pub secs: f64,
    /// Bytes per event
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// Receive buffer of the clients in bytes, that they take little themselves
    #[arg(long, default_value_t = 4096)]
    pub receive_buffer: u32,
}

/// When so many connections were gone.
#[derive(Default)]
struct Gone {
    /// At the last look but one, too: the table is read in pieces while it changes, so that one look
    /// may miss a socket.
    sure: usize,
    seen: usize,
    first_s: Option<f64>,
    all_s: Option<f64>,
}

impl Gone {
    fn look(&mut self, gone: usize, all: usize, at: f64) {
        self.sure = gone.min(self.seen);
        self.seen = gone;
        if self.sure > 0 {
            self.first_s.get_or_insert(at);
        }
        if self.sure == all {
            self.all_s.get_or_insert(at);
        }
    }

    fn report(&self, what: &str, report: &mut Report) {
        report.set(what, self.sure);
        report.number(&format!("first_{what}_s"), self.first_s);
        report.number(&format!("all_{what}_s"), self.all_s);
    }
}

impl Workload for Slow {
    const NAME: &'static str = "slow";

    fn seconds(&self) -> f64 {
        self.secs
    }

    async fn run(&self, bench: &Bench<'_>) -> Result<Report> {
        let n = self.conns as f64;
        let tree = bench.tree;
        let request = bench.request(&format!("/burst?events=0&size={}", self.size));
        let mut dialer = bench.dialer();
        dialer.receive_buffer = Some(self.receive_buffer);
        let stats_before = bench.stats().await?;
        let (cpu_before, memory_before) = (tree.cpu()?, tree.memory()?);
        let mut clients = Vec::new();
        for i in 0..self.conns {
            let tcp = within(bench.open_limit(), dialer.dial(i)).await;
            let mut tcp = tcp.map_err(|f| anyhow::anyhow!("connection {i}: {}", f.key()))?;
            tcp.write_all(&request).await.with_context(|| format!("connection {i}"))?;
            clients.push(tcp);
        }
        let begin = now_ns();
        let ours: HashSet<SocketAddr> = clients.iter().map(|c| c.local_addr()).collect::<Result<_, _>>()?;

        let (mut closed, mut reset) = (Gone::default(), Gone::default());
        let (mut rss, mut pss, mut held, mut unsent, mut unread, mut kernel) = (0, 0, 0, 0, 0, 0);
        let (mut cpu_halfway, mut streams_end) = (None, 0);
        while secs(begin, now_ns()) < self.secs {
            sleep(LOOK).await;
            let at = secs(begin, now_ns());
            let grown = tree.memory()? - memory_before;
            (rss, pss) = (rss.max(grown.rss), pss.max(grown.pss));
            if at > self.secs / 4.0 {
                held = held.max(grown.pss);
            }
            let (mut there, mut open, mut to_clients, mut from_origin) = (0, 0, 0, 0);
            for socket in sockets()? {
                if socket.local == bench.target.addr && ours.contains(&SocketAddr::V4(socket.remote)) {
                    there += 1;
                    open += usize::from(socket.state == ESTABLISHED);
                    to_clients += socket.send_queue;
                } else if socket.remote == bench.common.origin {
                    from_origin += socket.receive_queue;
                }
            }
            (unsent, unread) = (unsent.max(to_clients), unread.max(from_origin));
            kernel = kernel.max(to_clients + from_origin);
            closed.look(self.conns.saturating_sub(open), self.conns, at);
            reset.look(self.conns.saturating_sub(there), self.conns, at);
            streams_end = bench.stats().await?.open_streams - stats_before.open_streams;
            if cpu_halfway.is_none() && at > self.secs / 2.0 {
                cpu_halfway = Some(tree.cpu()?);
            }
        }
        let cpu_after = tree.cpu()?;
        drop(clients);
        sleep(Duration::from_secs(2)).await;
        let stats_after = bench.stats().await?;

        let mut report = Report::default();
        report.set("conns", self.conns);
        report.number("secs", self.secs);
        report.number("rss_peak_bytes_per_conn", rss as f64 / n);
        report.number("pss_peak_bytes_per_conn", pss as f64 / n);
        report.number("pss_held_bytes_per_conn", held as f64 / n);
        report.number("unsent_bytes_per_conn", unsent as f64 / n);
        report.number("unread_bytes_per_conn", unread as f64 / n);
        report.number("kernel_bytes_per_conn", kernel as f64 / n);
        report.number("taken_bytes_per_conn", (stats_after.bytes - stats_before.bytes) as f64 / n);
        report.number("cpu_s", cpu_after - cpu_before);
        report.number("cpu_s_second_half", cpu_halfway.map(|half| cpu_after - half));
        closed.report("closed", &mut report);
        reset.report("reset", &mut report);
        report.set("origin_streams_end", streams_end);
        report.set("origin_streams_after_close", stats_after.open_streams - stats_before.open_streams);
        Ok(report)
    }
}
