//! Clients that connect over TLS.

mod client_certificates;

use crate::support::tls::{Authority, Files, Pem};
use crate::support::{Client, Origin, PATIENCE, Proxy, wait_until};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

const FEED: &str = "GET /feed HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n";
const PLAIN: &str = "GET /a HTTP/1.1\r\nHost: app.test\r\n\r\n";

type Tls = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A proxy with one listener, whose certificate has the names `app.test` and `127.0.0.1`.
struct Setup {
    proxy: Proxy,
    origin: Origin,
    authority: Authority,
    files: Files,
    client: Arc<ClientConfig>,
}

fn write(files: &Files, name: &str, pem: &Pem) {
    files.write(&format!("{name}.pem"), &pem.certificate);
    files.write(&format!("{name}.key"), &pem.key);
}

impl Setup {
    fn new(keys: &str) -> Self {
        Self::with(
            keys,
            "certificate = 'DIR/app.pem'\nkey = 'DIR/app.key'",
            |_, _| {},
        )
    }

    /// With these keys of the config, and of `[listener.tls]`, and more files.
    fn with(keys: &str, tls: &str, more: impl FnOnce(&Authority, &Files)) -> Self {
        let (authority, files) = (Authority::new("test CA"), Files::new());
        write(&files, "app", &authority.issue(&["app.test", "127.0.0.1"]));
        more(&authority, &files);
        let origin = Origin::with_feed();
        let dir = files.path("").display().to_string();
        let tls = tls.replace("DIR", dir.trim_end_matches('/'));
        let (keys, of_listener) = keys.split_once("[[listener]]").unwrap_or((keys, ""));
        let text = format!(
            "admin.listen = '127.0.0.1:0'\nlog.level = 'debug'\nheartbeat.interval = '100ms'\n{keys}\n\
             drain = {{ window = '0s', answers = '0s' }}\nupstream.url = 'http://{}'\n\
             [[listener]]\naddress = '127.0.0.1:0'\n{of_listener}\n[listener.tls]\n{tls}\n",
            origin.addr
        );
        files.write("guard.toml", &text);
        let proxy = Proxy::from_file(&files.path("guard.toml"));
        let client = client(&authority, &[&TLS13, &TLS12]);
        Self {
            proxy,
            origin,
            authority,
            files,
            client,
        }
    }

    fn connect(&self) -> Tls {
        connect(self.proxy.addr, &self.client, "app.test")
    }

    fn reload(&self) -> (u16, String) {
        let mut client = Client::connect(self.proxy.admin());
        client.send(
            "POST /api/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
        let status = client.head()[9..12].parse().unwrap();
        (status, String::from_utf8(client.raw()).unwrap())
    }

    /// The certificate of a new connection.
    fn certificate(&self) -> CertificateDer<'static> {
        certificate(&mut self.connect())
    }
}

fn client(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    client_with(authority, versions, None)
}

/// With a client certificate.
fn client_with(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    pem: Option<&Pem>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .unwrap();
    let config = config.with_root_certificates(roots);
    Arc::new(match pem {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![der(pem)], key).unwrap()
        }
    })
}

fn over(socket: TcpStream, client: &Arc<ClientConfig>, name: &str) -> Tls {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let tls = ClientConnection::new(client.clone(), name).unwrap();
    BufReader::new(StreamOwned::new(tls, socket))
}

fn connect(address: SocketAddr, client: &Arc<ClientConfig>, name: &str) -> Tls {
    over(TcpStream::connect(address).unwrap(), client, name)
}

fn send(tls: &mut Tls, text: &str) {
    tls.get_mut().write_all(text.as_bytes()).unwrap();
}

#[track_caller]
fn read_until(tls: &mut Tls, end: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(end) {
        let read = tls.read_line(&mut seen).unwrap();
        assert!(read > 0, "ended before {end:?}: {seen:?}");
    }
    seen
}

/// Sends a request and reads its response.
#[track_caller]
fn assert_ok(tls: &mut Tls) {
    send(tls, PLAIN);
    let head = read_until(tls, "\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = [0; 2];
    tls.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"ok");
}

fn certificate(tls: &mut Tls) -> CertificateDer<'static> {
    let stream = tls.get_mut();
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream.conn.peer_certificates().unwrap()[0].clone()
}

fn der(pem: &Pem) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.certificate.as_bytes()).unwrap()
}

#[test]
fn streams_and_other_requests_come_over_tls_and_the_upstream_gets_their_scheme() {
    let setup = Setup::new("");
    let line = setup.proxy.wait_for_log("listening on ");
    assert!(line.contains("listening on https://127.0.0.1:"), "{line}");
    for version in [&TLS12, &TLS13] {
        let client = client(&setup.authority, &[version]);
        let mut tls = connect(setup.proxy.addr, &client, "app.test");
        assert_ok(&mut tls);
        let request = setup.origin.last_request();
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
        let forwarded = request.field("forwarded").unwrap();
        assert!(forwarded.ends_with("proto=https"), "{forwarded}");
        send(&mut tls, FEED);
        read_until(&mut tls, "data: 1\n");
        for _ in 0..2 {
            read_until(&mut tls, ": heartbeat\n");
        }
    }
}

