//! Request targets as they come from the socket.
//!
//! `http::Uri` drops a fragment without a word, so that a service cannot refuse it. A request-target has none
//! (RFC 9112 section 3.2), and to repair it would serve another request than what parties on the way
//! have seen. So the byte that begins a fragment becomes one that no request line may have, and hyper
//! answers with 400.

/// Longer than any line that matters here; of a line that is longer the rest is not kept.
const KEPT: usize = 64;

/// Follows the requests of a connection from the start of one.
#[derive(Debug)]
pub(super) struct Targets {
    at: At,
    /// The start of the line, in lower case.
    line: [u8; KEPT],
    len: usize,
    /// The length of the body, as the head told so far.
    body: u64,
    /// Behind this head nothing is known to be a request.
    is_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The start of a request, perhaps behind empty lines.
    Start,
    Method,
    Target,
    /// Behind the target, or in a field.
    Line,
    /// So many bytes of a body are left.
    Body(u64),
    /// A chunked body, or another protocol.
    Unknown,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            at: At::Start,
            line: [0; KEPT],
            len: 0,
            body: 0,
            is_last: false,
        }
    }
}

impl Targets {
    /// Marks what must not be in a target.
    pub(super) fn check(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match self.at {
                At::Unknown => return,
                At::Body(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &mut bytes[here..];
                    self.at = match left - here as u64 {
                        0 => At::Start,
                        left => At::Body(left),
                    };
                }
                At::Start | At::Method | At::Target | At::Line => {
                    let end = bytes.iter().position(|&byte| byte == b'\n');
                    let (line, rest) = bytes.split_at_mut(end.map_or(bytes.len(), |end| end + 1));
                    self.line(line);
                    bytes = rest;
                }
            }
        }
    }

    /// A line, or the next part of one.
    fn line(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            match (self.at, *byte) {
                (At::Start, b'\r' | b'\n') => continue,
                (At::Start, _) => self.at = At::Method,
                (At::Method, b' ') => self.at = At::Target,
                (At::Target, b' ') => self.at = At::Line,
                (At::Target, b'#') => *byte = 0,
                _ => {}
            }
            if *byte == b'\n' {
                self.end_line();
            } else if let Some(place) = self.line.get_mut(self.len) {
                *place = byte.to_ascii_lowercase();
                self.len += 1;
            }
        }
    }

    fn end_line(&mut self) {
        let line = self.line[..self.len].trim_ascii_end();
        let is_whole = self.len < KEPT;
        if line.is_empty() {
            self.at = match (self.is_last, self.body) {
                (true, _) => At::Unknown,
                (false, 0) => At::Start,
                (false, body) => At::Body(body),
            };
            self.body = 0;
        } else {
            self.at = At::Line;
            if let Some(length) = line.strip_prefix(b"content-length:") {
                let length = str::from_utf8(length.trim_ascii()).ok();
                match length.and_then(|length| length.parse().ok()) {
                    Some(length) if is_whole => self.body = length,
                    _ => self.is_last = true,
                }
            }
            let ends: [&[u8]; 3] = [b"transfer-encoding:", b"upgrade:", b"connect "];
            self.is_last |= ends.iter().any(|end| line.starts_with(end));
        }
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hyper gets of `bytes`, whatever the cut; `#` for what it refuses.
    #[track_caller]
    fn assert_marks(bytes: &str, marked: &[usize]) {
        for cut in 0..=bytes.len() {
            let mut targets = Targets::default();
            let mut seen = bytes.as_bytes().to_vec();
            let (first, second) = seen.split_at_mut(cut);
            targets.check(first);
            targets.check(second);
            let found: Vec<_> = (0..seen.len()).filter(|&at| seen[at] == 0).collect();
            assert_eq!(found, marked, "{bytes:?} cut at {cut}");
        }
    }

    #[test]
    fn a_fragment_is_marked_in_targets_alone() {
        assert_marks("GET /a#b HTTP/1.1\r\nX: #\r\n\r\n", &[6]);
        assert_marks("\r\nGET /a?b#c HTTP/1.1\n\n", &[10]);
        assert_marks("GET http://a/#b HTTP/1.1\r\n\r\n", &[13]);
        assert_marks("GET / HTTP/1.1\r\nCookie: a=#\r\nX-#: y\r\n\r\n", &[]);
        assert_marks("X# / HTTP/1.1\r\n\r\n", &[]);
    }

    #[test]
    fn requests_are_followed_as_far_as_it_is_known_where_they_begin() {
        let get = "GET /# HTTP/1.1\r\n\r\n";
        assert_marks(&format!("GET / HTTP/1.1\r\n\r\n{get}{get}"), &[23, 42]);
        // Bodies hold what they like.
        let post = "POST / HTTP/1.1\r\nContent-Length: 19\r\n\r\n";
        assert_marks(&format!("{post}{get}"), &[]);
        assert_marks(&format!("{post}{get}{get}"), &[post.len() + 19 + 5]);
        for last in [
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\n\r\n",
        ] {
            assert_marks(&format!("{last}{get}"), &[]);
        }
    }
}
