//! Where a response's body ends, by its head (RFC 9112 section 6.3).

use super::chunked::Chunked;
use crate::headers::has_leading_zero;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Version, response};

/// Why a response's head does not define the end of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::upstream) enum BodyLengthError {
    #[error("both Transfer-Encoding and Content-Length")]
    Both,
    #[error("the transfer coding chunked more than once")]
    Repeated,
    #[error("a Transfer-Encoding other than chunked")]
    Coding,
    #[error("a Transfer-Encoding in an HTTP/1.0 response")]
    Version,
    #[error("a Content-Length that is not a number, or two that differ")]
    Length,
}

impl BodyLengthError {
    /// What the application's author can do about it.
    pub(in crate::upstream) fn remedy(self) -> &'static str {
        match self {
            Self::Both => {
                "the application must not set Transfer-Encoding: its HTTP server does, unless there is a \
                 Content-Length"
            }
            Self::Repeated => {
                "the application must not set Transfer-Encoding: its HTTP server adds it a second time"
            }
            Self::Coding => {
                "the application must not set Transfer-Encoding; compression is a Content-Encoding"
            }
            Self::Version => {
                "the application must not set Transfer-Encoding, or must answer by HTTP/1.1"
            }
            Self::Length => {
                "the application must set Content-Length once, to the number of bytes of the body"
            }
        }
    }
}

/// Where a body ends.
#[derive(Debug)]
pub(super) enum BodyLength {
    Chunked(Chunked),
    Length(u64),
    Close,
}

impl BodyLength {
    /// By RFC 9112 section 6.3. Where it leaves a choice, a response that another recipient could frame in
    /// another way is refused, as that is how messages are smuggled:
    ///
    /// - Both fields: item 3 permits Transfer-Encoding to override, and advises to handle it as an error.
    /// - `identity` alone: the coding of RFC 2616 that changes nothing. Section 7 has it no more, but by item 4
    ///   whatever does not end in `chunked` ends with the connection, which is what applications that send it mean.
    /// - `chunked` more than once, in one field or two: section 6.1 forbids it, and the body may be coded once
    ///   or twice.
    /// - Another coding: item 4 frames it by the connection's end, but nothing here decodes it, and the field
    ///   is for this connection alone.
    /// - `Content-Length: 9, 9`, or two such fields: item 5 and RFC 9110 section 8.6 permit equal values to
    ///   count as one. Proxies join repeated fields in this way. One is passed on.
    pub(super) fn of(head: &mut response::Parts) -> Result<Self, BodyLengthError> {
        let coding = coding(&head.headers);
        if coding.is_some() && head.headers.contains_key(CONTENT_LENGTH) {
            return Err(BodyLengthError::Both);
        }
        match coding {
            Some(_) if head.version != Version::HTTP_11 => Err(BodyLengthError::Version),
            Some(coding) => coding,
            None => Ok(match normalize_length(&mut head.headers)? {
                Some(length) => Self::Length(length),
                None => Self::Close,
            }),
        }
    }
}

/// The end by Transfer-Encoding, if there is one.
fn coding(headers: &HeaderMap) -> Option<Result<BodyLength, BodyLengthError>> {
    let fields = headers.get_all(TRANSFER_ENCODING).iter();
    let mut codings = fields
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    let first = codings.next()?;
    let is = |coding: &[u8], name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
    Some(match codings.next() {
        None if is(first, "chunked") => Ok(BodyLength::Chunked(Chunked::default())),
        None if is(first, "identity") => Ok(BodyLength::Close),
        Some(second) if is(first, "chunked") && is(second, "chunked") => {
            Err(BodyLengthError::Repeated)
        }
        _ => Err(BodyLengthError::Coding),
    })
}

/// The length by Content-Length. Equal values become one.
pub(in crate::upstream) fn normalize_length(
    headers: &mut HeaderMap,
) -> Result<Option<u64>, BodyLengthError> {
    let mut found = None;
    let mut count = 0;
    for field in headers.get_all(CONTENT_LENGTH) {
        for value in field.as_bytes().split(|byte| *byte == b',') {
            let digits = std::str::from_utf8(value.trim_ascii()).unwrap_or_default();
            // A number may have a sign to Rust.
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            let length: Option<u64> = digits.parse().ok().filter(|_| is_plain);
            let length = length.ok_or(BodyLengthError::Length)?;
            if found.is_some_and(|found| found != length) {
                return Err(BodyLengthError::Length);
            }
            (found, count) = (Some(length), count + 1);
        }
    }
    let Some(length) = found else {
        return Ok(None);
    };
    if count > 1 || headers.get(CONTENT_LENGTH).is_some_and(has_leading_zero) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    /// How it ends, in a word, and the length that is passed on.
    fn body_length(fields: &[(&str, &str)]) -> (String, Option<String>) {
        let mut response = Response::builder();
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        let word = match BodyLength::of(&mut head) {
            Ok(BodyLength::Chunked(_)) => "chunked".to_owned(),
            Ok(BodyLength::Length(length)) => length.to_string(),
            Ok(BodyLength::Close) => "close".to_owned(),
            Err(error) => format!("{error:?}"),
        };
        let lengths: Vec<_> = head.headers.get_all(CONTENT_LENGTH).iter().collect();
        let length = match lengths[..] {
            [length] => Some(length.to_str().unwrap().to_owned()),
            _ => None,
        };
        (word, length)
    }

    #[test]
    fn body_length_is_that_of_rfc_9112() {
        const CODING: &str = "transfer-encoding";
        const LENGTH: &str = "content-length";
        for (fields, expected) in [
            (&[][..], "close"),
            (&[(CODING, "Chunked")], "chunked"),
            (&[(CODING, "identity")], "close"),
            (&[(CODING, "chunked, chunked")], "Repeated"),
            (&[(CODING, "chunked"), (CODING, "chunked")], "Repeated"),
            (&[(CODING, "gzip, chunked")], "Coding"),
            (&[(CODING, "identity, chunked")], "Coding"),
            (&[(CODING, "chunked, identity")], "Coding"),
            (&[(CODING, "")], "Coding"),
            (&[(CODING, "chunked"), (LENGTH, "9")], "Both"),
            (&[(LENGTH, "9"), (CODING, "identity")], "Both"),
            (&[(LENGTH, "9, 8")], "Length"),
            (&[(LENGTH, "9"), (LENGTH, "8")], "Length"),
            (&[(LENGTH, "9,")], "Length"),
            (&[(LENGTH, "+9")], "Length"),
            (&[(LENGTH, "-9")], "Length"),
            (&[(LENGTH, "")], "Length"),
            (&[(LENGTH, "18446744073709551616")], "Length"),
        ] {
            assert_eq!(body_length(fields).0, expected, "{fields:?}");
        }
        for fields in [
            &[(LENGTH, "9")][..],
            &[(LENGTH, "009")],
            &[(LENGTH, "9, 9")],
            &[(LENGTH, "9,9"), (LENGTH, "09")],
            &[(LENGTH, "9"), (LENGTH, "9")],
        ] {
            let expected = ("9".to_owned(), Some("9".to_owned()));
            assert_eq!(body_length(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn body_length_of_a_transfer_coding_in_http_1_0_is_an_error() {
        let response = Response::builder()
            .version(Version::HTTP_10)
            .header(TRANSFER_ENCODING, "identity");
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        assert_eq!(
            BodyLength::of(&mut head).err(),
            Some(BodyLengthError::Version)
        );
    }
}
