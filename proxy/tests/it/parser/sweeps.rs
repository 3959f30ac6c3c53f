//! Each byte at the places where parsers differ about one of them.

use super::message::Message;
use super::origin::Recorder;
use super::requests::{RawClient, status};
use crate::support::Proxy;

/// The status, and what reached the upstream.
fn put(proxy: &Proxy, origin: &Recorder, request: &[u8]) -> (String, Vec<Message>) {
    origin.close_all();
    let mut client = RawClient::sending(proxy.addr, request, false);
    let response = client.response("").unwrap();
    client.close_own_side();
    while client.response("").is_some() {}
    (status(&response), origin.take())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn coding_with_any_other_byte_is_refused() {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &[]);
    for byte in 0..=u8::MAX {
        for (before, after) in [("", "chunked"), ("chunked", ""), ("chu", "nked")] {
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding:{before}");
            let request = [
                head.as_bytes(),
                &[byte],
                after.as_bytes(),
                b"\r\n\r\n0\r\n\r\n",
            ]
            .concat();
            let (status, messages) = put(&proxy, &origin, &request);
            let is_blank = b" \t".contains(&byte) && before != "chu";
            let name = format!("{before:?} {byte:#04x} {after:?}: {status}");
            assert_eq!(status == "200", is_blank, "{name}");
            assert_eq!(
                messages.len(),
                usize::from(is_blank),
                "{name}: {messages:?}"
            );
            if let [message] = &messages[..] {
                let head = "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n";
                assert_eq!(message.head, head.as_bytes(), "{name}");
                assert!(message.is_whole && message.body.is_empty(), "{name}");
            }
        }
    }
}

#[test]
fn length_with_any_other_byte_is_refused() {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &[]);
    // Other digits are another length.
    for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
        for (before, after) in [("", "3"), ("3", ""), ("0", "3")] {
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length:{before}");
            let request = [head.as_bytes(), &[byte], after.as_bytes(), b"\r\n\r\nabc"].concat();
            let (status, messages) = put(&proxy, &origin, &request);
            let is_valid = b" \t".contains(&byte) && before != "0";
            let name = format!("{before:?} {byte:#04x} {after:?}: {status}");
            assert_eq!(status == "200", is_valid, "{name}");
            assert_eq!(
                messages.len(),
                usize::from(is_valid),
                "{name}: {messages:?}"
            );
        }
    }
}

#[test]
fn name_of_a_framing_field_with_any_other_byte_does_not_frame() {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &[]);
    for byte in 0..=u8::MAX {
        for (before, after) in [
            ("", "Transfer-Encoding"),
            ("Transfer-Encoding", ""),
            ("Transfer-", "Encoding"),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n{before}");
            let rest = format!("{after}: chunked\r\n\r\n0\r\n\r\n");
            let request = [head.as_bytes(), &[byte], rest.as_bytes()].concat();
            let (status, messages) = put(&proxy, &origin, &request);
            let name = format!("{before:?} {byte:#04x} {after:?}: {status}");
            // A colon ends another name.
            let is_valid = is_token(byte) || byte == b':' && before == "Transfer-";
            assert_eq!(status == "200", is_valid, "{name}");
            assert_eq!(
                messages.len(),
                usize::from(is_valid),
                "{name}: {messages:?}"
            );
            if let [message] = &messages[..] {
                // One body, whose end the one length shows; and no field that CGI calls the coding.
                assert_eq!(message.body, b"0\r\n\r\n", "{name}");
                let head = String::from_utf8_lossy(&message.head).to_ascii_lowercase();
                let mut names = head.lines().filter_map(|line| line.split_once(':'));
                let is_coding = |name: &str| {
                    let name = name.replace(|other: char| !other.is_ascii_alphanumeric(), "_");
                    name == "transfer_encoding"
                };
                assert!(!names.any(|(field, _)| is_coding(field)), "{name}: {head}");
            }
        }
    }
}

#[test]
fn size_of_a_chunk_with_any_other_byte_is_refused() {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &[]);
    // Other digits are another size.
    for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_hexdigit()) {
        for (before, after) in [("", "3"), ("3", ""), ("3;x", "y")] {
            let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
            let rest = format!("{after}\r\nabc\r\n0\r\n\r\n");
            let request = [head.as_bytes(), before.as_bytes(), &[byte], rest.as_bytes()].concat();
            let (status, messages) = put(&proxy, &origin, &request);
            let name = format!("{before:?} {byte:#04x} {after:?}: {status}");
            let is_extension =
                before == "3;x" && !byte.is_ascii_control() || byte == b'\t' && !before.is_empty();
            let is_valid = is_extension || before == "3" && b" ;".contains(&byte);
            assert_eq!(status == "200", is_valid, "{name}");
            for message in &messages {
                assert_eq!(message.is_whole, is_valid, "{name}: {message:?}");
            }
            assert!(!is_valid || messages[0].body == b"abc", "{name}");
        }
    }
}

#[test]
fn any_byte_for_a_blank_of_the_request_line_is_refused() {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &[]);
    for byte in 0..=u8::MAX {
        for (before, after) in [
            ("", "GET / HTTP/1.1"),
            ("GET", "/ HTTP/1.1"),
            ("GET /", "HTTP/1.1"),
            ("GET / HTTP/1.1", ""),
        ] {
            let rest = format!("{after}\r\nHost: a.test\r\n\r\n");
            let request = [before.as_bytes(), &[byte], rest.as_bytes()].concat();
            let (status, messages) = put(&proxy, &origin, &request);
            let name = format!("{before:?} {byte:#04x} {after:?}: {status}");
            // A blank, or the first letter of another method.
            let is_valid = match before {
                "" => is_token(byte),
                "GET / HTTP/1.1" => false,
                _ => byte == b' ',
            };
            assert_eq!(status == "200", is_valid, "{name}");
            assert_eq!(
                messages.len(),
                usize::from(is_valid),
                "{name}: {messages:?}"
            );
        }
    }
}
