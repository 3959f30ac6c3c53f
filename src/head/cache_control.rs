//! `Cache-Control` of event streams: that of the service, or one that forbids to cache.

use super::{list, list_has};
use http::header::CACHE_CONTROL;
use http::{Extensions, HeaderMap, HeaderValue};

const NO_TRANSFORM: &str = "no-transform";

/// What becomes of the `Cache-Control` of an event stream.
///
/// Set it with [`SseGuardLayer::cache_control`](crate::SseGuardLayer::cache_control), or for one request or
/// response in its extensions. The response's counts most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// `no-cache, no-transform` in its place, and `private` if it has that; one with `no-store` stays.
    #[default]
    Replace,
    /// It stays, and so does the service's `X-Accel-Buffering`; only `no-transform` is added. A stream without
    /// them gets the same fields as with `Replace`. A cache that stores the stream then stores its heartbeats,
    /// too.
    Keep,
}

impl CacheControl {
    /// That of a request or response.
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        let has = |directive: &[u8]| list_has(headers, &CACHE_CONTROL, directive);
        let is_set = || list(headers, &CACHE_CONTROL).any(|directive| !directive.is_empty());
        let value = match self {
            Self::Keep if is_set() => match has(NO_TRANSFORM.as_bytes()) {
                true => return,
                false => with_no_transform(headers),
            },
            _ if has(b"no-store") => return,
            _ if has(b"private") => HeaderValue::from_static("private, no-cache, no-transform"),
            _ => HeaderValue::from_static("no-cache, no-transform"),
        };
        headers.insert(CACHE_CONTROL, value);
    }
}

/// All its fields in one: some caches read only the first.
fn with_no_transform(headers: &HeaderMap) -> HeaderValue {
    let fields = headers.get_all(CACHE_CONTROL).iter();
    let fields = fields.map(HeaderValue::as_bytes);
    let set: Vec<_> = fields.filter(|field| !field.is_empty()).collect();
    let joined = [&set[..], &[NO_TRANSFORM.as_bytes()]]
        .concat()
        .join(&b", "[..]);
    // Parts of valid values are a valid value.
    HeaderValue::from_bytes(&joined).unwrap_or(HeaderValue::from_static(NO_TRANSFORM))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of a stream that has these.
    fn applied(cache_control: CacheControl, fields: &[&'static str]) -> Vec<HeaderValue> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(field));
        }
        cache_control.apply(&mut headers);
        let once = headers.clone();
        // Several layers may do so.
        cache_control.apply(&mut headers);
        assert_eq!(headers, once, "{fields:?}");
        headers.get_all(CACHE_CONTROL).iter().cloned().collect()
    }

    #[test]
    fn what_the_service_says_is_replaced_unless_it_is_stricter() {
        for (fields, expected) in [
            (&[][..], &["no-cache, no-transform"][..]),
            (&["max-age=60"], &["no-cache, no-transform"]),
            (&["max-age=60", "public"], &["no-cache, no-transform"]),
            (
                &["max-age=60, Private"],
                &["private, no-cache, no-transform"],
            ),
            (&["private, No-Store"], &["private, No-Store"]),
            (&["private", "no-store"], &["private", "no-store"]),
        ] {
            assert_eq!(applied(CacheControl::Replace, fields), expected);
        }
    }

    #[test]
    fn what_the_service_says_is_kept_and_may_not_be_transformed() {
        for (fields, expected) in [
            (&["max-age=60"][..], &["max-age=60, no-transform"][..]),
            (
                &["public", "s-maxage=5"],
                &["public, s-maxage=5, no-transform"],
            ),
            (&["", "no-store"], &["no-store, no-transform"]),
            (&["private=\"a\""], &["private=\"a\", no-transform"]),
            (&["No-Transform, max-age=1"], &["No-Transform, max-age=1"]),
            (
                &["max-age=1", "no-transform"],
                &["max-age=1", "no-transform"],
            ),
            // No directive.
            (&[], &["no-cache, no-transform"]),
            (&[""], &["no-cache, no-transform"]),
            (&[" , "], &["no-cache, no-transform"]),
        ] {
            assert_eq!(applied(CacheControl::Keep, fields), expected, "{fields:?}");
        }
    }
}
