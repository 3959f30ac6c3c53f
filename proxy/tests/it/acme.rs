//! Certificates by ACME, from a CA on this machine that verifies names by connecting to the proxy.

mod directory;
mod validation;

use crate::support::tls::{Authority, Files};
use crate::support::{Client, Origin, PATIENCE, Proxy, free_address, gate, wait_until};
use directory::{Behaviour, Directory};
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

type Tls = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A CA, and the files of proxies.
struct Setup {
    directory: Directory,
    origin: Origin,
    files: Files,
    client: Arc<ClientConfig>,
    http: SocketAddr,
    https: SocketAddr,
}

impl Setup {
    fn new(change: impl FnOnce(&mut Behaviour)) -> Self {
        let authority = Arc::new(Authority::new("CA of the test"));
        let (http, https) = (free_address(), free_address());
        let mut behaviour = Behaviour {
            http,
            tls: https,
            lifetime: 90 * DAY,
            suggests_renewal: false,
            gate: None,
            bad_nonces: 0,
        };
        change(&mut behaviour);
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session has the certificate of its first handshake.
        client.resumption = Resumption::disabled();
        Self {
            directory: Directory::start(&authority, behaviour),
            origin: Origin::with_feed(),
            files: Files::new(),
            client: Arc::new(client),
            http,
            https,
        }
    }

    /// A config with these names, and more keys of `[acme]`.
    fn text(&self, https: SocketAddr, names: &str, acme: &str) -> String {
        let dir = self.files.path("");
        let dir = dir.display().to_string();
        let dir = dir.trim_end_matches('/');
        let ca = self.files.write("ca.pem", &self.directory.server_ca);
        format!(
            "admin.listen = '127.0.0.1:0'\nheartbeat.interval = '100ms'\ntakeover = 'off'\n\
             drain = {{ window = '0s', answers = '0s' }}\nupstream.url = 'http://{}'\n\
             [acme]\nterms_agreed = true\ncontact = ['ops@app.test']\ndirectory = '{}'\nca = '{ca}'\n\
             cache = '{dir}/cache'\n{acme}\n\
             [[listener]]\naddress = '{https}'\ntls.acme = {names}\n",
            self.origin.addr,
            self.directory.url(),
        )
    }

    fn redirect(&self) -> String {
        format!(
            "[[listener]]\naddress = '{}'\nredirect_https = true\n",
            self.http
        )
    }

    fn start(&self, text: &str) -> Proxy {
        self.files.write("guard.toml", text);
        Proxy::from_file(&self.files.path("guard.toml"))
    }

    fn connect(&self, address: SocketAddr, name: &str) -> Tls {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let tls = ClientConnection::new(self.client.clone(), name).unwrap();
        BufReader::new(StreamOwned::new(tls, socket))
    }

    /// The certificate of a new connection, which the client has verified.
    fn certificate(&self, address: SocketAddr, name: &str) -> io::Result<CertificateDer<'static>> {
        let mut tls = self.connect(address, name);
        let stream = tls.get_mut();
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream.conn.peer_certificates().unwrap()[0].clone())
    }

    #[track_caller]
    fn assert_served(&self, address: SocketAddr, name: &str) {
        let mut tls = self.connect(address, name);
        send(
            &mut tls,
            &format!("GET /a HTTP/1.1\r\nHost: {name}\r\n\r\n"),
        );
        let head = read_until(&mut tls, "\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
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

fn admin(proxy: &Proxy, method: &str, path: &str) -> String {
    let mut client = Client::connect(proxy.admin());
    client.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    ));
    client.head();
    String::from_utf8(client.raw()).unwrap()
}

fn sample(proxy: &Proxy, name: &str) -> Option<f64> {
    let metrics = admin(proxy, "GET", "/metrics");
    let mut lines = metrics.lines();
    let line = lines.find_map(|line| line.strip_prefix(name));
    line.map(|value| value.trim().parse().unwrap())
}

