//! Media types in heads, read as browsers read them.
//!
//! The rules are those of [Fetch](https://fetch.spec.whatwg.org/#concept-header-extract-mime-type): all
//! fields of a name are one list, commas in quoted strings do not split it, members that are no media
//! type do not count, and the last of the others wins. One leniency of Chromium and Firefox is in it: a
//! type ends at the first space or parenthesis, too, so that parameters without a semicolon do no harm.

use http::HeaderMap;
use http::header::AsHeaderName;

/// The members of a list that may stand in several fields.
pub(super) struct Members<'a, I> {
    fields: I,
    rest: Option<&'a [u8]>,
    /// A quoted string goes on in the next field: combined, they are one value.
    in_quotes: bool,
}

/// The members of all fields of this name.
pub(super) fn members(
    headers: &HeaderMap,
    name: impl AsHeaderName,
) -> Members<'_, impl Iterator<Item = &[u8]>> {
    Members {
        fields: headers.get_all(name).iter().map(|value| value.as_bytes()),
        rest: None,
        in_quotes: false,
    }
}

/// Where the member ends that `bytes` begin with, and whether a quoted string is open there.
fn end_of_member(bytes: &[u8], mut in_quotes: bool) -> (usize, bool) {
    let mut is_escaped = false;
    let mut start = 0;
    if !in_quotes {
        // Most members have no quoted string.
        match memchr::memchr2(b',', b'"', bytes) {
            Some(at) if bytes[at] == b'"' => start = at,
            Some(at) => return (at, false),
            None => return (bytes.len(), false),
        }
    }
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_quotes => is_escaped = true,
            b'"' => in_quotes = !in_quotes,
            b',' if !in_quotes => return (at, false),
            _ => {}
        }
    }
    (bytes.len(), in_quotes)
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for Members<'a, I> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = match self.rest.take() {
                Some(rest) => rest,
                None => self.fields.next()?,
            };
            let is_begun = std::mem::take(&mut self.in_quotes);
            let (end, in_quotes) = end_of_member(rest, is_begun);
            self.in_quotes = in_quotes;
            let (member, behind) = rest.split_at(end);
            self.rest = behind.get(1..);
            // What ends a quoted string of the field before is no type.
            if !is_begun {
                return Some(member);
            }
        }
    }
}

/// HTTP token code points, RFC 9110 section 5.6.2.
const TOKEN: [bool; 256] = {
    let marks = b"!#$%&'*+-.^_`|~";
    let mut table = [false; 256];
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0;
    while byte < 128 {
        table[byte] |= (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| TOKEN[usize::from(byte)])
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Type and subtype of a member of a list, without its parameters; nothing if it is no media type.
pub(super) fn essence(member: &[u8]) -> Option<&[u8]> {
    let start = member.iter().position(|&byte| !is_space(byte))?;
    let member = &member[start..];
    let ends = |&byte: &u8| is_space(byte) || matches!(byte, b';' | b'(');
    let end = member.iter().position(ends).unwrap_or(member.len());
    let essence = &member[..end];
    let slash = memchr::memchr(b'/', essence)?;
    (is_token(&essence[..slash]) && is_token(&essence[slash + 1..])).then_some(essence)
}

/// The media type of a body: the last that its head names.
pub(super) fn of_body(headers: &HeaderMap) -> Option<&[u8]> {
    members(headers, http::header::CONTENT_TYPE)
        .filter_map(essence)
        .filter(|essence| *essence != b"*/*")
        .last()
}

/// Whether a member of `Accept` is refused by its weight: `q=0`, RFC 9110 section 12.4.2.
pub(super) fn is_refused(member: &[u8]) -> bool {
    let mut parameters = member.split(|&byte| byte == b';').skip(1);
    parameters.any(|parameter| match parameter.trim_ascii() {
        [b'q' | b'Q', b'=', weight @ ..] => {
            weight.starts_with(b"0") && weight.iter().all(|byte| matches!(byte, b'0' | b'.'))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CONTENT_TYPE, HeaderValue::from_str(field).unwrap());
        }
        headers
    }

    /// As Chromium takes them for an EventSource, one by one.
    #[test]
    fn types_are_read_as_browsers_read_them() {
        const STREAM: Option<&str> = Some("text/event-stream");
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["text/event-stream"], STREAM),
            (&["text/event-stream, charset=UTF-8"], STREAM),
            (&["text/html, text/event-stream"], STREAM),
            (&["text/event-stream, text/html"], Some("text/html")),
            (&["text/event-stream;"], STREAM),
            (&["text/event-stream x=y"], STREAM),
            (&["text/event-stream charset=utf-8"], STREAM),
            (&["text/event-stream\tx"], STREAM),
            (&["text/event-stream (comment)"], STREAM),
            (&["text/event-stream;charset=\"a,b\""], STREAM),
            (&["\ttext/event-stream\t;x=y"], STREAM),
            (&["text/event-stream,"], STREAM),
            (&[",text/event-stream"], STREAM),
            (&["text/event-stream , x"], STREAM),
            (&["text/event-stream, */*"], STREAM),
            (&["text/event-stream,text/event-stream"], STREAM),
            (&["text/html", "text/event-stream"], STREAM),
            (&["text/event-stream", "text/html"], Some("text/html")),
            (&["text/event-stream", "charset=utf-8"], STREAM),
            (&["text/event-stream", ""], STREAM),
            (&["text/event-stream;,text/html"], Some("text/html")),
            (&["text/event-stream,x/y z"], Some("x/y")),
            (&["text/html;x=\", text/event-stream"], Some("text/html")),
            (&["text/html;x=\",text/event-stream\""], Some("text/html")),
            (
                &["text/html;x=\"a\\\",text/event-stream"],
                Some("text/html"),
            ),
            (&["text/html;x=\"", "text/event-stream"], Some("text/html")),
            (&["text/html;x=\"", "\", text/event-stream"], STREAM),
            (&["\"text/event-stream\""], None),
            (&["*/*"], None),
            (&["text/event-stream:x"], None),
            (&["text /event-stream"], None),
            (&["text/ event-stream"], None),
            (&["text/event-stream/x"], None),
            (&["text/"], None),
            (&["/event-stream"], None),
            (&["event-stream"], None),
            (&[""], None),
            (&[], None),
        ];
        for (fields, expected) in cases {
            let headers = headers(fields);
            let found = of_body(&headers).map(|found| std::str::from_utf8(found).unwrap());
            assert_eq!(found, *expected, "{fields:?}");
        }
    }

    #[test]
    fn a_weight_of_zero_refuses() {
        for (member, expected) in [
            ("text/event-stream", false),
            ("text/event-stream;q=0.1", false),
            ("text/event-stream;q=1", false),
            ("text/event-stream; q=0", true),
            ("text/event-stream;x=y;Q=0.000", true),
        ] {
            assert_eq!(is_refused(member.as_bytes()), expected, "{member}");
        }
    }
}
