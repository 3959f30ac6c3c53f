//! The request that opened a stream, to send it again.

use crate::client_key::{ClientKey, peer_addr};
use crate::cors::EarlyPermission;
use http::header::HOST;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, request};
use std::net::IpAddr;

/// The head of a request, copied into few bytes: a header value is a slice of the connection's read buffer, and
/// would keep all of it in memory.
#[derive(Debug)]
pub(super) struct SavedRequest {
    uri: Box<str>,
    version: Version,
    fields: Box<[u8]>,
    extensions: Extensions,
}

/// Appends a name or value, prefixed by its length.
fn write(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).unwrap_or(0);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&part[..length as usize]);
}

fn read<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
    *bytes = rest;
    Some(part)
}

/// Without what must not outlive the request, see `ResumeLayer::strip_extensions`.
fn extensions(head: &request::Parts, strip: fn(&mut Extensions)) -> Extensions {
    let mut extensions = head.extensions.clone();
    // The state of the client's connection applies to requests on it only.
    #[cfg(feature = "serve")]
    extensions.remove::<crate::serve::ClientConnection>();
    strip(&mut extensions);
    extensions
}

impl SavedRequest {
    pub(super) fn of(head: &request::Parts, strip: fn(&mut Extensions)) -> Self {
        let mut fields = Vec::new();
        for (name, value) in &head.headers {
            write(&mut fields, name.as_str().as_bytes());
            write(&mut fields, value.as_bytes());
        }
        Self {
            uri: head.uri.to_string().into(),
            version: head.version,
            fields: fields.into(),
            extensions: extensions(head, strip),
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut rest = &*self.fields;
        while let (Some(name), Some(value)) = (read(&mut rest), read(&mut rest)) {
            // Both were parsed before.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        }
        headers
    }

    /// The request target and the `Host`.
    pub(super) fn target(&self) -> (&str, Option<&[u8]>) {
        let mut rest = &*self.fields;
        let mut host = None;
        while let (Some(name), Some(value)) = (read(&mut rest), read(&mut rest)) {
            if name == HOST.as_str().as_bytes() {
                host = Some(value);
            }
        }
        (&self.uri, host)
    }

    /// The address of the peer.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        peer_addr(&self.extensions)?
            .ip()
            .map(|ip| ip.to_canonical())
    }

    /// The key of the client, if a layer has set one.
    pub(super) fn client(&self) -> Option<ClientKey> {
        self.extensions.get().cloned()
    }

    /// What a response head must allow for a page of another origin to read the stream.
    pub(super) fn granted(&self) -> Option<&EarlyPermission> {
        self.extensions.get()
    }

    pub(super) fn to_request<B: Default>(&self) -> Request<B> {
        let mut request = Request::new(B::default());
        // It was parsed before.
        *request.uri_mut() = self.uri.parse().unwrap_or(Uri::from_static("/"));
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers();
        *request.extensions_mut() = self.extensions.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_request_equals_the_original() {
        let request = Request::get("http://app:81/feed?a=%20&b#c")
            .version(Version::HTTP_2)
            .header("accept", "text/event-stream")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-empty", "")
            .header("x-odd", HeaderValue::from_bytes(b"\xE2\x9C\x93").unwrap())
            .extension(7_u8)
            .extension("large");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let strip = |extensions: &mut Extensions| _ = extensions.remove::<&str>();
        let (saved, ()) = SavedRequest::of(&head, strip)
            .to_request::<()>()
            .into_parts();
        assert_eq!(saved.method, head.method);
        assert_eq!(saved.uri, head.uri);
        assert_eq!(saved.version, head.version);
        assert_eq!(saved.headers, head.headers);
        assert_eq!(saved.extensions.get(), Some(&7_u8));
        assert_eq!(saved.extensions.get::<&str>(), None);
    }

    #[test]
    fn saved_target_without_a_host_is_unchanged() {
        for target in ["/feed?q", "*", "/"] {
            let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
            assert_eq!(
                SavedRequest::of(&head, |_| {}).to_request::<()>().uri(),
                target
            );
        }
    }
}
