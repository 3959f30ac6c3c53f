//! Messages as a strict recipient reads them.

use std::fmt;

/// The fields that the proxy adds to each request, as a client at 127.0.0.1 causes them, or that vary. A row shows
/// them only where they are otherwise.
pub(super) const ADDED: [&str; 5] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];
/// Those of responses that vary.
pub(super) const VARYING: [&str; 3] = ["connection", "date", "x-request-id"];

/// A message, or the part of one that has come.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Without the fields that are known.
    pub(super) head: Vec<u8>,
    /// The payload. How the proxy cuts it into chunks depends on how it comes.
    pub(super) body: Vec<u8>,
    trailers: Vec<u8>,
    /// It has its end.
    pub(super) is_whole: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        write!(f, "\n    head: {}", text(&self.head))?;
        write!(f, "\n    body: {}", text(&self.body))?;
        write!(f, "\n    trailers: {}", text(&self.trailers))?;
        write!(f, "\n    whole: {}", self.is_whole)
    }
}

impl Message {
    /// All messages in `bytes`, without the fields `known`. `method`: of the request, if they are responses.
    pub(super) fn all(bytes: &[u8], method: &str, known: &[&str]) -> Vec<Self> {
        let mut messages = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (message, len) = Self::first(rest, method, known);
            messages.push(message);
            rest = &rest[len..];
        }
        messages
    }

    /// The first message in `bytes`, and its length.
    pub(super) fn first(bytes: &[u8], method: &str, known: &[&str]) -> (Self, usize) {
        let mut message = Self {
            head: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            is_whole: false,
        };
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            message.head = bytes.to_vec();
            return (message, bytes.len());
        };
        let (head, rest) = bytes.split_at(end + 4);
        let text = head.escape_ascii().to_string().to_ascii_lowercase();
        let value = |name: &str| {
            let lines = text.split("\\r\\n").skip(1);
            let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let value = values.next();
            assert_eq!(values.next(), None, "{name} twice: {text}");
            value
        };
        let status = text
            .strip_prefix("http/1.1 ")
            .and_then(|line| line.get(..3));
        let is_bodiless = status.is_some_and(|status| {
            status.starts_with('1') || ["204", "304"].contains(&status) || method == "HEAD"
        });
        let is_chunked = value("transfer-encoding").map(|coding| assert_eq!(coding, "chunked"));
        let length = value("content-length").map(|length| length.parse().unwrap());
        assert!(is_chunked.is_none() || length.is_none(), "{text}");
        message.head = without(head, known);
        let len = if is_bodiless {
            message.is_whole = true;
            0
        } else if is_chunked.is_some() {
            message.read_chunks(rest)
        } else {
            let len = length.unwrap_or(0).min(rest.len());
            message.body = rest[..len].to_vec();
            message.is_whole = len == length.unwrap_or(0);
            len
        };
        (message, head.len() + len)
    }

    /// The body in `bytes`, all of whose framing must be as a strict sender writes it. Returns its length.
    fn read_chunks(&mut self, bytes: &[u8]) -> usize {
        let mut place = 0;
        loop {
            let rest = &bytes[place..];
            let Some(end) = find(rest, b"\r\n") else {
                return bytes.len();
            };
            let digits = std::str::from_utf8(&rest[..end]).unwrap();
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(is_plain && !digits.starts_with("00"), "{digits:?}");
            let size = usize::from_str_radix(digits, 16).unwrap();
            let rest = &rest[end + 2..];
            place += end + 2;
            if size == 0 {
                let len = match rest.starts_with(b"\r\n") {
                    true => Some(0),
                    false => find(rest, b"\r\n\r\n").map(|end| end + 2),
                };
                let Some(len) = len else {
                    return bytes.len();
                };
                self.trailers = rest[..len].to_vec();
                self.is_whole = true;
                return place + len + 2;
            }
            let here = size.min(rest.len());
            self.body.extend_from_slice(&rest[..here]);
            if rest.len() < size + 2 {
                return bytes.len();
            }
            assert_eq!(&rest[size..size + 2], b"\r\n");
            place += size + 2;
        }
    }

    /// Whether this is the start of `whole`, and not all of it.
    pub(super) fn is_cut_of(&self, whole: &Self) -> bool {
        let is_head = self.head == whole.head && whole.body.starts_with(&self.body);
        // A head of which a part is missing has all of its fields.
        !self.is_whole && (is_head || find(&self.head, b"\r\n\r\n").is_none())
    }
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The head without one of each of these fields, if it is as it always is.
fn without(head: &[u8], known: &[&str]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut rest = head;
    while let Some(end) = find(rest, b"\r\n") {
        let (line, behind) = rest.split_at(end + 2);
        lines.push(line);
        rest = behind;
    }
    let texts: Vec<_> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    let host = texts.iter().find_map(|line| line.strip_prefix("host: "));
    let host = host.unwrap_or_default().trim_end().to_owned();
    let is_usual = |name: &str, value: &str| match name {
        "forwarded" => value == format!("for=127.0.0.1;host=\"{host}\";proto=http"),
        "x-forwarded-for" => value == "127.0.0.1",
        "x-forwarded-proto" => value == "http",
        "x-forwarded-host" => value == host,
        "connection" => value == "close",
        "date" => value.ends_with(" GMT"),
        _ => value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
    };
    let mut found = Vec::new();
    let mut left = Vec::new();
    for (line, text) in lines.iter().zip(&texts) {
        let field = text.trim_end().split_once(": ");
        let known = field.filter(|(name, value)| {
            known.contains(name) && is_usual(name, value) && !found.contains(name)
        });
        match known {
            Some((name, _)) => found.push(name),
            None => left.extend_from_slice(line),
        }
    }
    left
}
