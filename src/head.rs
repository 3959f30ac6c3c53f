//! Reading and changing message heads.

mod cache_control;
mod media_type;

pub use cache_control::CacheControl;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const EVENT_STREAM: &str = "text/event-stream";

pub(crate) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The content codings of the [IANA registry](https://www.iana.org/assignments/http-parameters), but for
/// `identity`, and the older names that RFC 9110 section 8.4.1 keeps.
const CODINGS: [&str; 12] = [
    "gzip",
    "br",
    "zstd",
    "deflate",
    "x-gzip",
    "compress",
    "x-compress",
    "dcb",
    "dcz",
    "aes128gcm",
    "exi",
    "pack200-gzip",
];

/// Whether there is a field of one of these names. One pass over the names: most requests have few fields, and each
/// look-up in the map costs more.
pub(crate) fn has_any(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    headers.keys().any(|name| names.contains(name))
}

/// The members of a list of tokens that may stand in several fields, RFC 9110 section 5.6.1.
pub fn list<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let values = headers.get_all(name).iter();
    values
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Whether such a list has this member, in any case.
pub fn list_has(headers: &HeaderMap, name: &HeaderName, member: &[u8]) -> bool {
    list(headers, name).any(|found| found.eq_ignore_ascii_case(member))
}

/// Whether a body is in a content coding. Values that name none, such as `none` and `utf-8`, are in common
/// use to keep middleware from compressing: clients read such a body as it is.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    list(headers, &CONTENT_ENCODING).any(|coding| {
        let mut known = CODINGS.iter();
        known.any(|known| coding.eq_ignore_ascii_case(known.as_bytes()))
    })
}

/// Whether the media type of a body is that of event streams, as browsers read it.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    is_of_type(headers, EVENT_STREAM)
}

/// Whether the media type of a body is that of JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    is_of_type(headers, "application/json")
}

fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    media_type::of_body(headers)
        .is_some_and(|found| found.eq_ignore_ascii_case(media_type.as_bytes()))
}

/// Whether a body is meant to be an event stream, though its type reads as something else: the type is
/// missing, or has the words in it.
pub(crate) fn names_event_stream(headers: &HeaderMap) -> bool {
    let mut fields = headers.get_all(CONTENT_TYPE).iter();
    fields.any(|value| {
        let words = "event-stream".as_bytes();
        let mut windows = value.as_bytes().windows(words.len());
        windows.any(|window| window.eq_ignore_ascii_case(words))
    })
}

/// Whether a body is one that can be shown to a person: text, JSON or XML, as it is.
pub(crate) fn is_text(headers: &HeaderMap) -> bool {
    let Some(content_type) = media_type::of_body(headers) else {
        return false;
    };
    let content_type = content_type.to_ascii_lowercase();
    let ends: [&[u8]; 4] = [b"/json", b"+json", b"/xml", b"+xml"];
    let is_text =
        content_type.starts_with(b"text/") || ends.iter().any(|end| content_type.ends_with(end));
    is_text && !is_encoded(headers)
}

/// Whether `Accept` names event streams; `*/*` does not.
pub fn accepts_event_stream(headers: &HeaderMap) -> bool {
    accepts(headers, EVENT_STREAM)
}

/// Whether `Accept` names JSON; `*/*` does not.
pub(crate) fn accepts_json(headers: &HeaderMap) -> bool {
    accepts(headers, "application/json")
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    // Most fields are this type alone. Only the first counts here: a
    // quoted string may continue in the next field.
    let first = headers.get(ACCEPT).map(HeaderValue::as_bytes);
    if first == Some(media_type.as_bytes()) {
        return true;
    }
    media_type::members(headers, ACCEPT).any(|member| {
        let named = media_type::essence(member);
        named.is_some_and(|named| named.eq_ignore_ascii_case(media_type.as_bytes()))
            && !media_type::is_refused(member)
    })
}

/// Sets `Accept-Encoding: identity`, so that the response can be read.
pub fn accept_identity_only(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Makes the head of a stream fit for caches, compressors and buffering proxies.
pub(crate) fn harden(headers: &mut HeaderMap, cache_control: CacheControl) {
    headers.remove(CONTENT_LENGTH);
    let no = HeaderValue::from_static("no");
    match cache_control {
        CacheControl::Replace => {
            headers.insert(X_ACCEL_BUFFERING, no);
        }
        CacheControl::Keep => {
            headers.entry(X_ACCEL_BUFFERING).or_insert(no);
        }
    }
    cache_control.apply(headers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::CACHE_CONTROL;

    #[test]
    fn a_body_can_be_shown_when_it_is_text_in_no_coding() {
        for (content_type, expected) in [
            ("text/plain; charset=utf-8", true),
            ("Application/JSON", true),
            ("application/problem+json", true),
            ("application/xml", true),
            ("application/octet-stream", false),
            ("image/png", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            assert!(!is_text(&headers));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_text(&headers), expected, "{content_type}");
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            assert!(!is_text(&headers));
        }
    }

    #[test]
    fn a_coding_is_one_that_is_registered() {
        for (fields, expected) in [
            (&["gzip"][..], true),
            (&["X-GZIP"], true),
            (&["identity, br"], true),
            (&["none", "zstd"], true),
            (&["deflate,"], true),
            (&["none"], false),
            (&["None"], false),
            (&["utf-8"], false),
            (&["identity"], false),
            (&["identity, none"], false),
            (&["identity", "none"], false),
            (&["chunked"], false),
            (&["gzipped"], false),
            (&[""], false),
            (&[" , "], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(field));
            }
            assert_eq!(is_encoded(&headers), expected, "{fields:?}");
        }
        for coding in CODINGS {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            assert!(is_encoded(&headers), "{coding}");
        }
    }

    #[test]
    fn a_request_accepts_streams_when_it_names_them() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("text/*", false),
            ("text/event-stream;q=0, */*", false),
            ("x/y;z=\",\", text/event-stream", true),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepts_event_stream(&headers), expected, "{accept}");
        }
    }

    #[test]
    fn the_head_forbids_to_buffer_and_to_transform() {
        for (cache_control, expected, buffering) in [
            (CacheControl::Replace, "no-cache, no-transform", "no"),
            (CacheControl::Keep, "max-age=60, no-transform", "yes"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
            let mut buffered = headers.clone();
            harden(&mut headers, cache_control);
            assert_eq!(headers[CACHE_CONTROL], expected);
            assert_eq!(headers[X_ACCEL_BUFFERING], "no");
            assert!(!headers.contains_key(CONTENT_LENGTH));

            buffered.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("yes"));
            harden(&mut buffered, cache_control);
            assert_eq!(buffered[X_ACCEL_BUFFERING], buffering);
        }
    }
}
