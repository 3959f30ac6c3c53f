//! Origin, load and accounts for proxies that carry Server-Sent Events; see README.md.
//!
//! Everything runs on one machine: the origin, the proxies under load by turns, and the clients.

mod bench;
mod client;
mod clock;
mod crowd;
mod event;
mod forward;
mod opener;
mod origin;
mod procfs;
mod report;
mod run;
mod stream;
mod target;
mod transport;
mod wire;

use anyhow::Result;
use bench::{Common, drive};
use clap::{Parser, Subcommand};
use std::net::SocketAddrV4;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve event streams to be proxied
    Origin {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddrV4,
        /// Threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Forward TCP connections: the least that a proxy can do
    TcpForward {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddrV4,
        /// Address to forward to
        #[arg(long)]
        to: SocketAddrV4,
        /// Threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Hold streams on which nothing happens: memory per stream
    Idle {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::idle::Idle,
    },
    /// Read many streams with events at a steady rate: latency, loss, order, CPU time per event
    Latency {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::latency::Latency,
    },
    /// Read streams as fast as they go: events per second, CPU time per event
    Throughput {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::throughput::Throughput,
    },
    /// Open and drop streams at a steady rate: errors, leaks, streams left over at the origin
    Churn {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::churn::Churn,
    },
    /// Open streams and never read them: what they cost, and whether they are reset
    Slow {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::slow::Slow,
    },
    /// Make TLS connections and close them: CPU time per handshake
    Handshake {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::handshake::Handshake,
    },
    /// Hold connections that wait for a response's head or for a request: memory per connection
    Waiting {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        workload: run::waiting::Waiting,
    },
}

/// Lets this process open as many files as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Runs `work` on so many threads.
fn on_threads(threads: usize, work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        n => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(n);
            builder
        }
    };
    builder.enable_all().build()?.block_on(work)
}

fn main() -> Result<()> {
    raise_file_limit();
    match &Cli::parse().command {
        Command::Origin { listen, threads } => on_threads(*threads, origin::serve(*listen)),
        Command::TcpForward { listen, to, threads } => on_threads(*threads, forward::serve(*listen, *to)),
        // One thread makes the load, so that the proxy is not the one to starve.
        Command::Idle { common, workload } => on_threads(1, drive(workload, common)),
        Command::Latency { common, workload } => on_threads(1, drive(workload, common)),
        Command::Throughput { common, workload } => on_threads(1, drive(workload, common)),
        Command::Churn { common, workload } => on_threads(1, drive(workload, common)),
        Command::Slow { common, workload } => on_threads(1, drive(workload, common)),
        Command::Handshake { common, workload } => on_threads(1, drive(workload, common)),
        Command::Waiting { common, workload } => on_threads(1, drive(workload, common)),
    }
}

/// A listener with a long queue.
fn listen(addr: SocketAddrV4) -> std::io::Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr.into())?;
    socket.listen(4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
