//! The upstream, a process of its own that can be killed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

/// Where the process is to listen, in its environment.
pub(crate) const LISTEN: &str = "OUTLIVE_LISTEN";
const LAST: &str = "OUTLIVE_LAST";

/// Between two chunks.
const PACE: Duration = Duration::from_millis(2);
/// Events of a chunk.
const BATCH: u64 = 40;

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    last: u64,
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Upstream {
    /// One that numbers its events from 1 to `last`; with 0, one that sends one event on each connection.
    pub(crate) async fn start(last: u64) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let (process, lines) = run(address, last).await;
        Self {
            address,
            last,
            process,
            lines,
        }
    }

    /// Kills it, and starts it again after a while.
    pub(crate) async fn restart(&mut self, away: Duration) {
        self.process.kill().await.unwrap();
        tokio::time::sleep(away).await;
        (self.process, self.lines) = run(self.address, self.last).await;
    }

    /// How often it was asked since its start, and how often in a second at the most.
    pub(crate) async fn asked(&mut self) -> (usize, usize) {
        self.process.start_kill().unwrap();
        let mut times: Vec<u64> = Vec::new();
        while let Ok(Some(line)) = self.lines.next_line().await {
            times.push(line.parse().unwrap());
        }
        let within =
            |from: usize| times[from..].partition_point(|time| *time < times[from] + 1_000);
        (times.len(), (0..times.len()).map(within).max().unwrap_or(0))
    }
}

async fn run(address: SocketAddr, last: u64) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .env(LISTEN, address.to_string())
        .env(LAST, last.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "listening");
    (process, lines)
}

/// The process: tells when it was asked, in milliseconds since its start.
pub(crate) async fn serve(address: &str) {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let last = std::env::var(LAST).unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address.parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(4_096).unwrap();
    println!("listening");
    let start = Instant::now();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            // The proxy may go first.
            let _ = answer(socket, last, start).await;
        });
    }
}

async fn answer(socket: TcpStream, last: u64, start: Instant) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut socket = BufReader::new(socket);
    let mut next = 1;
    let mut line = String::new();
    while socket.read_line(&mut line).await? > 2 {
        if let Some(("last-event-id", id)) = line.trim_end().split_once(": ") {
            next = id.parse::<u64>().unwrap() + 1;
        }
        line.clear();
    }
    if last == 0 {
        println!("{}", start.elapsed().as_millis());
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await?;
    if last == 0 {
        socket.write_all(chunk(&event(next)).as_bytes()).await?;
    }
    let mut held = String::new();
    while next <= last {
        let end = (next + fastrand::u64(1..=BATCH)).min(last + 1);
        for id in next..end {
            held.push_str(&event(id));
        }
        next = end;
        // Chunks end anywhere but at the ends of events.
        let keep = if next > last {
            0
        } else {
            fastrand::usize(..held.len())
        };
        let rest = held.split_off(held.len() - keep);
        socket.write_all(chunk(&held).as_bytes()).await?;
        held = rest;
        // Else all of it would wait in sockets before the first kill.
        tokio::time::sleep(PACE).await;
    }
    // To its client's end.
    socket.read_line(&mut line).await?;
    Ok(())
}

fn event(id: u64) -> String {
    format!("id: {id}\ndata: {id}\n\n")
}

fn chunk(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("{:x}\r\n{text}\r\n", text.len()),
    }
}