#[test]
fn certificate_is_issued_by_http_01_through_a_redirect_and_used_by_the_next_start() {
    let setup = Setup::new(|_| {});
    let text = setup.text(
        setup.https,
        "['app.test', 'b.test']",
        "challenge = 'http-01'",
    ) + &setup.redirect();
    let mut proxy = setup.start(&text);
    let lines = proxy.wait_for_log_lines("\"certificate issued\"", 2);
    assert!(
        lines[0].contains("\"challenge\":\"http-01\""),
        "{}",
        lines[0]
    );
    setup.assert_served(setup.https, "app.test");
    setup.assert_served(setup.https, "b.test");
    let certificate = setup.certificate(setup.https, "app.test").unwrap();
    assert_ne!(
        setup.certificate(setup.https, "b.test").unwrap(),
        certificate
    );
    // The token is not pending any more.
    let mut client = Client::connect(setup.http);
    client.send(
        "GET /.well-known/acme-challenge/token-of-order_1 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    );
    assert!(client.head().starts_with("http/1.1 308 "));
    let expires = sample(
        &proxy,
        "sse_guard_certificate_not_after_seconds{name=\"app.test\"}",
    );
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let left = expires.unwrap() - now.as_secs_f64();
    assert!(
        left > 89.0 * DAY.as_secs_f64() && left < 91.0 * DAY.as_secs_f64(),
        "{left}"
    );
    assert_eq!(
        sample(&proxy, "sse_guard_acme_orders_total{result=\"issued\"}"),
        Some(2.0)
    );
    proxy.stop();
    assert_eq!(setup.directory.problems(), [""; 0]);
    assert_eq!(
        setup
            .directory
            .requests()
            .iter()
            .filter(|it| *it == "POST /account")
            .count(),
        1
    );

    let cache = setup.files.path("cache");
    let folder = fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let mode = |name: &str| {
        fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("app.test.pem"), mode("account.json"), mode("")),
        (0o600, 0o600, 0o700)
    );

    let before = setup.directory.requests().len();
    let proxy = setup.start(&text);
    assert_eq!(
        setup.certificate(setup.https, "app.test").unwrap(),
        certificate
    );
    setup.assert_served(setup.https, "b.test");
    assert!(
        !proxy.log().contains("no certificate yet"),
        "{}",
        proxy.log()
    );
    assert_eq!(setup.directory.requests().len(), before);
}

#[test]
fn certificate_is_issued_by_tls_alpn_01_and_bad_nonces_are_retried() {
    let setup = Setup::new(|behaviour| behaviour.bad_nonces = 2);
    let proxy = setup.start(&setup.text(setup.https, "['App.test']", ""));
    proxy.wait_for_log("no certificate yet");
    let line = proxy.wait_for_log("\"certificate issued\"");
    assert!(line.contains("\"challenge\":\"tls-alpn-01\""), "{line}");
    setup.assert_served(setup.https, "app.test");
    let problems = setup.directory.problems();
    assert_eq!(problems, ["badNonce at /account", "badNonce at /account"]);
    // No challenge is under way, and another protocol beside it is served.
    assert!(validation::connect(setup.https, "app.test").is_err());
    let mut client = (*setup.client).clone();
    client.alpn_protocols = vec![b"acme-tls/1".to_vec(), b"http/1.1".to_vec()];
    let mut setup = setup;
    setup.client = Arc::new(client);
    setup.assert_served(setup.https, "app.test");
}

#[test]
fn renewal_swaps_the_certificate_under_an_open_stream() {
    let (renew, renewal) = gate();
    let setup = Setup::new(|behaviour| {
        // It is renewed at a hundredth of this.
        behaviour.lifetime = Duration::from_secs(300);
        behaviour.suggests_renewal = true;
        behaviour.gate = Some((1, Arc::new(renewal)));
    });
    let proxy = setup.start(&setup.text(setup.https, "['app.test']", ""));
    proxy.wait_for_log("\"certificate issued\"");
    let before = setup.certificate(setup.https, "app.test").unwrap();
    let mut stream = setup.connect(setup.https, "app.test");
    send(
        &mut stream,
        "GET /feed HTTP/1.1\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n",
    );
    read_until(&mut stream, "data: 1\n");
    renew.send(()).unwrap();
    proxy.wait_for_log_lines("\"certificate issued\"", 2);
    assert_ne!(setup.certificate(setup.https, "app.test").unwrap(), before);
    for _ in 0..3 {
        read_until(&mut stream, ": heartbeat\n");
    }
    let orders = setup.directory.orders();
    assert!(orders[0].1.is_none() && orders[1].1.is_some(), "{orders:?}");
}

