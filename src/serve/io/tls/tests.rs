use super::super::{DetachedIo, Io, Transport};
use super::test_certificates::{NAME, configs, mutual_configs, name};
use super::*;
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// A client and a server behind the handshake, in which the server has received `x`.
async fn connected(server: ServerConfig, client: ClientConfig) -> (Io, Io) {
    let (ours, theirs) = sockets().await;
    let mut server = Io::from(theirs).accept_tls(Arc::new(server)).unwrap();
    let connect = async {
        let client = Io::from(ours).connect_tls(Arc::new(client), name(NAME));
        let mut client = client.await.unwrap();
        client.write_all(b"x").await.unwrap();
        client
    };
    let (client, received) = tokio::join!(connect, server.read_u8());
    assert_eq!(received.unwrap(), b'x');
    (client, server)
}

fn session(io: &Io) -> std::sync::MutexGuard<'_, Session> {
    let Transport::Tls(tls) = &io.0 else {
        panic!("no TLS")
    };
    lock(&tls.session)
}

fn assert_holds_no_buffer(io: &Io) {
    assert_eq!(session(io).held(), 0);
}

#[tokio::test]
async fn quiet_session_holds_no_buffer_in_each_version() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (server, client) = configs(&[version]);
        let (mut client, mut server) = connected(server, client).await;
        assert_eq!(server.tls_info().unwrap().version, Some(version.version));
        for text in ["a", "data: 1\n\n", &"b".repeat(20_000)] {
            let mut received = vec![0; text.len()];
            let (sent, read) = tokio::join!(
                server.write_all(text.as_bytes()),
                client.read_exact(&mut received)
            );
            sent.unwrap();
            read.unwrap();
            assert_eq!(received, text.as_bytes());
            assert_holds_no_buffer(&server);
            assert_holds_no_buffer(&client);
        }
    }
}

#[tokio::test]
async fn write_of_the_server_waits_for_the_handshake() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (ours, theirs) = sockets().await;
    let mut server = Io::from(theirs).accept_tls(Arc::new(server)).unwrap();
    let connect = async {
        let client = Io::from(ours).connect_tls(Arc::new(client), name(NAME));
        client.await.unwrap().read_u8().await.unwrap()
    };
    let (sent, received) = tokio::join!(server.write_all(b"x"), connect);
    sent.unwrap();
    assert_eq!(received, b'x');
}

#[tokio::test]
async fn peer_that_closes_within_the_handshake_is_reported() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (ours, theirs) = sockets().await;
    let mut server = Io::from(theirs).accept_tls(Arc::new(server)).unwrap();
    // The beginning of a ClientHello.
    ours.try_write(&[22, 3, 1, 2, 0, 1]).unwrap();
    drop(ours);
    let read = server.read_u8().await.unwrap_err();
    let write = server.write_u8(b'x').await.unwrap_err();
    let (ours, theirs) = sockets().await;
    drop(theirs);
    let client = Io::from(ours).connect_tls(Arc::new(client), name(NAME));
    for error in [read, write, client.await.unwrap_err()] {
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(
            error.to_string().contains("during the TLS handshake"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn certificate_of_the_client_is_known() {
    let (server, client) = mutual_configs(rustls::ALL_VERSIONS);
    let (client, server) = connected(server, client).await;
    let [of_client, of_server] =
        [server, client].map(|io| io.tls_info().unwrap().peer_certificates);
    assert_eq!(of_client.len(), 1);
    assert_eq!(of_client, of_server);
}

#[tokio::test]
async fn session_is_resumed_by_the_same_config() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    for is_resumed in [false, true] {
        let (mut client, mut server) = connected(server.clone(), client.clone()).await;
        assert_eq!(client.tls_info().unwrap().is_resumed, is_resumed);
        // The session tickets come before this.
        server.write_all(b"y").await.unwrap();
        client.read_u8().await.unwrap();
    }
}

#[tokio::test]
async fn tls_over_tls_is_refused() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (outer_client, outer_server) = connected(server.clone(), client.clone()).await;
    outer_server.accept_tls(Arc::new(server)).unwrap_err();
    let inner = outer_client.connect_tls(Arc::new(client), name(NAME));
    inner.await.unwrap_err();
}

#[tokio::test]
async fn alpn_is_negotiated() {
    let (mut server, mut client) = configs(rustls::ALL_VERSIONS);
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (client, server) = connected(server, client).await;
    for io in [client, server] {
        let alpn = io.tls_info().unwrap().alpn;
        assert_eq!(alpn.as_deref(), Some(&b"http/1.1"[..]));
    }
}

#[tokio::test]
async fn blocked_write_continues_with_what_was_accepted() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (mut client, server) = connected(server, client).await;
    let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut sent = 0;
    let is_blocked = |result: &io::Result<usize>| matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    let mut received = Vec::new();
    while sent < text.len() {
        let (start, end) = text[sent..].split_at((text.len() - sent).min(7_000));
        let result = server.try_write(&[IoSlice::new(start), IoSlice::new(end)]);
        if is_blocked(&result) {
            // What the kernel has no room for is held, and nothing more.
            assert!(session(&server).held() <= 17 * 1024);
            let mut bytes = [0; 64 * 1024];
            let read = client.read(&mut bytes).await.unwrap();
            received.extend_from_slice(&bytes[..read]);
            poll_fn(|cx| server.poll_write_ready(cx)).await.unwrap();
            continue;
        }
        sent += result.unwrap();
    }
    server.shutdown().unwrap();
    client.read_to_end(&mut received).await.unwrap();
    assert!(received == text);
    assert_holds_no_buffer(&server);
}

