//! What identifies a request in log lines, towards the upstream and towards the client.

use http::{HeaderMap, HeaderValue};
use sse_guard::client_key::ClientKey;
use sse_guard::internal::{MAX_REQUEST_ID, X_REQUEST_ID};
use std::sync::Arc;

/// One for each request, in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: HeaderValue,
    route: Option<Arc<str>>,
    client: Option<ClientKey>,
    /// Without the query: tokens travel there.
    path: Box<str>,
}

impl RequestContext {
    pub(crate) fn new(
        id: HeaderValue,
        route: Option<Arc<str>>,
        client: Option<ClientKey>,
        path: &str,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            route,
            client,
            path: path.into(),
        }))
    }

    pub(crate) fn id(&self) -> &HeaderValue {
        &self.0.id
    }

    /// The id as text. All bytes of an id are ASCII.
    pub(crate) fn id_text(&self) -> &str {
        self.0.id.to_str().unwrap_or_default()
    }

    /// Nothing if no route matches.
    pub(crate) fn route(&self) -> Option<&str> {
        self.0.route.as_deref()
    }

    pub(crate) fn client(&self) -> Option<&ClientKey> {
        self.0.client.as_ref()
    }

    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }
}

/// The id that a trusted peer gave the request, else a new one. The request carries it from here on.
pub(crate) fn request_id(headers: &mut HeaderMap, is_trusted: bool) -> HeaderValue {
    let mut given = headers.get_all(&X_REQUEST_ID).iter();
    let known = match (given.next(), given.next()) {
        (Some(id), None) if is_trusted && is_valid(id.as_bytes()) => Some(id.clone()),
        _ => None,
    };
    known.unwrap_or_else(|| {
        let id = new_id();
        headers.insert(X_REQUEST_ID, id.clone());
        id
    })
}

/// Neither spaces nor quotes, so that it stays one word in a line of the log.
fn is_valid(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(is_plain)
}

fn new_id() -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bits = fastrand::u128(..);
    let digits: [u8; 32] = std::array::from_fn(|_| {
        let digit = HEX[(bits & 0xF) as usize];
        bits >>= 4;
        digit
    });
    HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_the_valid_id_of_a_trusted_peer_alone() {
        let long = "a".repeat(MAX_REQUEST_ID + 1);
        for (given, is_trusted, is_kept) in [
            (&["abc-1.2/3=+:_"][..], true, true),
            (&["abc"], false, false),
            (&["a", "b"], true, false),
            (&[""], true, false),
            (&["a b"], true, false),
            (&["a\"b"], true, false),
            (&[long.as_str()], true, false),
            (&[], true, false),
        ] {
            let mut headers = HeaderMap::new();
            for id in given {
                headers.append(X_REQUEST_ID, HeaderValue::from_str(id).unwrap());
            }
            let id = request_id(&mut headers, is_trusted);
            assert_eq!(
                headers.get_all(&X_REQUEST_ID).iter().count(),
                1,
                "{given:?}"
            );
            assert_eq!(headers[X_REQUEST_ID], id);
            assert_eq!(
                given.first() == Some(&id.to_str().unwrap()),
                is_kept,
                "{given:?}"
            );
            if !is_kept {
                let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert!(id.len() == 32 && id.as_bytes().iter().all(is_hex), "{id:?}");
            }
        }
        assert_ne!(new_id(), new_id());
    }
}
