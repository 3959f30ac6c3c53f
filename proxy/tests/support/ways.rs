//! The ways to connect, HTTP/1.1 and HTTP/2 in plain text and over TLS, so that one test runs over each.

use super::client::{Client, End, PATIENCE, Transport, reset_on_close};
use super::http2::Http2;
use super::tls::{Authority, Files};
use super::{Proxy, http2};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::Request;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sse_guard::serve::Io;
use std::future::poll_fn;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Where connections of HTTP/2 run while the test blocks.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
});

/// How a client connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Http1,
    Tls,
    Http2,
    Http2Tls,
}

impl Way {
    pub const ALL: [Self; 4] = [Self::Http1, Self::Tls, Self::Http2, Self::Http2Tls];
    /// Those that other tests do not have.
    pub const TWINS: [Self; 3] = [Self::Tls, Self::Http2, Self::Http2Tls];

    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }

    pub fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Http2Tls)
    }
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The connection closes; over TLS without a word.
    Close,
    /// The connection is reset.
    Reset,
    /// The client ends its connection as its protocols have it: a `close_notify`, and before it a RST_STREAM with HTTP/2.
    Proper,
}

impl Death {
    pub const ALL: [Self; 3] = [Self::Close, Self::Reset, Self::Proper];
}

/// A proxy with two listeners, a plain one and one over TLS, both of which serve HTTP/2.
pub struct Ways {
    pub proxy: Proxy,
    pub tls_addr: SocketAddr,
    pub authority: Authority,
    pub files: Files,
}

impl Ways {
    /// In front of `upstream`, with more flags.
    pub fn start(upstream: &str, flags: &[&str]) -> Self {
        Self::with_authority(Authority::new("test CA"), upstream, flags)
    }

    /// That also trusts upstreams of this CA.
    pub fn with_authority(authority: Authority, upstream: &str, flags: &[&str]) -> Self {
        let files = Files::new();
        let ca = files.write("ca.pem", &authority.pem());
        let config = Self::write_config(&authority, &files, ["127.0.0.1:0"; 2]);
        let mut arguments = vec!["--config", &config, "--upstream-url", upstream];
        if upstream.starts_with("https") {
            arguments.extend(["--upstream-tls-ca", &ca]);
        }
        arguments.extend(flags);
        let proxy = Proxy::with_arguments(&arguments);
        let tls_addr = Self::tls_addr_of(&proxy);
        Self {
            proxy,
            tls_addr,
            authority,
            files,
        }
    }

    /// A config with listeners on these addresses, the second of which has TLS. Returns the file's path.
    pub fn write_config(authority: &Authority, files: &Files, addresses: [&str; 2]) -> String {
        let pem = authority.issue(&["app.test"]);
        let certificate = files.write("app.pem", &pem.certificate);
        let key = files.write("app.key", &pem.key);
        let [plain, tls] = addresses;
        files.write(
            "guard.toml",
            &format!(
                "admin.listen = 'off'\ndrain = {{ window = '0s', answers = '0s' }}\n\
                 [[listener]]\nname = 'plain'\naddress = '{plain}'\nhttp2 = true\n\
                 [[listener]]\nname = 'tls'\naddress = '{tls}'\ntls = {{ certificate = '{certificate}', key = '{key}' }}\n"
            ),
        )
    }

    pub fn tls_addr_of(proxy: &Proxy) -> SocketAddr {
        let line = proxy.wait_for_log("listening on https://");
        let (_, addr) = line.split_once("listening on https://").unwrap();
        addr.split('"').next().unwrap().parse().unwrap()
    }

    pub fn addr(&self, way: Way) -> SocketAddr {
        match way.has_tls() {
            true => self.tls_addr,
            false => self.proxy.addr,
        }
    }

    pub fn connect(&self, way: Way) -> Peer {
        Peer::connect(way, self.addr(way), &self.authority)
    }

    /// Sends a GET that accepts an event stream.
    pub fn get(&self, way: Way, path: &str) -> Peer {
        let mut peer = self.connect(way);
        peer.get(path);
        peer
    }
}

