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
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
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
        Self::with(authority, "127.0.0.1:0", upstream, flags, |arguments| {
            Proxy::with_arguments(arguments)
        })
    }

    /// With so many files at the most.
    pub fn with_few_files(limit: usize, upstream: &str, flags: &[&str]) -> Self {
        let authority = Authority::new("test CA");
        Self::with(authority, "127.0.0.1:0", upstream, flags, |arguments| {
            Proxy::with_few_files_and_arguments(limit, arguments)
        })
    }

    /// With listeners on this address, started with arguments.
    pub fn with(
        authority: Authority,
        address: &str,
        upstream: &str,
        flags: &[&str],
        start: impl FnOnce(&[&str]) -> Proxy,
    ) -> Self {
        let files = Files::new();
        let ca = files.write("ca.pem", &authority.pem());
        let config = Self::write_config(&authority, &files, [address; 2]);
        let mut arguments = vec!["--config", &config, "--upstream-url", upstream];
        if upstream.starts_with("https") {
            arguments.extend(["--upstream-tls-ca", &ca]);
        }
        arguments.extend(flags);
        let proxy = start(&arguments);
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
        let listeners = Self::listeners(authority, files, addresses);
        let keys = "admin.listen = 'off'\ndrain = { window = '0s', answers = '0s' }\n";
        files.write("guard.toml", &format!("{keys}{listeners}"))
    }

    /// The listeners of a config on these addresses, the second of which has TLS.
    pub fn listeners(authority: &Authority, files: &Files, addresses: [&str; 2]) -> String {
        let pem = authority.issue(&["app.test", "127.0.0.1"]);
        let certificate = files.write("app.pem", &pem.certificate);
        let key = files.write("app.key", &pem.key);
        let [plain, tls] = addresses;
        format!(
            "[[listener]]\nname = 'plain'\naddress = '{plain}'\nhttp2 = true\n\
             [[listener]]\nname = 'tls'\naddress = '{tls}'\n\
             tls = {{ certificate = '{certificate}', key = '{key}' }}\n"
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

/// Reads what has come also when no more can be sent.
struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Read for Tls {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let StreamOwned { conn, sock } = &mut self.0;
        loop {
            match conn.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            while conn.wants_write() && conn.write_tls(sock).is_ok() {}
            conn.read_tls(sock)?;
            conn.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Transport for Tls {
    fn end_output(&mut self) {
        let StreamOwned { conn, sock } = &mut self.0;
        conn.send_close_notify();
        let _ = conn.write_tls(sock);
        let _ = sock.shutdown(Shutdown::Write);
    }
}

/// A client with one request at a time.
pub struct Peer {
    protocol: Protocol,
    /// The response's head, in lower case, or the error of HTTP/2 in place of it.
    pub head: String,
    /// The request came behind a GOAWAY and was not processed, RFC 9113 section 6.8: clients send it again.
    pub is_to_be_repeated: bool,
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
    /// Of earlier requests, which continue.
    before: Vec<ResponseFuture>,
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
                    Box::new(Tls(StreamOwned::new(tls, socket)))
                }
            }))
        };
        Self {
            protocol,
            head: String::new(),
            is_to_be_repeated: false,
        }
    }

    /// Sends a GET that accepts an event stream.
    pub fn get(&mut self, path: &str) {
        match &mut self.protocol {
            Protocol::Http1(client) => client.send(&format!(
                "GET {path} HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n"
            )),
            Protocol::Http2(exchange) => exchange.send(stream(Request::get(url(path))), true),
        }
    }

    /// Sends a GET behind which the connection may close. Returns whether the connection still takes one.
    pub fn try_poll(&mut self, path: &str) -> bool {
        match &mut self.protocol {
            Protocol::Http1(client) => client.try_send(&format!(
                "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"
            )),
            Protocol::Http2(exchange) => exchange.try_send(Request::get(url(path)), true).is_ok(),
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
                exchange.send(stream(request), false);
            }
        }
    }

    /// Begins a POST with a body of unknown length.
    pub fn post_chunked(&mut self, path: &str) {
        match &mut self.protocol {
            Protocol::Http1(client) => client.send(&format!(
                "POST {path} HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            )),
            Protocol::Http2(exchange) => exchange.send(stream(Request::post(url(path))), false),
        }
    }

    /// Sends a part of a body of unknown length.
    pub fn upload_chunk(&mut self, part: &str) -> bool {
        match &mut self.protocol {
            Protocol::Http1(client) => client.try_send(&format!("{:x}\r\n{part}\r\n", part.len())),
            Protocol::Http2(exchange) => exchange.upload(part.as_bytes(), PATIENCE),
        }
    }

    /// Uploads until nothing is taken any more.
    pub fn upload_all_that_is_taken(&mut self) {
        let full = Duration::from_millis(200);
        let part = [b'x'; 64 * 1024];
        match &mut self.protocol {
            Protocol::Http1(client) => {
                client.socket.set_write_timeout(Some(full)).unwrap();
                while client.try_send_bytes(&part).is_ok() {}
            }
            Protocol::Http2(exchange) => while exchange.upload(&part, full) {},
        }
    }

    /// Sends a part of the body. Returns whether it was taken.
    pub fn upload(&mut self, part: &[u8]) -> bool {
        match &mut self.protocol {
            Protocol::Http1(client) => client.try_send_bytes(part).is_ok(),
            Protocol::Http2(exchange) => exchange.upload(part, PATIENCE),
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
                let response = response.unwrap();
                if let Err(error) = &response {
                    self.head = format!("{error:?}");
                    let is_orderly = error.reason() == Some(h2::Reason::NO_ERROR);
                    self.is_to_be_repeated = error.is_go_away() && is_orderly;
                }
                let response = response.ok()?;
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

    /// The next piece of a stream: empty at its proper end, nothing if it is broken off.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        match &mut self.protocol {
            Protocol::Http1(client) => match length(&self.head) {
                None => client.chunk(),
                Some(len) => {
                    let all = client.bytes(len);
                    self.head = String::from("content-length: 0");
                    Some(all)
                }
            },
            Protocol::Http2(exchange) => match exchange.frame() {
                None => Some(Vec::new()),
                Some(data) => data.ok().map(Into::into),
            },
        }
    }

    /// Waits until the connection has ended.
    pub fn wait_for_end(self) {
        match self.protocol {
            Protocol::Http1(mut client) => drop(client.raw()),
            Protocol::Http2(exchange) => drop(RUNTIME.block_on(exchange.client.closed())),
        }
    }

    /// What is left of the response, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        match &mut self.protocol {
            Protocol::Http1(client) => match length(&self.head) {
                Some(len) => (client.bytes(len), End::Clean),
                None => client.rest(),
            },
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

    pub fn local_addr(&self) -> SocketAddr {
        let socket = match &self.protocol {
            Protocol::Http1(client) => &client.socket,
            Protocol::Http2(exchange) => &exchange.socket,
        };
        socket.local_addr().unwrap()
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

fn length(head: &str) -> Option<usize> {
    let mut fields = head.lines();
    let len = fields.find_map(|field| field.strip_prefix("content-length: "));
    len.map(|len| len.parse().unwrap())
}

fn stream(request: http::request::Builder) -> http::request::Builder {
    request.header("accept", "text/event-stream")
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
            before: Vec::new(),
            body: None,
        }
    }

    fn send(&mut self, request: http::request::Builder, is_whole: bool) {
        self.try_send(request, is_whole).unwrap();
    }

    fn try_send(
        &mut self,
        request: http::request::Builder,
        is_whole: bool,
    ) -> Result<(), h2::Error> {
        let request = request.body(());
        let sent = RUNTIME.block_on(async {
            poll_fn(|cx| self.client.requests.poll_ready(cx)).await?;
            let requests = &mut self.client.requests;
            requests.send_request(request.unwrap(), is_whole)
        });
        let (response, upload) = sent?;
        self.before.extend(self.response.replace(response));
        self.upload = Some(upload).filter(|_| !is_whole);
        Ok(())
    }

    /// Returns false if it is not taken, at all or in this time.
    fn upload(&mut self, part: &[u8], patience: Duration) -> bool {
        let upload = self.upload.as_mut().unwrap();
        let mut part = Bytes::copy_from_slice(part);
        RUNTIME.block_on(async {
            while !part.is_empty() {
                upload.reserve_capacity(part.len());
                let granted = timeout(patience, poll_fn(|cx| upload.poll_capacity(cx)));
                let Ok(Some(Ok(granted))) = granted.await else {
                    return false;
                };
                let now = part.split_to(granted.min(part.len()));
                if upload.send_data(now, false).is_err() {
                    return false;
                }
            }
            true
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
                    drop((self.upload, self.response, self.before, self.body));
                    self.client.end().await;
                }
            }
        });
    }
}
