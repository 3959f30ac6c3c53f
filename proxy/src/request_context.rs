//! What is known of a request from its head on: for log lines, towards the upstream and towards the client.

use crate::config::ListenerConfig;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use sse_guard::client_key::ClientKey;
use sse_guard::internal::{MAX_REQUEST_ID, X_REQUEST_ID};
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// One for each request, in its extensions. One allocation: in a burst thousands of requests wait at once.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: RequestId,
    started: Instant,
    method: Method,
    version: Version,
    route: Option<Arc<str>>,
    /// That of the connection.
    listener: Option<Arc<ListenerConfig>>,
    client: Option<ClientKey>,
    /// Most requests have none, so it takes little room.
    identity: Option<Arc<Identity>>,
    /// As the client wrote it, without the query: tokens travel there.
    path: Box<str>,
}

/// What is known of a client beyond its address.
#[derive(Debug)]
struct Identity {
    user: Option<Arc<str>>,
    /// The subject of the certificate by which the client has connected.
    subject: Option<Arc<str>>,
}

/// Copied for each use, so that a waiting request holds no header value.
#[derive(Clone, Debug)]
pub(crate) enum RequestId {
    /// Of a trusted peer. ASCII.
    Given(Box<str>),
    New([u8; 16]),
}

impl RequestContext {
    /// To be called before the route is looked up, which may change the path: `set_route` follows.
    pub(crate) fn new<B>(request: &Request<B>, id: RequestId, client: Option<ClientKey>) -> Self {
        Self(Arc::new(Inner {
            id,
            started: Instant::now(),
            method: request.method().clone(),
            version: request.version(),
            route: None,
            listener: None,
            client,
            identity: None,
            path: request.uri().path().into(),
        }))
    }

    /// Has an effect only before the context is shared.
    pub(crate) fn set_route(&mut self, route: Arc<str>) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.route = Some(route);
        }
    }

    /// Has an effect only before the context is shared.
    pub(crate) fn set_listener(&mut self, listener: &Arc<ListenerConfig>) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.listener = Some(listener.clone());
        }
    }

    /// The user, and the subject of the client's certificate. Has an effect only before the context is shared.
    pub(crate) fn set_identity(&mut self, user: Option<Arc<str>>, subject: Option<Arc<str>>) {
        if user.is_none() && subject.is_none() {
            return;
        }
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.identity = Some(Arc::new(Identity { user, subject }));
        }
    }

    pub(crate) fn id(&self) -> &RequestId {
        &self.0.id
    }

    pub(crate) fn started(&self) -> Instant {
        self.0.started
    }

    pub(crate) fn method(&self) -> &Method {
        &self.0.method
    }

    pub(crate) fn version(&self) -> Version {
        self.0.version
    }

    /// Nothing if no route matches.
    pub(crate) fn route(&self) -> Option<&str> {
        self.0.route.as_deref()
    }

    /// Nothing if it has no name in the config.
    pub(crate) fn listener(&self) -> Option<&Arc<str>> {
        self.0.listener.as_ref()?.log_name()
    }

    /// Whether the client connected over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        let mut listener = self.0.listener.iter();
        listener.any(|listener| listener.tls.is_some())
    }

    /// As a trusted proxy names it, or by the certificate of a client that is not one.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        self.0.identity.as_ref()?.user.as_ref()
    }

    /// The subject of the certificate by which the client has connected.
    pub(crate) fn client_subject(&self) -> Option<&str> {
        self.0.identity.as_ref()?.subject.as_deref()
    }

    pub(crate) fn client(&self) -> Option<&ClientKey> {
        self.0.client.as_ref()
    }

    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }
}

impl RequestId {
    /// The id that a trusted peer gave the request, else a new one. The request carries it from here on.
    pub(crate) fn of(headers: &mut HeaderMap, is_trusted: bool) -> Self {
        let mut given = headers.get_all(&X_REQUEST_ID).iter();
        if let (Some(id), None, true) = (given.next(), given.next(), is_trusted)
            && let Ok(id) = id.to_str()
            && is_valid(id.as_bytes())
        {
            return Self::Given(id.into());
        }
        let id = Self::New(fastrand::u128(..).to_ne_bytes());
        headers.insert(X_REQUEST_ID, id.header_value());
        id
    }

    pub(crate) fn header_value(&self) -> HeaderValue {
        let value = match self {
            Self::Given(id) => HeaderValue::from_str(id),
            Self::New(bytes) => HeaderValue::from_bytes(&hex(bytes)),
        };
        // Both are ASCII without control characters.
        value.unwrap_or(HeaderValue::from_static("-"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(id) => f.write_str(id),
            Self::New(bytes) => f.write_str(std::str::from_utf8(&hex(bytes)).unwrap_or("-")),
        }
    }
}

fn hex(bytes: &[u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|at| {
        let byte = bytes[at / 2];
        let digit = if at % 2 == 0 { byte >> 4 } else { byte & 0xF };
        DIGITS[usize::from(digit)]
    })
}

/// Neither spaces nor quotes, so that it stays one word in a line of the log.
fn is_valid(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_keeps_the_valid_id_of_a_trusted_peer_alone() {
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
            let id = RequestId::of(&mut headers, is_trusted).to_string();
            assert_eq!(
                headers.get_all(&X_REQUEST_ID).iter().count(),
                1,
                "{given:?}"
            );
            assert_eq!(headers[X_REQUEST_ID], id);
            assert_eq!(given.first() == Some(&&*id), is_kept, "{given:?}");
            if !is_kept {
                let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert!(id.len() == 32 && id.as_bytes().iter().all(is_hex), "{id:?}");
            }
        }
        let new = || RequestId::of(&mut HeaderMap::new(), true).to_string();
        assert_ne!(new(), new());
    }

    /// A size class of the allocator that no part of a stream has: a burst of requests leaves no holes among
    /// those of the streams.
    #[test]
    fn context_has_a_size_class_of_its_own() {
        let counters = 2 * size_of::<usize>();
        assert!(
            (129..=160).contains(&(size_of::<Inner>() + counters)),
            "{}",
            size_of::<Inner>()
        );
    }
}
