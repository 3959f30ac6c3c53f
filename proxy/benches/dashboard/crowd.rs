//! Clients of many addresses, and what they listen to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// At most this long between two events of a stream.
const PAUSE_MS: u64 = 6000;
/// Of so many clients one comes and goes.
const RESTLESS: usize = 12;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

pub(crate) struct Crowd {
    runtime: Runtime,
    streams: usize,
    pub(crate) origin: SocketAddr,
}

impl Crowd {
    /// The origin, which is asked by nobody yet.
    pub(crate) fn start(streams: usize) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let origin = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket));
            }
        });
        Self {
            runtime,
            streams,
            origin,
        }
    }

    /// Lets the clients in, which come again as often as they have gone.
    pub(crate) fn connect(&self, proxy: SocketAddr) {
        // A few more than have room.
        for number in 0..self.streams + self.streams / 100 {
            self.runtime.spawn(async move {
                // As many at once as the backlog of a listener takes.
                sleep(Duration::from_millis(number as u64 / 2)).await;
                loop {
                    listen(proxy, number).await;
                    sleep(Duration::from_millis(fastrand::u64(500..4000))).await;
                }
            });
        }
    }
}

/// Events of different sizes at different times; now and then an end, now and then a break.
async fn answer(socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    let mut restless = false;
    while line != "\r\n" {
        line.clear();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        restless |= line.starts_with("GET /v1/answers");
    }
    sleep(Duration::from_millis(fastrand::u64(1..200))).await;
    socket.write_all(HEAD.as_bytes()).await.ok()?;
    let pause = fastrand::u64(PAUSE_MS / 20..PAUSE_MS);
    for id in fastrand::u32(1000..9000).. {
        let data = "x".repeat(fastrand::usize(10..400));
        let event = format!("id: {id}\ndata: {data}\n\n");
        socket.write_all(event.as_bytes()).await.ok()?;
        if restless && fastrand::u8(..) < 12 {
            if fastrand::bool() {
                // A reset, not an end.
                let socket = socket2::SockRef::from(socket.get_ref());
                socket.set_linger(Some(Duration::ZERO)).ok()?;
            }
            return None;
        }
        let mut byte = [0];
        let quiet = Duration::from_millis(fastrand::u64(pause / 2..pause * 3 / 2));
        // What comes can only be the client's end.
        if timeout(quiet, socket.read(&mut byte)).await.is_ok() {
            return None;
        }
    }
    None
}

/// One stream of a client's, to its end or until it has enough.
async fn listen(proxy: SocketAddr, number: usize) -> Option<()> {
    let restless = number.is_multiple_of(RESTLESS);
    let path = match number % 3 {
        _ if restless => "/v1/answers",
        0 => "/prices",
        _ => "/feed",
    };
    // Some share an address, as offices do.
    let address = match number % 10 {
        0 => Ipv4Addr::new(203, 0, 113, (number / 10 % 7) as u8),
        _ => Ipv4Addr::new(198, 18, (number / 500) as u8, (number / 2 % 250) as u8),
    };
    let mut socket = TcpStream::connect(proxy).await.ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: crowd\r\nAccept: text/event-stream\r\n\
         X-Forwarded-For: {address}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut bytes = vec![0; 4096];
    let enough = Duration::from_millis(fastrand::u64(5_000..60_000));
    let all = async { while socket.read(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    if restless {
        return timeout(enough, all).await.ok();
    }
    all.await;
    Some(())
}
