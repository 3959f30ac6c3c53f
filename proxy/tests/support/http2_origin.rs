//! An upstream of HTTP/2: each request is answered by a function on a task of its own.

use super::PATIENCE;
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode, request};
use rustls::ServerConfig;
use sse_guard::serve::Io;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// What a test does to a connection.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// It takes no more streams, and ends behind those that it has.
    GoAway,
    /// It ends at once.
    Drop,
}

/// A request, and the way to answer it.
pub struct Exchange {
    pub head: request::Parts,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
    /// The number of its connection.
    pub connection: usize,
    commands: UnboundedSender<Command>,
}

type Answer = dyn Fn(Exchange) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

pub struct Http2Origin {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(usize, request::Parts)>>>,
    commands: Arc<Mutex<Vec<UnboundedSender<Command>>>>,
}

impl Http2Origin {
    /// On a free port, by prior knowledge.
    pub fn start<F>(answer: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), None, answer)
    }

    /// With these settings, and over TLS if there is a config.
    pub fn with<F>(
        builder: Builder,
        tls: Option<ServerConfig>,
        answer: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(None, builder, tls, answer)
    }

    /// On this Unix socket.
    pub fn unix<F>(path: &Path, answer: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::on(Some(path), Builder::new(), None, answer)
    }

    fn on<F>(
        path: Option<&Path>,
        builder: Builder,
        tls: Option<ServerConfig>,
        answer: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let unix = path.map(|path| {
            let unix = std::os::unix::net::UnixListener::bind(path).unwrap();
            unix.set_nonblocking(true).unwrap();
            unix
        });
        let this = Self {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
            open: Arc::default(),
            requests: Arc::default(),
            commands: Arc::default(),
        };
        let answer: Arc<Answer> = Arc::new(move |exchange| Box::pin(answer(exchange)));
        let (connections, open) = (this.connections.clone(), this.open.clone());
        let (requests, commands) = (this.requests.clone(), this.commands.clone());
        let tls = tls.map(Arc::new);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let unix = unix.map(|unix| UnixListener::from_std(unix).unwrap());
                loop {
                    let mut io = match &unix {
                        Some(unix) => Io::from(unix.accept().await.unwrap().0),
                        None => Io::from(listener.accept().await.unwrap().0),
                    };
                    let number = connections.fetch_add(1, SeqCst);
                    let (sender, receiver) = unbounded_channel();
                    commands.lock().unwrap().push(sender.clone());
                    if let Some(tls) = &tls {
                        io = io.accept_tls(tls.clone()).unwrap();
                    }
                    let (builder, answer) = (builder.clone(), answer.clone());
                    let requests = requests.clone();
                    open.fetch_add(1, SeqCst);
                    let open = open.clone();
                    tokio::spawn(async move {
                        if let Ok(connection) = builder.handshake(io).await {
                            let serve = Serve {
                                number,
                                answer,
                                requests,
                                sender,
                                receiver,
                            };
                            serve.run(connection).await;
                        }
                        open.fetch_sub(1, SeqCst);
                    });
                }
            });
        });
        this
    }

    /// Streams of one event, which stay open.
    pub fn held() -> Self {
        Self::start(|mut exchange| async move {
            let mut stream = exchange.stream();
            send(&mut stream, "data: 1\n\n").await;
            exchange.until_reset(&mut stream).await;
        })
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// The requests, each with the number of its connection.
    pub fn requests(&self) -> Vec<(usize, request::Parts)> {
        self.requests.lock().unwrap().clone()
    }

    pub fn command(&self, connection: usize, command: Command) {
        let commands = self.commands.lock().unwrap();
        let _ = commands[connection].send(command);
    }
}

struct Serve {
    number: usize,
    answer: Arc<Answer>,
    requests: Arc<Mutex<Vec<(usize, request::Parts)>>>,
    sender: UnboundedSender<Command>,
    receiver: UnboundedReceiver<Command>,
}

impl Serve {
    async fn run(mut self, mut connection: Connection<Io, Bytes>) {
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => self.answer(request, respond),
                    _ => return,
                },
                command = self.receiver.recv() => match command {
                    Some(Command::GoAway) => connection.graceful_shutdown(),
                    _ => return,
                },
            }
        }
    }

    fn answer(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let (head, body) = request.into_parts();
        self.requests
            .lock()
            .unwrap()
            .push((self.number, head.clone()));
        let exchange = Exchange {
            head,
            body,
            respond,
            connection: self.number,
            commands: self.sender.clone(),
        };
        tokio::spawn((self.answer)(exchange));
    }
}

impl Exchange {
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    pub fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// The head of an event stream.
    pub fn stream(&mut self) -> SendStream<Bytes> {
        let head = Response::builder().header("content-type", "text/event-stream");
        self.respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap()
    }

    /// A whole response.
    pub fn text(&mut self, status: u16, text: &str) {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(status).unwrap();
        head.headers_mut().insert(CONTENT_LENGTH, text.len().into());
        let mut stream = self.respond.send_response(head, false).unwrap();
        stream
            .send_data(Bytes::copy_from_slice(text.as_bytes()), true)
            .unwrap();
    }

    /// The request's whole body.
    pub async fn read(&mut self) -> Vec<u8> {
        let mut seen = Vec::new();
        while let Some(Ok(data)) = self.body.data().await {
            let _ = self.body.flow_control().release_capacity(data.len());
            seen.extend_from_slice(&data);
        }
        seen
    }

    /// Waits until the stream is reset, and returns by what.
    pub async fn until_reset(&self, stream: &mut SendStream<Bytes>) -> Option<Reason> {
        let reset = poll_fn(|cx| stream.poll_reset(cx));
        timeout(10 * PATIENCE, reset).await.unwrap().ok()
    }
}

/// Sends data as the window allows. Whether the stream has taken it.
pub async fn send(stream: &mut SendStream<Bytes>, text: &str) -> bool {
    let mut data = Bytes::copy_from_slice(text.as_bytes());
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(Ok(granted)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return false;
        };
        let piece = data.split_to(granted.min(data.len()));
        if stream.send_data(piece, false).is_err() {
            return false;
        }
    }
    true
}
