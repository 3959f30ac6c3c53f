//! A server that sends exactly the bytes that a test gives it.

use super::{PATIENCE, reset_on_close};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// A request, as it came to the origin.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Request line and fields, with `\n` for line ends.
    pub head: String,
    pub path: String,
}

impl ReceivedRequest {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// An upstream: each connection is one request, answered by a function that writes what it likes.
/// An answer behind which another request comes has to say `Connection: close`, as the connection
/// is: another request might else be put to it.
pub struct Origin {
    pub addr: SocketAddr,
    listener: TcpListener,
    open: Arc<(Mutex<usize>, Condvar)>,
    served: Arc<AtomicUsize>,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
}

/// The connection that a request came on.
pub struct Answer {
    pub socket: TcpStream,
    reader: BufReader<Transport>,
    resets: bool,
    is_truncated: bool,
}

/// What its bytes pass through.
enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(tls) => tls.read(bytes),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl Transport {
    /// Nothing if the handshake fails.
    fn accept(socket: TcpStream, config: Option<Arc<ServerConfig>>) -> Option<Self> {
        let Some(config) = config else {
            return Some(Self::Plain(socket));
        };
        let mut tls = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock).ok()?;
        }
        Some(Self::Tls(Box::new(tls)))
    }

    /// Says over TLS that what was sent is complete.
    fn end(&mut self) {
        if let Self::Tls(tls) = self {
            tls.conn.send_close_notify();
            let _ = tls.conn.write_tls(&mut tls.sock);
        }
    }
}

impl Answer {
    /// Bytes as they are. Whether they were taken.
    pub fn raw(&mut self, bytes: &[u8]) -> bool {
        let to = self.reader.get_mut();
        to.write_all(bytes).and_then(|()| to.flush()).is_ok()
    }

    /// The head of a chunked event stream.
    pub fn stream(&mut self) -> bool {
        self.raw(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
    }

    /// One HTTP chunk.
    pub fn chunk(&mut self, data: impl AsRef<[u8]>) -> bool {
        let data = data.as_ref();
        let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\r\n");
        self.raw(&bytes)
    }

    /// The last chunk: the proper end of the message.
    pub fn end(&mut self) -> bool {
        self.raw(b"0\r\n\r\n")
    }

    /// Takes exactly so many bytes of the request's body as they come.
    pub fn body(&mut self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len];
        self.reader.read_exact(&mut body).unwrap();
        body
    }

    /// What comes until the other side is gone, however it goes.
    pub fn rest_of_input(&mut self) -> Vec<u8> {
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// The next request on this connection, if one comes.
    pub fn next_request(&mut self) -> Option<ReceivedRequest> {
        read_request(&mut self.reader)
    }

    /// The connection is reset when the answer is done, not closed.
    pub fn reset(&mut self) {
        self.resets = true;
    }

    /// Over TLS, the connection ends without the word that what was sent is complete.
    pub fn truncate(&mut self) {
        self.is_truncated = true;
    }

    /// Waits until the other side is gone. Whether it went in time.
    pub fn wait_for_close(&mut self) -> bool {
        // A stream that is held has to outlast everything that its test waits for.
        self.socket.set_read_timeout(Some(10 * PATIENCE)).unwrap();
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => {
                [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof].contains(&error.kind())
            }
        }
    }
}

impl Origin {
    /// On a free port; `answer` runs on a thread of its own for each request.
    pub fn start(answer: impl Fn(ReceivedRequest, &mut Answer) + Send + Sync + 'static) -> Self {
        Self::listening("127.0.0.1:0", answer)
    }

    /// Streams of one event, which stay open until the other side disconnects.
    pub fn held() -> Self {
        Self::holding("data: 1\n\n")
    }

    /// As `held`, with this event.
    pub fn holding(event: &'static str) -> Self {
        Self::start(move |_, to| {
            to.stream();
            to.chunk(event);
            to.wait_for_close();
        })
    }

    /// Plain responses, and at `/feed` a stream of one event that stays open.
    pub fn with_feed() -> Self {
        Self::start(|request, to| {
            if request.path == "/feed" {
                to.stream();
                to.chunk("data: 1\n\n");
                to.wait_for_close();
                return;
            }
            to.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        })
    }

    /// On a free port, over TLS.
    pub fn over_tls(
        config: ServerConfig,
        answer: impl Fn(ReceivedRequest, &mut Answer) + Send + Sync + 'static,
    ) -> Self {
        Self::serving("127.0.0.1:0", Some(Arc::new(config)), answer)
    }

    /// On this address.
    pub fn listening(
        address: &str,
        answer: impl Fn(ReceivedRequest, &mut Answer) + Send + Sync + 'static,
    ) -> Self {
        Self::serving(address, None, answer)
    }

    fn serving(
        address: &str,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(ReceivedRequest, &mut Answer) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let origin = Self {
            addr: listener.local_addr().unwrap(),
            listener: listener.try_clone().unwrap(),
            open: Arc::default(),
            served: Arc::default(),
            received: Arc::default(),
        };
        let (open, served, received) = (
            origin.open.clone(),
            origin.served.clone(),
            origin.received.clone(),
        );
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (answer, open) = (answer.clone(), open.clone());
                let (served, received) = (served.clone(), received.clone());
                let tls = tls.clone();
                *open.0.lock().unwrap() += 1;
                open.1.notify_all();
                thread::spawn(move || {
                    socket.set_nodelay(true).unwrap();
                    let transport = Transport::accept(socket.try_clone().unwrap(), tls);
                    let mut reader = transport.map(BufReader::new);
                    let request = reader.as_mut().and_then(read_request);
                    if let (Some(request), Some(reader)) = (request, reader) {
                        served.fetch_add(1, SeqCst);
                        received.lock().unwrap().push(request.clone());
                        let mut to = Answer {
                            socket,
                            reader,
                            resets: false,
                            is_truncated: false,
                        };
                        answer(request, &mut to);
                        if to.resets {
                            reset_on_close(&to.socket);
                        } else {
                            if !to.is_truncated {
                                to.reader.get_mut().end();
                            }
                            let _ = to.socket.shutdown(Shutdown::Both);
                        }
                    }
                    *open.0.lock().unwrap() -= 1;
                    open.1.notify_all();
                });
            }
        });
        origin
    }

    /// Takes no connections any more; those that are open go on.
    pub fn stop_listening(&self) {
        let listener = socket2::SockRef::from(&self.listener);
        listener.shutdown(Shutdown::Both).unwrap();
    }

    /// Requests that came.
    pub fn served(&self) -> usize {
        self.served.load(SeqCst)
    }

    /// The last request that came.
    pub fn last_request(&self) -> ReceivedRequest {
        self.received.lock().unwrap().last().unwrap().clone()
    }

    /// Waits until so many connections are open, and asserts that it comes to that.
    pub fn wait_for_open(&self, count: usize) {
        let (open, changed) = &*self.open;
        let (open, _) = changed
            .wait_timeout_while(open.lock().unwrap(), PATIENCE, |open| *open != count)
            .unwrap();
        assert_eq!(*open, count, "connections open at the origin");
    }
}

pub fn read_request(reader: &mut impl BufRead) -> Option<ReceivedRequest> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        head.push_str(line);
        head.push('\n');
    }
    let path = head.split(' ').nth(1)?.to_owned();
    Some(ReceivedRequest { head, path })
}