#[test]
fn failed_order_is_explained_and_the_rest_of_the_proxy_serves() {
    let setup = Setup::new(|behaviour| behaviour.tls = free_address());
    let plain = format!("[[listener]]\naddress = '{}'\n", setup.http);
    let proxy = setup.start(&(setup.text(setup.https, "['app.test']", "") + &plain));
    let line = proxy.wait_for_log("cannot get a certificate");
    for part in [
        "\"ERROR\"",
        "\"name\":\"app.test\"",
        "the CA cannot verify the name by tls-alpn-01: Connection to port 443: ",
        "(connection)",
        "\"remedy\":\"port 443 of the name must lead to this listener",
        "\"retry_seconds\":3",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(
        sample(&proxy, "sse_guard_acme_orders_total{result=\"failed\"}"),
        Some(1.0)
    );
    assert!(setup.certificate(setup.https, "app.test").is_err());
    let mut client = Client::connect(setup.http);
    client.send("GET /a HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert!(client.head().starts_with("http/1.1 200 "));
}

#[test]
fn unreachable_directory_is_explained() {
    let setup = Setup::new(|_| {});
    let text = setup.text(setup.https, "['app.test']", "");
    let other = format!("https://{}/directory", free_address());
    let proxy = setup.start(&text.replace(&setup.directory.url(), &other));
    let line = proxy.wait_for_log("cannot get a certificate");
    assert!(line.contains("cannot connect to 127.0.0.1: "), "{line}");
    assert!(
        line.contains("must reach the server of acme.directory"),
        "{line}"
    );
    drop(proxy);
    let text = text.replace("/ca.pem", "/other.pem");
    setup
        .files
        .write("other.pem", &Authority::new("another CA").pem());
    let proxy = setup.start(&text);
    let line = proxy.wait_for_log("cannot get a certificate");
    assert!(
        line.contains("its certificate was issued by an unknown CA"),
        "{line}"
    );
    assert!(line.contains("acme.ca names a file"), "{line}");
}

#[test]
fn two_processes_with_one_cache_order_once() {
    let (go_on, gate) = gate();
    let setup = Setup::new(|behaviour| behaviour.gate = Some((0, Arc::new(gate))));
    let second = free_address();
    let first = setup.start(&setup.text(setup.https, "['app.test']", ""));
    setup
        .files
        .write("second.toml", &setup.text(second, "['app.test']", ""));
    // The first one has the lock.
    wait_until("the order of the first process", || {
        let requests = setup.directory.requests();
        requests.iter().any(|it| it == "POST /order")
    });
    let other = Proxy::from_file(&setup.files.path("second.toml"));
    other.wait_for_log("no certificate yet");
    go_on.send(()).unwrap();
    first.wait_for_log("\"certificate issued\"");
    let of = |address| setup.certificate(address, "app.test");
    wait_until("the certificate of the other process", || {
        of(second).is_ok()
    });
    assert_eq!(of(second).unwrap(), of(setup.https).unwrap());
    assert_eq!(setup.directory.orders().len(), 1);
    assert!(
        !other.log().contains("\"certificate issued\""),
        "{}",
        other.log()
    );
}

#[test]
fn reload_orders_for_new_names_and_keeps_certificates_for_new_listeners() {
    let setup = Setup::new(|_| {});
    let proxy = setup.start(&setup.text(setup.https, "['app.test']", ""));
    proxy.wait_for_log("\"certificate issued\"");
    let before = setup.certificate(setup.https, "app.test").unwrap();
    let another = free_address();
    let listener = format!("[[listener]]\naddress = '{another}'\ntls.acme = ['app.test']\n");
    let text = setup.text(setup.https, "['app.test', 'b.test']", "") + &listener;
    setup.files.write("guard.toml", &text);
    let reloaded = admin(&proxy, "POST", "/api/reload");
    assert!(reloaded.contains("listener"), "{reloaded}");
    for address in [setup.https, another] {
        assert_eq!(setup.certificate(address, "app.test").unwrap(), before);
    }
    proxy.wait_for_log_lines("\"certificate issued\"", 2);
    setup.assert_served(setup.https, "b.test");
    // The first name's, for a listener that has no other.
    assert!(setup.certificate(another, "b.test").is_err());
}
