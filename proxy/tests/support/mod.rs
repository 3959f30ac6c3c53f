//! The real binary, an origin that sends just the bytes it is told to, and a client that sees the
//! bytes that come: all on plain sockets, so that neither side hides anything.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses its part"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

#[path = "../../../tests/support/client.rs"]
mod client;
#[path = "../../../tests/support/http2.rs"]
pub mod http2;
pub mod http2_origin;
mod origin;
pub mod tls;
pub mod ways;

use client::reset_on_close;
pub use client::{Client, End, Gone, PATIENCE, wait_until};
pub use origin::{Answer, Origin, ReceivedRequest};

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Where one side of a test waits for a word of the other.
pub struct Gate(Mutex<Receiver<()>>);

pub fn gate() -> (Sender<()>, Gate) {
    let (open, gate) = channel();
    (open, Gate(Mutex::new(gate)))
}

impl Gate {
    pub fn wait(&self) {
        self.0.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    }

    /// Until a word comes, or none can come any more.
    pub fn opens(&self) -> bool {
        self.0.lock().unwrap().recv().is_ok()
    }

    /// For a word from now on.
    pub fn wait_anew(&self) {
        let gate = self.0.lock().unwrap();
        while gate.try_recv().is_ok() {}
        gate.recv_timeout(PATIENCE).unwrap();
    }
}

