use super::*;

/// hyper gets all of `bytes`, with these replaced, wherever the input is split.
#[track_caller]
fn assert_marks(bytes: &str, marked: &[usize]) {
    assert_marks_of(bytes, bytes.len(), marked);
}

/// hyper gets the first `len` bytes.
#[track_caller]
fn assert_marks_of(bytes: &str, len: usize, marked: &[usize]) {
    for cut in 0..=bytes.len() {
        let mut scan = RequestScan::default();
        let mut seen = bytes.as_bytes().to_vec();
        let (first, second) = seen.split_at_mut(cut);
        let mut passed = scan.check(first);
        if passed == cut {
            passed += scan.check(second);
        }
        assert_eq!(passed, len, "{bytes:?} cut at {cut}");
        let found: Vec<_> = (0..seen.len()).filter(|&at| seen[at] == 0).collect();
        assert_eq!(found, marked, "{bytes:?} cut at {cut}");
    }
}

#[test]
fn fragment_is_replaced_only_in_request_targets() {
    assert_marks("GET /a#b HTTP/1.1\r\nX: #\r\n\r\n", &[6]);
    assert_marks("\r\nGET /a?b#c HTTP/1.1\r\n\r\n", &[10]);
    assert_marks("GET http://a/#b HTTP/1.1\r\n\r\n", &[13]);
    assert_marks("GET / HTTP/1.1\r\nCookie: a=#\r\nX-#: y\r\n\r\n", &[]);
    assert_marks("X# / HTTP/1.1\r\n\r\n", &[]);
    let method = "X".repeat(300);
    assert_marks(&format!("{method} /#"), &[302]);
}

const GET: &str = "GET /# HTTP/1.1\r\n\r\n";

#[test]
fn requests_after_a_body_are_scanned() {
    for first in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        // Bodies may contain anything.
        format!("POST / HTTP/1.1\r\nContent-Length: 19\r\n\r\n{GET}"),
        format!(
            "POST / HTTP/1.1\r\nCONTENT-LENGTH:{}19\t \r\n\r\n{GET}",
            " ".repeat(80)
        ),
        format!(
            "POST / HTTP/1.1\r\nContent-Length: {}19\r\n\r\n{GET}",
            "0".repeat(80)
        ),
        format!("POST / HTTP/1.1\r\nContent-Length: 19\r\ncontent-length:19\r\n\r\n{GET}"),
        format!(
            "POST / HTTP/1.1\r\nContent-Length: 19\r\nX: {}\r\n\r\n{GET}",
            "y".repeat(80)
        ),
        format!(
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n13;a=#\r\n{GET}\r\n0\r\n\
             X: #\r\n\r\n"
        ),
    ] {
        assert_marks(&format!("{first}{GET}"), &[first.len() + 5]);
        let both = format!("{first}{first}");
        assert_marks(&format!("{both}{GET}"), &[both.len() + 5]);
    }
}

#[test]
fn input_after_an_invalid_request_is_not_passed_on() {
    let length = "Content-Length: 5";
    let chunked = "Transfer-Encoding: chunked";
    for (fields, marked) in [
        (format!("{length}\r\n{chunked}"), Some(53)),
        (format!("{chunked}\r\n{length}"), Some(59)),
        ("Content-Length: 1, 1".to_owned(), Some(34)),
        ("Content-Length: +1".to_owned(), Some(33)),
        ("Content-Length: 1 1".to_owned(), Some(35)),
        ("Content-Length: 18446744073709551616".to_owned(), Some(52)),
        ("Content-Length: 18446744073709551614".to_owned(), Some(52)),
        ("Content-Length:".to_owned(), None),
        (format!("{length}\r\nContent-Length: 6"), None),
    ] {
        let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        let marked: Vec<_> = marked.into_iter().collect();
        assert_marks_of(&format!("{head}{GET}"), head.len(), &marked);
    }
    for body in ["1\n", "0\r\n\n", "0\r\nX: y\n"] {
        let head = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_marks_of(&format!("{head}{GET}"), head.len(), &[]);
    }
}

#[test]
fn head_of_many_fields_waits_for_a_connection_that_accepts_them() {
    let few = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(100);
    assert_marks(&format!("{few}\r\n{GET}"), &[few.len() + 7]);
    let many = format!("{few}c: d\r\n\r\n");
    assert_marks_of(&many, few.len(), &[]);
    let mut scan = RequestScan::with_many_fields();
    assert_eq!(scan.check(&mut many.clone().into_bytes()), many.len());
    let mut scan = RequestScan::default();
    scan.check(&mut many.into_bytes());
    assert!(scan.has_many_fields());
}

#[test]
fn input_after_a_possible_switch_waits_for_the_response() {
    for first in [
        "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nupgrade:\r\nContent-Length: 2\r\n\r\n/#",
        "CONNECT a:80 HTTP/1.1\r\n\r\n",
    ] {
        assert_marks_of(&format!("{first}{GET}"), first.len(), &[]);
        for (is_switch, expected) in [(true, "GET /#"), (false, "GET /\0")] {
            let mut scan = RequestScan::default();
            scan.check(&mut first.as_bytes().to_vec());
            assert_eq!(scan.awaits_response_to(), Some(1));
            scan.response_known(is_switch);
            let mut seen = *b"GET /#";
            assert_eq!(scan.check(&mut seen), 6);
            assert_eq!(seen, expected.as_bytes());
        }
    }
}

#[test]
fn bare_lf_in_a_head_ends_the_input() {
    let head = "GET /a HTTP/1.1\r\nX: y\r\nContent-Length: 5\r\n\r\n";
    let crs: Vec<_> = head.match_indices('\r').map(|(at, _)| at).collect();
    for at in crs {
        let mut bytes = head.to_owned();
        bytes.remove(at);
        assert_marks_of(&format!("{bytes}{GET}"), at + 1, &[at]);
        let mut scan = RequestScan::default();
        scan.check(&mut bytes.into_bytes());
        assert_eq!(scan.error(), Some(RequestError::BareLf));
        assert!(scan.is_invalid() && scan.take_cut_head() && !scan.take_cut_head());
    }
    for bytes in ["\nGET", "\r\n\nGET", "GET\n", "GET /\nHTTP/1.1"] {
        let at = bytes.rfind('\n').unwrap();
        assert_marks_of(bytes, at + 1, &[at]);
    }
    // Behind another request, too, with a body or without.
    let next = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\r\n\n";
    assert_marks_of(next, next.len(), &[next.len() - 1]);
}

#[test]
fn request_line_without_a_version_ends_the_input() {
    for line in ["GET", "GET /", "GET ", "GET /?a"] {
        assert_marks_of(
            &format!("{line}\r\nX: y\r\n\r\n"),
            line.len() + 2,
            &[line.len() + 1],
        );
        let mut scan = RequestScan::default();
        scan.check(&mut format!("{line}\r\n").into_bytes());
        assert_eq!(scan.error(), Some(RequestError::RequestLine), "{line}");
    }
}
