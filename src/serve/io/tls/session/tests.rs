mod pair;

use super::super::test_certificates::{configs, mutual_configs};
use super::*;
use allocation_counter::measure;
use pair::{Pair, is_blocked};
use rustls::crypto::cipher::OutboundPlainMessage;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ConnectionTrafficSecrets, ContentType, PeerIncompatible, ProtocolVersion, ServerConnection,
    SupportedCipherSuite,
};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

fn cause(error: &io::Error) -> &Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    cause.unwrap_or_else(|| panic!("{error:?}"))
}

#[test]
fn session_takes_records_in_pieces_of_any_size() {
    for piece in [1, 2, 7, 1000] {
        for version in [&TLS12, &TLS13] {
            for mut pair in [
                Pair::client(configs(&[version])),
                Pair::server(configs(&[version])),
                Pair::client(mutual_configs(&[version])),
                Pair::server(mutual_configs(&[version])),
            ] {
                pair.wire.piece = piece;
                let mut pair = pair.connected();
                pair.peer.writer().write_all(b"hello").unwrap();
                assert_eq!(pair.exchange().unwrap(), b"hello");
                assert_eq!(pair.write(b"world").unwrap(), 5);
                pair.exchange().unwrap();
                assert_eq!(pair.peer_received(), b"world");
                assert_eq!(pair.session.held(), 0);
            }
        }
    }
}

#[test]
fn session_keeps_what_a_read_has_no_room_for() {
    let mut pair = Pair::client(configs(&[&TLS13])).connected();
    let text: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
    pair.peer.set_buffer_limit(None);
    pair.peer.writer().write_all(&text).unwrap();
    assert!(pair.exchange().unwrap() == text);
    assert_eq!(pair.session.held(), 0);
}

#[test]
fn key_updates_of_the_peer_are_followed_and_answered() {
    for mut pair in [
        Pair::client(configs(&[&TLS13])),
        Pair::server(configs(&[&TLS13])),
    ] {
        pair = pair.connected();
        for _ in 0..3 {
            pair.peer.refresh_traffic_keys().unwrap();
            pair.peer.writer().write_all(b"a").unwrap();
            assert_eq!(pair.exchange().unwrap(), b"a");
            // The answer is not sent before this.
            assert_eq!(pair.write(&[b'b'; MAX_PLAINTEXT]).unwrap(), MAX_PLAINTEXT);
            pair.exchange().unwrap();
            assert_eq!(pair.peer_received(), [b'b'; MAX_PLAINTEXT]);
        }
        assert_eq!(pair.session.held(), 0);
    }
}