/// An address that no socket listens on. Its port is below those that the kernel chooses, so that no other socket gets it
/// meanwhile.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Another binary of tests may run beside this one.
    let start = std::process::id().wrapping_mul(127);
    loop {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Tells what the machine cannot do, past the harness, which hides what a test that passes says.
pub fn skipped(why: &str) {
    let line = format!("skipped: {}\n", why.replace('\n', "; "));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

const IMMEDIATE: &str = "SSE_GUARD_HEARTBEAT_IMMEDIATE";
const BINARY: &str = env!("CARGO_BIN_EXE_sse-guard");

/// A command with two sockets, as a service manager passes them.
#[cfg(unix)]
pub fn activated_by(sockets: [OwnedFd; 2], names: &str, flags: &[&str]) -> Command {
    let mut shell = Command::new("/bin/sh");
    let activate = "exec 3<&0 4>&1 </dev/null >/dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let [first, second] = sockets;
    shell
        .args(["-c", activate, BINARY])
        .args(flags)
        .env_clear()
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", names)
        .stdin(first)
        .stdout(second);
    shell
}

/// The binary, with so many files at the most.
fn limited(files: usize) -> Command {
    let mut shell = Command::new("/bin/sh");
    let limited = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    shell.args(["-c", &limited, BINARY]);
    shell
}

/// The binary in a network that this file of the kernel's stands for.
fn in_network(network: &str) -> Command {
    let mut there = Command::new("nsenter");
    there.arg(format!("--net={network}")).arg(BINARY);
    there
}

/// A running `sse-guard`, killed on drop.
pub struct Proxy {
    child: Child,
    pub addr: SocketAddr,
    log: Arc<(Mutex<Log>, Condvar)>,
}

#[derive(Default)]
struct Log {
    text: String,
    /// The process has ended.
    is_over: bool,
}

impl Proxy {
    /// In front of `origin`, on a free port, with more flags.
    pub fn start(origin: SocketAddr, flags: &[&str]) -> Self {
        let upstream = format!("http://{origin}");
        let mut all = vec!["--upstream-url", &upstream];
        all.extend(flags);
        Self::with_flags(&all)
    }

    /// On a free port, with just these flags.
    pub fn with_flags(flags: &[&str]) -> Self {
        Self::listening("127.0.0.1:0", flags)
    }

    /// On this address, with just these flags.
    pub fn listening(address: &str, flags: &[&str]) -> Self {
        Self::run(Command::new(BINARY), address, flags)
    }

    /// In front of `origin`, on a free port, with so many files at the most.
    pub fn with_few_files(limit: usize, origin: impl Display, flags: &[&str]) -> Self {
        let upstream = format!("http://{origin}");
        let mut all = vec!["--upstream-url", &upstream];
        all.extend(flags);
        Self::run(limited(limit), "127.0.0.1:0", &all)
    }

    /// With just these arguments: on the addresses that they or the defaults name.
    pub fn with_arguments(arguments: &[&str]) -> Self {
        Self::by(Command::new(BINARY), arguments)
    }

    fn by(mut command: Command, arguments: &[&str]) -> Self {
        command.args(arguments);
        command.env_clear();
        Self::spawn(command)
    }

    /// With just these arguments, and with so many files at the most.
    pub fn with_few_files_and_arguments(limit: usize, arguments: &[&str]) -> Self {
        Self::by(limited(limit), arguments)
    }

    /// On the host of a network that this file of the kernel's stands for.
    pub fn in_network(network: &str, address: &str, flags: &[&str]) -> Self {
        Self::run(in_network(network), address, flags)
    }

    /// The same with just these arguments.
    pub fn in_network_with(network: &str, arguments: &[&str]) -> Self {
        Self::by(in_network(network), arguments)
    }

    /// By what this file says, also of its addresses.
    pub fn from_file(file: &Path) -> Self {
        Self::from_file_with(file, &[])
    }

    /// The same, with more in the environment.
    pub fn from_file_with(file: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(variables.iter().copied());
        command.arg("--config").arg(file);
        Self::spawn(command)
    }

    fn run(mut command: Command, address: &str, flags: &[&str]) -> Self {
        command
            .args(["--listen", address])
            .args(flags)
            .env_clear()
            // A test that stops it does not wait for its default window.
            .env("SSE_GUARD_DRAIN_WINDOW", "0s")
            .env("SSE_GUARD_DRAIN_ANSWERS", "0s")
            // Tests run side by side, and there is one port that it has by default.
            .env("SSE_GUARD_ADMIN_LISTEN", "off");
        Self::spawn(command)
    }

    /// On sockets that it inherits, as from a service manager: for clients, and for the operator.
    #[cfg(unix)]
    pub fn activated(clients: &TcpListener, admin: &TcpListener, flags: &[&str]) -> Self {
        let duplicate = |socket: &TcpListener| OwnedFd::from(socket.try_clone().unwrap());
        let sockets = [duplicate(clients), duplicate(admin)];
        Self::spawn_with_output(activated_by(sockets, "web:admin", flags))
    }

    /// On two sockets that it inherits under these names.
    #[cfg(unix)]
    pub fn activated_with(sockets: [OwnedFd; 2], names: &str, flags: &[&str]) -> Self {
        Self::spawn_with_output(activated_by(sockets, names, flags))
    }

    fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::null());
        Self::spawn_with_output(command)
    }

    fn spawn_with_output(mut command: Command) -> Self {
        // Whether an upstream's first event comes with its head is a race, and so is whether a heartbeat
        // comes before it: tests compare bytes. Those of the first heartbeat set it.
        if !command.get_envs().any(|(name, _)| name == IMMEDIATE) {
            command.env(IMMEDIATE, "false");
        }
        let mut child = command
            .args(["--log-format", "json"])
            // They wait for lines.
            .env("SSE_GUARD_LOG_STREAM_RATE", "off")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::<(Mutex<Log>, Condvar)>::default();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = log.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = lines.0.lock().unwrap();
                log.text.push_str(&line);
                log.text.push('\n');
                lines.1.notify_all();
            }
            lines.0.lock().unwrap().is_over = true;
            lines.1.notify_all();
        });
        let mut proxy = Self {
            child,
            addr: ([127, 0, 0, 1], 0).into(),
            log,
        };
        let line = proxy.wait_for_log("listening on ");
        // A Unix socket has no address.
        if let Some((_, addr)) = line.split_once("listening on http") {
            let addr = addr.trim_start_matches("s").trim_start_matches("://");
            proxy.addr = addr.split('"').next().unwrap().parse().unwrap();
        }
        proxy
    }

    /// The address for the operator, if a flag gives it one.
    pub fn admin(&self) -> SocketAddr {
        let line = self.wait_for_log("stream table on http://");
        let addr = line.split("stream table on http://").nth(1).unwrap();
        addr.split('"').next().unwrap().parse().unwrap()
    }

    /// The first line of the log with `text` in it, when it is there.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_lines(text, 1).remove(0)
    }

    /// All lines with `text` in them, when there are so many.
    pub fn wait_for_log_lines(&self, text: &str, count: usize) -> Vec<String> {
        let (log, more) = &*self.log;
        let lines = |log: &Log| -> Vec<String> {
            let lines = log.text.lines();
            lines
                .filter(|line| line.contains(text))
                .map(Into::into)
                .collect()
        };
        let (log, _) = more
            .wait_timeout_while(log.lock().unwrap(), PATIENCE, |log| {
                lines(log).len() < count && !log.is_over
            })
            .unwrap();
        let found = lines(&log);
        assert!(
            found.len() >= count,
            "no {count} lines with {text:?} in the log:\n{}",
            log.text
        );
        found
    }

    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().text.clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many files it has open.
    #[cfg(target_os = "linux")]
    pub fn files(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        files.unwrap().count()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// SIGTERM, then the numbers of its last log line.
    pub fn stop(&mut self) -> serde_json::Value {
        self.signal("-TERM");
        assert!(self.wait().success());
        serde_json::from_str(&self.wait_for_log("\"stopped\"")).unwrap()
    }

    /// Opens a connection and sends a request for `path` that accepts an event stream.
    pub fn get(&self, path: &str) -> Client {
        self.send_request(&format!(
            "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nAccept: text/event-stream\r\n\r\n"
        ))
    }

    /// Opens a connection and sends `bytes`.
    pub fn send_request(&self, bytes: &str) -> Client {
        let mut client = Client::connect(self.addr);
        client.send(bytes);
        client
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
