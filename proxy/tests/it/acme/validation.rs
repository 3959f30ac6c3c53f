//! How the CA verifies a name: by connections to the proxy.

use crate::support::PATIENCE;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// RFC 8555 section 8.3.
pub(super) fn http(
    address: SocketAddr,
    name: &str,
    token: &str,
    expected: &str,
) -> Result<(), String> {
    let get = || -> io::Result<String> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let path = format!("/.well-known/acme-challenge/{token}");
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = get().map_err(|error| format!("Connection to port 80: {error}"))?;
    match text.starts_with("HTTP/1.1 200 ") && text.ends_with(&format!("\r\n\r\n{expected}")) {
        true => Ok(()),
        false => Err(format!("Unexpected response: {text:?}")),
    }
}

/// RFC 8737 section 3.
pub(super) fn tls_alpn(address: SocketAddr, name: &str, expected: &str) -> Result<(), String> {
    const EXTENSION: &str = "1.3.6.1.5.5.7.1.31";
    let mut stream =
        connect(address, name).map_err(|error| format!("Connection to port 443: {error}"))?;
    if stream.conn.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("acme-tls/1 is not selected".to_owned());
    }
    let certificate = &stream.conn.peer_certificates().unwrap()[0];
    let certificate = Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let mut extensions = certificate
        .tbs_certificate()
        .extensions()
        .into_iter()
        .flatten();
    let identifier = extensions
        .find(|extension| extension.extn_id.to_string() == EXTENSION)
        .ok_or("no acmeIdentifier")?;
    let mut value = vec![4, 32];
    value.extend(digest(&SHA256, expected.as_bytes()).as_ref());
    if !identifier.critical || identifier.extn_value.as_bytes() != value {
        return Err("another acmeIdentifier".to_owned());
    }
    // A request on such a connection is not served.
    let mut response = Vec::new();
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let _ = sent.and_then(|()| stream.read_to_end(&mut response));
    match response.is_empty() {
        true => Ok(()),
        false => Err("the connection serves a request".to_owned()),
    }
}

/// A handshake in which the client offers the protocol of the challenge alone.
pub(super) fn connect(
    address: SocketAddr,
    name: &str,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
