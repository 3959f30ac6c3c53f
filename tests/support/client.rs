//! A client that sees the bytes that come.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes, also on a machine with a load of 30: a test that waits for this time has failed.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Polls until it holds, and asserts that it comes to that.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its framing, or for one without by the connection's end.
    Clean,
    /// The connection ended before the framing did.
    Broken,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The other side has nothing more to say.
    Closed,
    /// What was under way is lost.
    Reset,
}

/// To close `socket` is to reset it, once nobody holds it.
pub fn reset_on_close(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Nothing if the other side has gone; silence is no end.
fn in_time<T>(result: std::io::Result<T>) -> Option<T> {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match result {
        Err(error) if matches!(error.kind(), TimedOut | WouldBlock) => {
            panic!("nothing came in time: {error}")
        }
        result => result.ok(),
    }
}

/// What a connection's bytes pass through: its socket, or TLS over it.
pub trait Transport: Read + Write + Send {
    /// Ends the own direction.
    fn end_output(&mut self);
}

impl Transport for TcpStream {
    fn end_output(&mut self) {
        // Whoever was reset meanwhile has nothing left to close.
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// A client's connection.
pub struct Client {
    pub socket: TcpStream,
    reader: BufReader<Box<dyn Transport>>,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        Self::on(TcpStream::connect(addr).unwrap())
    }

    /// From this address of loopback, which has many.
    pub fn connect_from(source: [u8; 4], addr: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        Self::on(socket.into())
    }

    fn on(socket: TcpStream) -> Self {
        Self::over(socket, |socket| Box::new(socket))
    }

    /// Over this on top of the socket.
    pub fn over(
        socket: TcpStream,
        transport: impl FnOnce(TcpStream) -> Box<dyn Transport>,
    ) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        let reader = BufReader::new(transport(socket.try_clone().unwrap()));
        Self { socket, reader }
    }

    pub fn send(&mut self, bytes: &str) {
        self.send_bytes(bytes.as_bytes());
    }

    /// Sends it if the other side takes it: it may have closed the connection.
    pub fn try_send(&mut self, bytes: &str) -> bool {
        self.try_send_bytes(bytes.as_bytes()).is_ok()
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).unwrap();
    }

    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let transport = self.reader.get_mut();
        transport.write_all(bytes)?;
        transport.flush()
    }

    /// The response head, in lower case, with `\n` for line ends.
    pub fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.reader.read_line(&mut line).unwrap() > 0,
                "no whole head: {head:?}"
            );
            let line = line.trim_end();
            if line.is_empty() {
                return head;
            }
            head.push_str(&line.to_ascii_lowercase());
            head.push('\n');
        }
    }

    /// The response head, if the connection does not close without one.
    pub fn head_if_any(&mut self) -> Option<String> {
        let has_input = self.reader.fill_buf().is_ok_and(|input| !input.is_empty());
        has_input.then(|| self.head())
    }

    /// The head of an event stream that is empty but for a reconnection time, and this, in milliseconds.
    #[track_caller]
    pub fn retry_later(&mut self) -> (String, u64) {
        let head = self.head();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream\n"), "{head}");
        assert!(head.contains("cache-control: no-store\n"), "{head}");
        assert!(head.contains("x-accel-buffering: no\n"), "{head}");
        let len = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let body = self.bytes(len.unwrap().parse().unwrap());
        let body = String::from_utf8(body).unwrap();
        let retry = body
            .strip_prefix("retry: ")
            .and_then(|body| body.strip_suffix('\n'));
        let retry = retry.unwrap_or_else(|| panic!("{body:?}")).parse();
        (head, retry.unwrap())
    }

    /// The next HTTP chunk's data; empty at the last, nothing if the connection ends before.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        if in_time(self.reader.read_line(&mut size))? == 0 {
            return None;
        }
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut data = vec![0; size + 2];
        in_time(self.reader.read_exact(&mut data))?;
        data.truncate(size);
        Some(data)
    }

    /// Chunked data until `text` is in it.
    pub fn read_until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.chunk() {
                Some(data) if !data.is_empty() => seen.push_str(&String::from_utf8(data).unwrap()),
                _ => panic!("the stream ended before {text:?}: {seen:?}"),
            }
        }
        seen
    }

    /// All the chunked data that is left, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        let mut seen = Vec::new();
        loop {
            match self.chunk() {
                None => return (seen, End::Broken),
                Some(data) if data.is_empty() => return (seen, End::Clean),
                Some(data) => seen.extend(data),
            }
        }
    }

    /// Exactly so many bytes, as they are.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Everything up to the end of the connection, as it is.
    pub fn raw(&mut self) -> Vec<u8> {
        let mut seen = Vec::new();
        // A reset tells as much as an end.
        in_time(self.reader.read_to_end(&mut seen));
        seen
    }

    /// Everything up to the end of the connection, and which end that was.
    pub fn raw_and_end(&mut self) -> (Vec<u8>, Gone) {
        let mut seen = Vec::new();
        let gone = match in_time(self.reader.read_to_end(&mut seen)) {
            Some(_) => Gone::Closed,
            None => Gone::Reset,
        };
        (seen, gone)
    }

    /// Says that no more will come, and listens on.
    pub fn close_own_side(&mut self) {
        self.reader.get_mut().end_output();
    }

    /// Goes without a farewell.
    pub fn reset(self) {
        reset_on_close(&self.socket);
    }
}