#[test]
fn certificate_is_chosen_by_the_name_that_the_client_sends() {
    let pairs = "certificate = ['DIR/app.pem', 'DIR/b.pem', 'DIR/c.pem']\n\
                 key = ['DIR/app.key', 'DIR/b.key', 'DIR/c.key']";
    let setup = Setup::with("", pairs, |authority, files| {
        write(files, "b", &authority.issue(&["*.b.test"]));
        write(files, "c", &authority.issue(&["c.test", "x.b.test"]));
    });
    let of = |name: &str| {
        let text = std::fs::read(setup.files.path(name)).unwrap();
        CertificateDer::from_pem_slice(&text).unwrap()
    };
    for (name, file) in [
        ("app.test", "app.pem"),
        ("a.b.test", "b.pem"),
        // The first match counts.
        ("x.b.test", "b.pem"),
        ("C.test", "c.pem"),
        // An address is not sent.
        ("127.0.0.1", "app.pem"),
    ] {
        let mut tls = connect(setup.proxy.addr, &setup.client, name);
        assert_eq!(certificate(&mut tls), of(file), "{name}");
        assert_ok(&mut tls);
    }
    // The first certificate is not for it.
    let mut tls = connect(setup.proxy.addr, &setup.client, "other.test");
    let error = tls
        .get_mut()
        .flush()
        .and_then(|()| tls.get_mut().write_all(b"x"));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[test]
fn reload_replaces_certificates_for_new_connections_and_refuses_a_bad_pair() {
    let setup = Setup::new("");
    let before = setup.certificate();
    let mut stream = setup.connect();
    send(&mut stream, FEED);
    read_until(&mut stream, "data: 1\n");
    let mut idle = setup.connect();
    assert_ok(&mut idle);

    let next = setup.authority.issue(&["app.test"]);
    setup.files.write("app.pem", &next.certificate);
    let (status, text) = setup.reload();
    assert_eq!(status, 422, "{text}");
    for part in [
        "listener.tls.key",
        "app.key",
        "does not belong to",
        "app.pem",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    setup
        .proxy
        .wait_for_log("reload failed, keeping the current config");
    assert_eq!(setup.certificate(), before);

    setup.files.write("app.key", &next.key);
    let (status, text) = setup.reload();
    assert_eq!(status, 200, "{text}");
    assert_eq!(setup.certificate(), der(&next));
    assert_ok(&mut idle);
    read_until(&mut stream, ": heartbeat\n");
}

#[test]
fn sessions_are_resumed_until_the_certificate_changes() {
    let setup = Setup::new("");
    let kind = || {
        let mut tls = setup.connect();
        assert_ok(&mut tls);
        tls.get_ref().conn.handshake_kind().unwrap()
    };
    assert_eq!(kind(), HandshakeKind::Full);
    assert_eq!(kind(), HandshakeKind::Resumed);
    assert_eq!(setup.reload().0, 200);
    assert_eq!(kind(), HandshakeKind::Resumed);
    write(&setup.files, "app", &setup.authority.issue(&["app.test"]));
    assert_eq!(setup.reload().0, 200);
    assert_eq!(kind(), HandshakeKind::Full);
}

#[test]
fn files_of_certificates_are_watched() {
    let setup = Setup::new("reload.watch = '20ms'");
    let next = setup.authority.issue(&["app.test"]);
    setup.files.write("app.pem", &next.certificate);
    // Until the key follows, the pair is a bad one.
    let line = setup.proxy.wait_for_log("cannot be used yet");
    assert!(
        line.contains("\"DEBUG\"") && line.contains("app.key"),
        "{line}"
    );
    setup.files.write("app.key", &next.key);
    setup.proxy.wait_for_log("config reloaded");
    wait_until("the new certificate", || setup.certificate() == der(&next));
    // One that stays bad is reported.
    setup
        .files
        .write("app.key", &setup.authority.issue(&["app.test"]).key);
    let line = setup
        .proxy
        .wait_for_log("reload failed, keeping the current config");
    assert!(
        line.contains("\"ERROR\"") && line.contains("app.key"),
        "{line}"
    );
}

#[test]
fn files_that_a_refused_config_names_are_watched() {
    let setup = Setup::new("reload.watch = '20ms'");
    let file = setup.files.path("guard.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let renamed = text
        .replace("app.pem", "next.pem")
        .replace("app.key", "next.key");
    setup.files.write("guard.new", &renamed);
    std::fs::rename(setup.files.path("guard.new"), file).unwrap();
    let line = setup
        .proxy
        .wait_for_log("reload failed, keeping the current config");
    assert!(line.contains("next.pem"), "{line}");
    let next = setup.authority.issue(&["app.test"]);
    write(&setup.files, "next", &next);
    setup.proxy.wait_for_log("config reloaded");
    assert_eq!(setup.certificate(), der(&next));
}

#[test]
fn http2_is_selected_by_alpn() {
    for (keys, selected) in [
        ("", &b"h2"[..]),
        ("[[listener]]\nhttp2 = false", b"http/1.1"),
    ] {
        let setup = Setup::new(keys);
        let mut client = (*setup.client).clone();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut tls = connect(setup.proxy.addr, &Arc::new(client), "app.test");
        certificate(&mut tls);
        assert_eq!(tls.get_ref().conn.alpn_protocol(), Some(selected));
        if selected != b"h2" {
            assert_ok(&mut tls);
            continue;
        }
        let (status, body) = http2_get(&mut tls).unwrap();
        // 200, of the static table.
        assert_eq!((status, body.as_slice()), (0x88, &b"ok"[..]));
        let request = setup.origin.last_request();
        assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    }
}

/// The first byte of the response's head, and its body.
fn http2_get(tls: &mut Tls) -> io::Result<(u8, Vec<u8>)> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    // GET, https and / of the static table, and an authority.
    let head = b"\x82\x87\x84\x41\x08app.test";
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
    bytes.extend([
        0,
        0,
        u8::try_from(head.len()).unwrap(),
        HEADERS,
        5,
        0,
        0,
        0,
        1,
    ]);
    bytes.extend(head);
    tls.get_mut().write_all(&bytes)?;
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let mut frame = [0; 9];
        tls.read_exact(&mut frame)?;
        let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        tls.read_exact(&mut payload)?;
        match frame[3] {
            HEADERS => status = payload[0],
            DATA => body.extend(payload),
            _ => continue,
        }
        if frame[4] & 1 == 1 {
            return Ok((status, body));
        }
    }
}

#[test]
fn client_certificate_is_required_or_optional_and_must_be_of_the_ca() {
    for (auth, serves_without) in [("", false), ("client_auth = 'optional'", true)] {
        let tls =
            "certificate = 'DIR/app.pem'\nkey = 'DIR/app.key'\nclient_ca = 'DIR/clients.pem'\n";
        let clients = Authority::new("CA of clients");
        let setup = Setup::with("", &format!("{tls}{auth}"), |_, files| {
            files.write("clients.pem", &clients.pem());
        });
        for version in [&TLS12, &TLS13] {
            let is_served = |pem: Option<&Pem>| {
                let client = client_with(&setup.authority, &[version], pem);
                let mut tls = connect(setup.proxy.addr, &client, "app.test");
                let sent = tls.get_mut().write_all(PLAIN.as_bytes());
                // The verdict comes behind the handshake of TLS 1.3.
                let mut line = String::new();
                sent.and_then(|()| tls.read_line(&mut line))
                    .is_ok_and(|_| line.contains(" 200 "))
            };
            let own = clients.issue(&["client.test"]);
            assert!(is_served(Some(&own)), "{auth} {version:?}");
            assert_eq!(is_served(None), serves_without, "{auth} {version:?}");
            let foreign = setup.authority.issue(&["client.test"]);
            assert!(!is_served(Some(&foreign)), "{auth} {version:?}");
        }
    }
}

#[test]
fn plain_http_on_a_port_with_tls_reaches_no_upstream() {
    let setup = Setup::new("");
    let mut client = Client::connect(setup.proxy.addr);
    client.send(PLAIN);
    let response = client.raw();
    // An alert, or nothing.
    assert!(
        response.first().is_none_or(|first| *first == 21),
        "{response:?}"
    );
    let line = setup.proxy.wait_for_log("a client's TLS connection failed");
    assert!(
        line.contains("\"DEBUG\"") && line.contains("\"peer\":\"127.0.0.1:"),
        "{line}"
    );
    assert_eq!(setup.origin.served(), 0);
}

#[test]
fn tls_follows_the_proxy_header() {
    let keys = "trusted_proxies = ['127.0.0.0/8']\n[[listener]]\nproxy_protocol = 'required'";
    let setup = Setup::new(keys);
    let mut socket = TcpStream::connect(setup.proxy.addr).unwrap();
    socket
        .write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\n")
        .unwrap();
    let mut tls = over(socket, &setup.client, "app.test");
    assert_ok(&mut tls);
    let request = setup.origin.last_request();
    assert_eq!(request.field("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    let mut client = Client::connect(setup.proxy.addr);
    client.send("PROXY TCP4 192.0.2.8 198.51.100.1 49152 443\r\n");
    client.send(PLAIN);
    let line = setup.proxy.wait_for_log("a client's TLS connection failed");
    assert!(line.contains("\"peer\":\"192.0.2.8:49152\""), "{line}");
}

#[test]
fn stop_ends_streams_and_idle_connections_over_tls() {
    let mut setup = Setup::new("");
    let (mut stream, mut idle) = (setup.connect(), setup.connect());
    send(&mut stream, FEED);
    read_until(&mut stream, "data: 1\n");
    assert_ok(&mut idle);
    let numbers = setup.proxy.stop();
    assert_eq!(numbers["cut_off"], 0, "{numbers}");
    let mut rest = String::new();
    // With a `close_notify`.
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    // As well: without one, it would be a truncation.
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}