#[tokio::test]
async fn task_that_writes_without_an_end_ends_its_turn() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (client, mut server) = connected(server, client).await;
    let count_writes = |cx: &mut Context<'_>| {
        let mut writes = 0;
        while Pin::new(&mut server).poll_write(cx, b"x").is_ready() {
            writes += 1;
        }
        Poll::Ready(writes)
    };
    let writes = poll_fn(count_writes).await;
    // The kernel takes more, and the budget of tokio's tasks is 128.
    assert!((1..1_000).contains(&writes), "{writes}");
    drop(client);
}

#[tokio::test]
async fn end_without_close_notify_is_an_error() {
    for is_proper in [true, false] {
        let (server, client) = configs(rustls::ALL_VERSIONS);
        let (mut client, mut server) = connected(server, client).await;
        server.write_all(b"all").await.unwrap();
        match is_proper {
            true => AsyncWriteExt::shutdown(&mut server).await.unwrap(),
            false => server.socket().shutdown(Shutdown::Write).unwrap(),
        }
        let mut received = Vec::new();
        let result = client.read_to_end(&mut received).await;
        assert_eq!(received, b"all");
        let kind = result.err().map(|error| error.kind());
        let expected = (!is_proper).then_some(io::ErrorKind::UnexpectedEof);
        assert_eq!(kind, expected);
        // The other direction is still open.
        client.write_all(b"y").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'y');
    }
}

/// Moves it to another runtime and back, as a pool does.
async fn moved(io: Io, is_quiet: bool) -> Io {
    let mut detached: DetachedIo = io.detach().unwrap();
    while detached.is_quiet() != is_quiet {
        yield_now().await;
    }
    detached.attach().unwrap()
}

#[tokio::test]
async fn quiet_connection_is_one_without_plaintext_or_end() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (client, mut server) = connected(server, client).await;
    // The server's session tickets are no input.
    let client = moved(client, true).await;
    server.write_all(b"z").await.unwrap();
    poll_fn(|cx| client.poll_input(cx)).await;
    assert!(!client.is_quiet());
    let mut client = moved(client, false).await;
    assert_eq!(client.read_u8().await.unwrap(), b'z');
    let client = moved(client, true).await;
    server.shutdown().unwrap();
    poll_fn(|cx| client.poll_input(cx)).await;
    let mut client = moved(client, false).await;
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn handshake_failure_has_its_cause_on_both_sides() {
    let (server, client) = configs(rustls::ALL_VERSIONS);
    let (ours, theirs) = sockets().await;
    let mut server = Io::from(theirs).accept_tls(Arc::new(server)).unwrap();
    let client = Io::from(ours).connect_tls(Arc::new(client), name("other.test"));
    let (client, received) = tokio::join!(client, server.read_u8());
    let cause = |error: &io::Error| {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        cause.cloned().unwrap_or_else(|| panic!("{error:?}"))
    };
    let ours: Error = cause(&client.unwrap_err());
    assert!(matches!(ours, Error::InvalidCertificate(_)), "{ours:?}");
    let theirs: Error = cause(&received.unwrap_err());
    assert!(matches!(theirs, Error::AlertReceived(_)), "{theirs:?}");
}

#[tokio::test]
async fn input_that_is_not_tls_fails_with_an_alert() {
    let (server, _) = configs(rustls::ALL_VERSIONS);
    let (mut ours, theirs) = sockets().await;
    let mut server = Io::from(theirs).accept_tls(Arc::new(server)).unwrap();
    ours.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(server);
    let mut alert = Vec::new();
    ours.read_to_end(&mut alert).await.unwrap();
    // RFC 8446 section 6: an alert of two bytes.
    assert_eq!((alert[0], alert.len()), (21, 7));
}

#[test]
fn io_has_the_size_of_a_tcp_socket_also_with_tls() {
    assert_eq!(size_of::<Io>(), size_of::<TcpStream>());
}
