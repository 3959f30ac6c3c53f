//! Percent-encoding (RFC 3986 section 2.1).

use std::borrow::Cow;

/// Whether RFC 3986 allows this byte anywhere in a URI: unreserved, reserved, or the percent sign.
///
/// Brackets are reserved. So `[` and `%5B` are different URIs, and `a[]=1` is left alone in a query.
const fn is_uri_character(byte: u8) -> bool {
    matches!(
        byte,
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%'
            | b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
    )
}

/// `text` with each byte percent-encoded that RFC 3986 does not allow in a URI, but for those in `kept`.
pub(super) fn encode_raw<'t>(text: &'t str, kept: &[u8]) -> Cow<'t, str> {
    let stays = |byte: u8| is_uri_character(byte) || kept.contains(&byte);
    if text.bytes().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte.is_ascii() && stays(byte) {
            true => encoded.push(byte.into()),
            false => push_escape(&mut encoded, byte),
        }
    }
    Cow::Owned(encoded)
}

pub(super) fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)].into());
    text.push(DIGITS[usize::from(byte & 15)].into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_raw_escapes_what_no_uri_has() {
        let allowed = "-._~:/?#[]@!$&'()*+,;=%";
        for byte in 0..=0x7f {
            let text = char::from(byte).to_string();
            let is_allowed = byte.is_ascii_alphanumeric() || allowed.contains(&text);
            let expected = match is_allowed {
                true => text.clone(),
                false => format!("%{byte:02X}"),
            };
            assert_eq!(encode_raw(&text, b""), expected, "{byte:#x}");
        }
        assert_eq!(
            encode_raw("a\u{e9}|\u{1f600}", b""),
            "a%C3%A9%7C%F0%9F%98%80"
        );
        assert_eq!(encode_raw("a{b}|", b"{}"), "a{b}%7C");
    }
}
