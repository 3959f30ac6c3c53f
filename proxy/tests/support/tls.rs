//! Certificates, and a server over TLS that sends exactly the bytes that a test gives it.

use super::origin::{ReceivedRequest, read_request};
use super::{PATIENCE, reset_on_close};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pem {
    pub certificate: String,
    pub key: String,
}

/// A CA.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, names: &[&str]) -> Pem {
        self.issue_with(names, |_| {})
    }

    /// With other parameters.
    pub fn issue_with(&self, names: &[&str], change: impl Fn(&mut CertificateParams)) -> Pem {
        let params = params(names, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pem {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A certificate for the key of someone else, as PEM.
    pub fn sign(
        &self,
        names: &[&str],
        key: &impl PublicKeyData,
        change: impl Fn(&mut CertificateParams),
    ) -> String {
        params(names, change).signed_by(key, &self.0).unwrap().pem()
    }
}

fn params(names: &[&str], change: impl Fn(&mut CertificateParams)) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "server.test");
    change(&mut params);
    params
}

/// A certificate that is its own issuer.
pub fn self_signed(names: &[&str], change: impl Fn(&mut CertificateParams)) -> Pem {
    self_signed_with(&KeyPair::generate().unwrap(), names, change)
}

/// With this key.
pub fn self_signed_with(
    key: &KeyPair,
    names: &[&str],
    change: impl Fn(&mut CertificateParams),
) -> Pem {
    let certificate = params(names, change).self_signed(key).unwrap();
    Pem {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// PEM files.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The config of a server with this certificate.
pub fn server_config(pem: &Pem, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    with_clients(pem, versions, None)
}

/// The same, which requires a client certificate of this CA.
pub fn mutual_config(
    pem: &Pem,
    versions: &[&'static SupportedProtocolVersion],
    clients: &Authority,
) -> ServerConfig {
    with_clients(pem, versions, Some(clients))
}

fn with_clients(
    pem: &Pem,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<&Authority>,
) -> ServerConfig {
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap();
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.0.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = config.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// What a server knows of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    pub is_resumed: bool,
    /// SNI.
    pub name: Option<String>,
    pub alpn: Option<String>,
    pub has_client_certificate: bool,
}

/// An upstream over TLS: a function answers the first request of each connection.
pub struct TlsOrigin {
    pub addr: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
}

/// The connection that a request came on.
pub struct TlsAnswer {
    reader: BufReader<StreamOwned<ServerConnection, TcpStream>>,
    sends_close_notify: bool,
    resets: bool,
}

impl TlsOrigin {
    pub fn start(
        config: ServerConfig,
        answer: impl Fn(ReceivedRequest, &mut TlsAnswer) + Send + Sync + 'static,
    ) -> Self {
        Self::listening("127.0.0.1:0", config, answer)
    }

    /// On this address.
    pub fn listening(
        address: &str,
        config: ServerConfig,
        answer: impl Fn(ReceivedRequest, &mut TlsAnswer) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let addr = listener.local_addr().unwrap();
        let handshakes = Arc::<Mutex<Vec<_>>>::default();
        let (config, answer, seen) = (Arc::new(config), Arc::new(answer), handshakes.clone());
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (config, answer, seen) = (config.clone(), answer.clone(), seen.clone());
                thread::spawn(move || serve(config, socket, &*answer, &seen));
            }
        });
        Self { addr, handshakes }
    }

    /// Connections whose handshake was over.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.handshakes.lock().unwrap().clone()
    }
}

fn serve(
    config: Arc<ServerConfig>,
    socket: TcpStream,
    answer: &dyn Fn(ReceivedRequest, &mut TlsAnswer),
    seen: &Mutex<Vec<Handshake>>,
) -> Option<()> {
    socket.set_nodelay(true).unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).ok()?;
    }
    seen.lock().unwrap().push(Handshake {
        is_resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
        name: stream.conn.server_name().map(str::to_owned),
        alpn: stream
            .conn
            .alpn_protocol()
            .map(|name| String::from_utf8(name.to_vec()).unwrap()),
        has_client_certificate: stream.conn.peer_certificates().is_some(),
    });
    let mut to = TlsAnswer {
        reader: BufReader::new(stream),
        sends_close_notify: true,
        resets: false,
    };
    let request = read_request(&mut to.reader)?;
    answer(request, &mut to);
    let stream = to.reader.get_mut();
    if to.sends_close_notify {
        stream.conn.send_close_notify();
        let _ = stream.conn.complete_io(&mut stream.sock);
    }
    match to.resets {
        true => reset_on_close(&stream.sock),
        false => drop(stream.sock.shutdown(Shutdown::Both)),
    }
    Some(())
}

impl TlsAnswer {
    /// Bytes as they are. Whether they were taken.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let stream = self.reader.get_mut();
        stream.write_all(bytes.as_ref()).is_ok() && stream.flush().is_ok()
    }

    /// The head of a chunked event stream.
    pub fn stream(&mut self) -> bool {
        self.raw(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
             Transfer-Encoding: chunked\r\n\r\n",
        )
    }

    /// One HTTP chunk.
    pub fn chunk(&mut self, data: &str) -> bool {
        self.raw(format!("{:x}\r\n{data}\r\n", data.len()))
    }

    /// Takes exactly so many bytes of the request's body as they come.
    pub fn body(&mut self, len: usize) -> Vec<u8> {
        let mut body = vec![0; len];
        self.reader.read_exact(&mut body).unwrap();
        body
    }

    /// The next request on this connection, if one comes.
    pub fn next_request(&mut self) -> Option<ReceivedRequest> {
        read_request(&mut self.reader)
    }

    /// The connection ends without a word of TLS.
    pub fn truncate(&mut self) {
        self.sends_close_notify = false;
    }

    /// The connection is reset when the answer is done.
    pub fn reset(&mut self) {
        self.truncate();
        self.resets = true;
    }

    /// New keys for what is sent from now on.
    pub fn update_keys(&mut self) {
        self.reader.get_mut().conn.refresh_traffic_keys().unwrap();
    }

    /// Waits until the other side is gone.
    pub fn wait_for_close(&mut self) {
        let stream = self.reader.get_ref();
        stream.sock.set_read_timeout(Some(10 * PATIENCE)).unwrap();
        let _ = self.reader.read_to_end(&mut Vec::new());
    }

    /// Waits for the end of the input, or the error by which it ends.
    pub fn end_of_input(&mut self) -> Result<(), ErrorKind> {
        let read = self.reader.read_to_end(&mut Vec::new());
        read.map(drop).map_err(|error| error.kind())
    }

    /// A line of what comes.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.reader.read_line(&mut line);
        line
    }
}