#[test]
fn write_that_blocks_succeeds_when_it_has_left() {
    let mut pair = Pair::server(configs(&[&TLS13])).connected();
    for room in [0, 1, 100] {
        pair.wire.room = room;
        assert!(is_blocked(&pair.write(&[b'a'; 200])));
        assert!(is_blocked(&pair.write(&[b'a'; 300])));
        assert_eq!(pair.wire.to_peer.len(), room);
        pair.wire.room = usize::MAX;
        // More may be behind it by then.
        assert_eq!(pair.write(&[b'a'; 300]).unwrap(), 200);
        pair.exchange().unwrap();
        assert_eq!(pair.peer_received(), [b'a'; 200]);
    }
    pair.wire.room = 0;
    assert!(is_blocked(&pair.write(b"abc")));
    pair.wire.room = usize::MAX;
    let error = pair.write(b"a").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn write_before_the_end_of_the_handshake_blocks() {
    let mut pair = Pair::server(configs(&[&TLS13]));
    assert!(is_blocked(&pair.write(b"early")));
    let mut pair = pair.connected();
    assert_eq!(pair.write(b"late").unwrap(), 4);
    pair.exchange().unwrap();
    assert_eq!(pair.peer_received(), b"late");
}

#[test]
fn output_ends_with_a_close_notify_and_input_goes_on() {
    for version in [&TLS12, &TLS13] {
        let mut pair = Pair::server(configs(&[version])).connected();
        pair.session.close(|bytes| pair.wire.write(bytes));
        pair.session.close(|bytes| pair.wire.write(bytes));
        pair.exchange().unwrap();
        assert_eq!(pair.peer.reader().read(&mut [0]).unwrap(), 0);
        let error = pair.write(b"more").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        if version.version == TLS13.version {
            pair.peer.writer().write_all(b"still").unwrap();
            assert_eq!(pair.exchange().unwrap(), b"still");
        }
        pair.peer.send_close_notify();
        pair.exchange().unwrap();
        assert_eq!(pair.read(&mut [0]).unwrap(), 0);
        assert_eq!(pair.session.held(), 0);
    }
}

/// A NewSessionTicket, RFC 8446 section 4.6.1.
const TICKET: &[u8] = &[
    4, 0, 0, 19, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0,
];

/// Records of the peer's with a session ticket each.
fn tickets(pair: Pair) -> (Pair, impl FnMut() -> Vec<u8>) {
    let Some(SupportedCipherSuite::Tls13(suite)) =
        pair.session.connection().negotiated_cipher_suite()
    else {
        panic!("no TLS 1.3");
    };
    let Pair {
        session,
        peer,
        wire,
    } = pair;
    let rustls::Connection::Server(peer) = peer else {
        panic!("no server");
    };
    #[allow(deprecated, reason = "no keys are updated here")]
    let (mut seq, ConnectionTrafficSecrets::Aes256Gcm { key, iv }) =
        peer.dangerous_extract_secrets().unwrap().tx
    else {
        panic!("another cipher");
    };
    let mut encrypter = suite.aead_alg.encrypter(key, iv);
    let record = move || {
        let message = OutboundPlainMessage {
            typ: ContentType::Handshake,
            version: ProtocolVersion::TLSv1_2,
            payload: TICKET.into(),
        };
        seq += 1;
        encrypter.encrypt(message, seq - 1).unwrap().encode()
    };
    let other = ServerConnection::new(Arc::new(configs(&[&TLS13]).0)).unwrap();
    let pair = Pair {
        session,
        peer: other.into(),
        wire,
    };
    (pair, record)
}

#[test]
fn session_tickets_are_no_input_and_a_flood_of_them_fails() {
    let (mut server, client) = configs(&[&TLS13]);
    server.enable_secret_extraction = true;
    let (mut pair, mut ticket) = tickets(Pair::client((server, client)).connected());
    for _ in 0..100 {
        pair.wire.to_session.extend(ticket());
    }
    assert!(is_blocked(&pair.read(&mut [0])));
    assert_eq!(pair.session.held(), 0);
    while pair.wire.to_session.len() < 2 * MAX_READ_WITHOUT_DATA {
        pair.wire.to_session.extend(ticket());
    }
    let error = pair.read(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("without an end"), "{error}");
}

#[test]
fn handshake_message_in_tiny_records_is_bounded() {
    let mut pair = Pair::server(configs(&[&TLS13]));
    // RFC 8446 section 4: the head of a ClientHello of 65,535 bytes, and its body one byte a record.
    pair.wire
        .to_session
        .extend([22, 3, 1, 0, 4, 1, 0, 0xff, 0xff]);
    let error = loop {
        pair.wire
            .to_session
            .extend([22, 3, 1, 0, 1, 0].repeat(1000));
        let result = pair.read(&mut [0]);
        assert!(pair.session.held() < 2 * MAX_INCOMPLETE);
        if !is_blocked(&result) {
            break result.unwrap_err();
        }
    };
    let expected = Error::from(InvalidMessage::HandshakePayloadTooLarge);
    assert_eq!(cause(&error), &expected);
    assert_eq!(pair.session.held(), 0);
}

#[test]
fn failed_session_reports_its_error_to_every_call() {
    let mut pair = Pair::server(configs(&[&TLS13]));
    pair.wire.to_session.extend([0; 16 * 1024]);
    for _ in 0..2 {
        let read = pair.read(&mut [0]).unwrap_err();
        let write = pair.write(b"x").unwrap_err();
        for error in [read, write] {
            assert!(
                matches!(cause(&error), Error::InvalidMessage(_)),
                "{error:?}"
            );
        }
    }
    pair.session.close(|bytes| pair.wire.write(bytes));
    // RFC 8446 section 6: one alert of two bytes, and it is fatal.
    assert_eq!(pair.wire.to_peer[..6], [21, 3, 3, 0, 2, 2]);
    assert_eq!(pair.wire.to_peer.len(), 7);
}

#[test]
fn failure_is_known_behind_the_plaintext_before_it() {
    let mut pair = Pair::client(configs(&[&TLS13])).connected();
    pair.peer.writer().write_all(b"good").unwrap();
    pair.peer.write_tls(&mut pair.wire.to_session).unwrap();
    pair.wire
        .to_session
        .extend([23, 3, 3, 0, 20].iter().chain(&[0; 20]));
    let mut bytes = [0; 8];
    assert_eq!(pair.read(&mut bytes).unwrap(), 4);
    let error = pair.read(&mut bytes).unwrap_err();
    assert_eq!(cause(&error), &Error::DecryptError);
}

#[test]
fn peer_without_a_common_version_is_refused_with_an_alert() {
    let (server, _) = configs(&[&TLS13]);
    let (_, client) = configs(&[&TLS12]);
    let mut pair = Pair::server((server, client));
    let error = pair.exchange().unwrap_err();
    let expected = Error::from(PeerIncompatible::Tls12NotOfferedOrEnabled);
    assert_eq!(cause(&error), &expected);
    assert_eq!(pair.wire.to_peer[0], 21);
}

#[test]
fn quiet_session_is_small() {
    for is_client in [true, false] {
        let configs = configs(&[&TLS13]);
        // The buffers of this thread are made by then.
        drop(Pair::client(configs.clone()).connected());
        let mut session = None;
        let allocated = measure(|| {
            let pair = match is_client {
                true => Pair::client(configs.clone()),
                false => Pair::server(configs.clone()),
            };
            session = Some(Box::new(pair.connected().session));
        });
        // Nearly all of that is rustls' own.
        let bytes = allocated.bytes_current;
        assert!(bytes < 5_500, "{bytes} bytes");
    }
}
