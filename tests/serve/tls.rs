//! Clients that connect over TLS.

use super::*;
use crate::client::wait_until;
use crate::server::on_a_thread;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use sse_guard::serve::TlsListener;
use std::future::pending;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "guard.test";

type Connection = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A server, and the config of a client that trusts it.
struct TlsServer {
    addr: SocketAddr,
    client: Arc<ClientConfig>,
}

fn start<S>(server: Server, service: S) -> TlsServer
where
    S: Service<Request<RequestBody>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(default_provider());
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (addr, _) = on_a_thread(async move |listener| {
        let listener = TlsListener::new(listener, Arc::new(config));
        let served = server.serve_until(listener, service, pending());
        served.await.unwrap();
    });
    TlsServer {
        addr,
        client: Arc::new(client),
    }
}

impl TlsServer {
    fn connect(&self) -> Connection {
        let name = ServerName::try_from(NAME).unwrap();
        let tls = ClientConnection::new(self.client.clone(), name).unwrap();
        let socket = TcpStream::connect(self.addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(StreamOwned::new(tls, socket))
    }

    fn get(&self, path: &str) -> Connection {
        let mut connection = self.connect();
        ask(&mut connection, path);
        connection
    }
}

fn ask(connection: &mut Connection, path: &str) {
    let request = request("GET", path, "");
    let sent = connection.get_mut().write_all(request.as_bytes());
    sent.unwrap();
}

/// Reads to the end of this text.
#[track_caller]
fn read_until(connection: &mut Connection, end: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(end) {
        let read = connection.read_line(&mut seen).unwrap();
        assert!(read > 0, "ended before {end:?}: {seen:?}");
    }
    seen
}

#[test]
fn streams_and_other_requests_share_a_tls_connection() {
    for server in servers() {
        let server = start(server, service_fn(plain));
        let mut connection = server.connect();
        for _ in 0..2 {
            ask(&mut connection, "/short");
            let seen = read_until(&mut connection, "0\r\n\r\n");
            assert!(seen.contains("data: 1\n\n"), "{seen}");
            assert!(seen.contains("data: 2\n\n"), "{seen}");
            ask(&mut connection, "/other");
            read_until(&mut connection, "\r\n\r\n");
            let mut text = [0; 5];
            connection.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"plain");
        }
    }
}

#[test]
fn broken_stream_ends_without_a_close_notify() {
    let server = start(Server::new(), service_fn(plain));
    for (path, is_proper) in [("/closes", true), ("/dies", false)] {
        let mut connection = server.get(path);
        let result = connection.read_to_end(&mut Vec::new());
        let kind = result.err().map(|error| error.kind());
        assert_eq!(kind.is_none(), is_proper, "{path}: {kind:?}");
        let is_lost = |kind| [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&kind);
        assert!(kind.is_none_or(is_lost), "{path}: {kind:?}");
    }
}

#[test]
fn stream_ends_with_its_tls_client() {
    for server in servers() {
        let (streams, service) = controlled();
        let server = start(server, service);
        let mut connection = server.get("/");
        let pieces = streams.recv_timeout(PATIENCE).unwrap();
        pieces.send(data("data: first\n\n")).unwrap();
        read_until(&mut connection, "data: first\n\n");
        drop(connection);
        wait_until("the end", || pieces.is_closed());
    }
}

#[test]
fn stream_that_its_tls_client_does_not_read_ends() {
    for server in servers() {
        let (streams, service) = controlled();
        let server = start(server.write_stall(Duration::from_millis(200)), service);
        let mut connection = server.get("/");
        let pieces = streams.recv_timeout(PATIENCE).unwrap();
        pieces.send(data("data: first\n\n")).unwrap();
        read_until(&mut connection, "data: first\n\n");
        for n in 0..10_000 {
            let _ = pieces.send(data(numbered(n)));
        }
        wait_until("the end", || pieces.is_closed());
    }
}

#[test]
fn handshake_that_does_not_end_holds_up_nobody_and_is_closed_after_head_timeout() {
    for server in servers() {
        let server = server.head_timeout(Duration::from_millis(500));
        let server = start(server, service_fn(plain));
        let silent = TcpStream::connect(server.addr).unwrap();
        let mut slow = TcpStream::connect(server.addr).unwrap();
        // The beginning of a ClientHello.
        slow.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
        read_until(&mut server.get("/short"), "0\r\n\r\n");
        for mut socket in [silent, slow] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn plain_request_on_a_tls_listener_gets_an_alert() {
    let server = start(Server::new(), service_fn(plain));
    let mut socket = TcpStream::connect(server.addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
        .write_all(request("GET", "/", "").as_bytes())
        .unwrap();
    let mut seen = [0; 7];
    socket.read_exact(&mut seen).unwrap();
    // RFC 8446 section 6: a fatal alert.
    assert_eq!((seen[0], seen[5]), (21, 2));
}

#[cfg(feature = "http2")]
#[test]
fn client_that_selects_h2_by_alpn_gets_http2() {
    for server in servers() {
        let mut server = start(server, service_fn(plain));
        let mut config = ClientConfig::clone(&server.client);
        config.alpn_protocols = vec![b"h2".to_vec()];
        server.client = Arc::new(config);
        let mut connection = server.connect();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // Settings, and GET https://x/ in the compressed form of RFC 7541.
        hello.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
        hello.extend([0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x87, 0x84, 0x41, 1, b'x']);
        connection.get_mut().write_all(&hello).unwrap();
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).unwrap();
            let mut payload = vec![0; usize::from(head[2])];
            connection.read_exact(&mut payload).unwrap();
            // The response's head, which begins with status 200.
            if head[3] == 1 {
                assert_eq!(payload[0], 0x88);
                break;
            }
        }
        assert_eq!(connection.get_ref().conn.alpn_protocol(), Some(&b"h2"[..]));
    }
}