/// Trusts the CA, and selects this protocol by ALPN.
pub fn client_config(authority: &Authority, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("app.test").unwrap()
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Transport for Tls {
    fn end_output(&mut self) {
        self.conn.send_close_notify();
        let _ = self.conn.write_tls(&mut self.sock);
        let _ = self.sock.shutdown(Shutdown::Write);
    }
}

/// A client with one request at a time.
pub struct Peer {
    protocol: Protocol,
    /// The response's head, in lower case.
    pub head: String,
}

enum Protocol {
    Http1(Client),
    Http2(Box<Exchange>),
}

/// A connection of HTTP/2, and its request.
struct Exchange {
    client: Http2,
    /// That of the connection.
    socket: TcpStream,
    upload: Option<SendStream<Bytes>>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Peer {
    pub fn connect(way: Way, addr: SocketAddr, authority: &Authority) -> Self {
        Self::on(way, TcpStream::connect(addr).unwrap(), authority)
    }

    pub fn on(way: Way, socket: TcpStream, authority: &Authority) -> Self {
        let protocol = if way.is_http2() {
            Protocol::Http2(Box::new(Exchange::connect(way, socket, authority)))
        } else {
            Protocol::Http1(Client::over(socket, |socket| match way.has_tls() {
                false => Box::new(socket),
                true => {
                    let config = client_config(authority, b"http/1.1");
                    let tls = ClientConnection::new(config, server_name()).unwrap();
                    Box::new(StreamOwned::new(tls, socket))
                }
            }))
        };
        Self {
            protocol,
            head: String::new(),
        }
    }

    /// Sends a GET that accepts an event stream.
    pub fn get(&mut self, path: &str) {
        match &mut self.protocol {
            Protocol::Http1(client) => client.send(&format!(
                "GET {path} HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n"
            )),
            Protocol::Http2(exchange) => exchange.send(Request::get(url(path)), true),
        }
    }

    /// Begins a POST that accepts an event stream, with a body of this length.
    pub fn post(&mut self, path: &str, len: usize) {
        match &mut self.protocol {
            Protocol::Http1(client) => client.send(&format!(
                "POST {path} HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\
                 Content-Length: {len}\r\n\r\n"
            )),
            Protocol::Http2(exchange) => {
                let request = Request::post(url(path)).header("content-length", len);
                exchange.send(request, false);
            }
        }
    }

    /// Sends a part of the body, the last one or another. Returns whether it was taken.
    pub fn upload(&mut self, part: &[u8], is_last: bool) -> bool {
        match &mut self.protocol {
            Protocol::Http1(client) => client.try_send_bytes(part).is_ok(),
            Protocol::Http2(exchange) => exchange.upload(part, is_last),
        }
    }

    /// The status of the response, if there is one.
    pub fn status(&mut self) -> Option<u16> {
        match &mut self.protocol {
            Protocol::Http1(client) => {
                self.head = client.head_if_any()?;
                Some(self.head[9..12].parse().unwrap())
            }
            Protocol::Http2(exchange) => {
                let response = exchange.response.take().unwrap();
                let response = RUNTIME.block_on(async { timeout(PATIENCE, response).await });
                let response = response.unwrap().ok()?;
                let (parts, body) = response.into_parts();
                for (name, value) in &parts.headers {
                    let value = value.to_str().unwrap().to_ascii_lowercase();
                    self.head.push_str(&format!("{name}: {value}\n"));
                }
                exchange.body = Some(body);
                Some(parts.status.as_u16())
            }
        }
    }

    /// Asserts that a stream begins, and reads until `text` is in it.
    #[track_caller]
    pub fn opened(&mut self, text: &str) -> String {
        assert_eq!(self.status(), Some(200), "{}", self.head);
        self.read_until(text)
    }

    /// Reads until `text` is in it.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> String {
        match &mut self.protocol {
            Protocol::Http1(client) => client.read_until(text),
            Protocol::Http2(exchange) => {
                let mut seen = String::new();
                while !seen.contains(text) {
                    match exchange.frame() {
                        Some(Ok(data)) => seen.push_str(std::str::from_utf8(&data).unwrap()),
                        end => panic!("the stream ended before {text:?}: {seen:?} {end:?}"),
                    }
                }
                seen
            }
        }
    }

    /// What is left of the response, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        match &mut self.protocol {
            Protocol::Http1(client) => {
                let mut fields = self.head.lines();
                match fields.find_map(|field| field.strip_prefix("content-length: ")) {
                    Some(len) => (client.bytes(len.parse().unwrap()), End::Clean),
                    None => client.rest(),
                }
            }
            Protocol::Http2(exchange) => {
                let mut seen = Vec::new();
                loop {
                    match exchange.frame() {
                        Some(Ok(data)) => seen.extend(data),
                        Some(Err(_)) => return (seen, End::Broken),
                        None => return (seen, End::Clean),
                    }
                }
            }
        }
    }

    /// Goes, whatever it waits for.
    pub fn die(self, death: Death) {
        match self.protocol {
            Protocol::Http1(mut client) => match death {
                Death::Close => drop(client),
                Death::Reset => client.reset(),
                Death::Proper => client.close_own_side(),
            },
            Protocol::Http2(exchange) => exchange.die(death),
        }
    }

    /// Ends its own direction of the connection, with a `close_notify` over TLS by HTTP/1.1.
    pub fn close_own_side(&mut self) {
        match &mut self.protocol {
            Protocol::Http1(client) => client.close_own_side(),
            Protocol::Http2(exchange) => exchange.socket.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// The client of HTTP/1.1.
    pub fn http1(&mut self) -> &mut Client {
        match &mut self.protocol {
            Protocol::Http1(client) => client,
            Protocol::Http2(_) => panic!("it is one of HTTP/2"),
        }
    }
}

fn url(path: &str) -> String {
    format!("http://app.test{path}")
}

impl Exchange {
    fn connect(way: Way, socket: TcpStream, authority: &Authority) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let same = socket.try_clone().unwrap();
        let client = RUNTIME.block_on(async {
            let builder = h2::client::Builder::new();
            let socket = tokio::net::TcpStream::from_std(socket).unwrap();
            if !way.has_tls() {
                return Http2::over(socket, builder).await;
            }
            let config = client_config(authority, b"h2");
            let tls = Io::from(socket).connect_tls(config, server_name());
            Http2::over(timeout(PATIENCE, tls).await.unwrap().unwrap(), builder).await
        });
        Self {
            client,
            socket: same,
            upload: None,
            response: None,
            body: None,
        }
    }

    fn send(&mut self, request: http::request::Builder, is_whole: bool) {
        let request = request.header("accept", "text/event-stream").body(());
        let sent = RUNTIME.block_on(async {
            poll_fn(|cx| self.client.requests.poll_ready(cx)).await?;
            let requests = &mut self.client.requests;
            requests.send_request(request.unwrap(), is_whole)
        });
        let (response, upload) = sent.unwrap();
        self.response = Some(response);
        self.upload = Some(upload).filter(|_| !is_whole);
    }

    fn upload(&mut self, part: &[u8], is_last: bool) -> bool {
        let upload = self.upload.as_mut().unwrap();
        let mut part = Bytes::copy_from_slice(part);
        RUNTIME.block_on(async {
            loop {
                upload.reserve_capacity(part.len());
                let granted = timeout(PATIENCE, poll_fn(|cx| upload.poll_capacity(cx)));
                let Some(Ok(granted)) = granted.await.unwrap() else {
                    return false;
                };
                let now = part.split_to(granted.min(part.len()));
                let is_end = part.is_empty();
                if upload.send_data(now, is_last && is_end).is_err() || is_end {
                    return is_end;
                }
            }
        })
    }

    fn frame(&mut self) -> Option<Result<Bytes, h2::Error>> {
        RUNTIME.block_on(http2::frame(self.body.as_mut().unwrap()))
    }

    fn die(self, death: Death) {
        if death == Death::Reset {
            reset_on_close(&self.socket);
        }
        RUNTIME.block_on(async {
            match death {
                Death::Close | Death::Reset => self.client.vanish().await,
                Death::Proper => {
                    // RST_STREAM for what is not over, and a GOAWAY behind it.
                    drop((self.upload, self.response, self.body));
                    self.client.end().await;
                }
            }
        });
    }
}
