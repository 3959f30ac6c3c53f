//! The id after which a client continues: a header field, or a parameter of the query where a client
//! cannot set header fields.

use http::{HeaderMap, HeaderName, Uri};
use std::fmt::Write;

pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `last_event_id`, `lastEventId`, `Last-Event-ID` and other spellings of polyfills and of Mercure.
fn is_name(name: &str) -> bool {
    let letters = name.bytes().filter(|byte| !matches!(byte, b'_' | b'-'));
    letters
        .map(|byte| byte.to_ascii_lowercase())
        .eq(*b"lasteventid")
}

fn in_query(query: &str) -> Option<&str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut ids = pairs.filter(|(name, value)| is_name(name) && !value.is_empty());
    ids.next().map(|(_, value)| value)
}

/// The id of a request: that of the header, else that of the query.
pub(crate) fn of(headers: &HeaderMap, uri: &Uri) -> Option<Box<[u8]>> {
    if let Some(id) = headers.get(LAST_EVENT_ID) {
        return Some(id.as_bytes().into());
    }
    let id = decoded(in_query(uri.query()?)?);
    // An id with one of these cannot be an event's, nor a header's.
    (!id.iter().any(u8::is_ascii_control)).then(|| id.into())
}

/// The same target with another id in its query, if it has one there; without it for an empty `id`.
///
/// The upstream may read either: an id that was right when the client connected would repeat events.
pub(crate) fn with_id(uri: &Uri, id: &[u8]) -> Option<Uri> {
    let query = uri.query()?;
    let names_id = |pair: &str| is_name(pair.split('=').next().unwrap_or_default());
    if !query.split('&').any(names_id) {
        return None;
    }
    let mut pairs = Vec::new();
    for pair in query.split('&') {
        if !names_id(pair) {
            pairs.push(pair.to_owned());
        } else if !id.is_empty() {
            let name = pair.split('=').next().unwrap_or_default();
            pairs.push(format!("{name}={}", encoded(id)));
        }
    }
    let mut target = uri.path().to_owned();
    if !pairs.is_empty() {
        target.push('?');
        target.push_str(&pairs.join("&"));
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *byte == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
        decoded.push(escaped.unwrap_or(match byte {
            b'+' => b' ',
            byte => *byte,
        }));
    }
    decoded
}

fn encoded(id: &[u8]) -> String {
    let mut encoded = String::with_capacity(id.len());
    for byte in id {
        match byte {
            b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(*byte)),
            byte => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of_target(target: &str) -> Option<String> {
        let id = of(&HeaderMap::new(), &target.parse().unwrap())?;
        Some(String::from_utf8(id.into()).unwrap())
    }

    #[test]
    fn query_is_read_in_each_usual_spelling_without_the_header() {
        for (target, id) in [
            ("/?last_event_id=7", Some("7")),
            ("/?a=b&lastEventId=7", Some("7")),
            ("/?Last-Event-ID=7&a", Some("7")),
            ("/?lastEventID=urn%3auuid:1", Some("urn:uuid:1")),
            ("/?lastEventId=a+b%20c", Some("a b c")),
            ("/?lastEventId=a%2", Some("a%2")),
            ("/?lastEventId=", None),
            ("/?lastEventId", None),
            ("/?lastEventId=a%0Ab", None),
            ("/?eventId=7", None),
            ("/?mylastEventId=7", None),
            ("/", None),
        ] {
            assert_eq!(of_target(target).as_deref(), id, "{target}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static("8"));
        let id = of(&headers, &Uri::from_static("/?lastEventId=7"));
        assert_eq!(id.as_deref(), Some(&b"8"[..]));
    }

    #[test]
    fn id_in_the_query_is_replaced() {
        for (target, id, expected) in [
            ("/f?lastEventId=7", "9", Some("/f?lastEventId=9")),
            (
                "/f?a=%20&last_event_id=7&b",
                "x y&z",
                Some("/f?a=%20&last_event_id=x%20y%26z&b"),
            ),
            (
                "http://app/f?lastEventId",
                "9",
                Some("http://app/f?lastEventId=9"),
            ),
            ("/f?lastEventId=7&a=b", "", Some("/f?a=b")),
            ("/f?lastEventId=7", "", Some("/f")),
            ("/f?a=b", "9", None),
            ("/f", "9", None),
        ] {
            let with = with_id(&target.parse().unwrap(), id.as_bytes());
            let expected = expected.map(|target| target.parse::<Uri>().unwrap());
            assert_eq!(with, expected, "{target}");
        }
    }
}
