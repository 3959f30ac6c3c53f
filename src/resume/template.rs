//! A request that may be sent again while its stream lives.

use crate::client_key::{ClientKey, peer_addr};
use crate::cors::Granted;
use http::header::HOST;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, request};
use std::net::IpAddr;

/// The head of a request, in as few bytes as can be: a header's value is a part of the buffer that its
/// request came in, and would keep all of that.
#[derive(Debug)]
pub(super) struct Template {
    uri: Box<str>,
    version: Version,
    fields: Box<[u8]>,
    extensions: Extensions,
}

/// Name and value, each behind its length.
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

fn extensions(head: &request::Parts, strip: fn(&mut Extensions)) -> Extensions {
    let mut extensions = head.extensions.clone();
    // Its state is for requests that come on it.
    #[cfg(feature = "serve")]
    extensions.remove::<crate::serve::ClientConnection>();
    strip(&mut extensions);
    extensions
}

impl Template {
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
            // Both have been what they are before.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                headers.append(name, value);
            }
        }
        headers
    }

    /// What is asked for: the target, and the host that it belongs to.
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

    /// The address that it came from.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        peer_addr(&self.extensions).map(|peer| peer.ip().to_canonical())
    }

    /// The client that it came from, as it is told apart from others, if somebody has said so.
    pub(super) fn client(&self) -> Option<ClientKey> {
        self.extensions.get().cloned()
    }

    /// What a head has to allow for a page of another origin to read what follows.
    pub(super) fn granted(&self) -> Option<&Granted> {
        self.extensions.get()
    }

    /// The request once more.
    pub(super) fn request<B: Default>(&self) -> Request<B> {
        let mut request = Request::new(B::default());
        // It has been one before.
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
    fn it_is_the_same_request() {
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
        let (again, ()) = Template::of(&head, strip).request::<()>().into_parts();
        assert_eq!(again.method, head.method);
        assert_eq!(again.uri, head.uri);
        assert_eq!(again.version, head.version);
        assert_eq!(again.headers, head.headers);
        assert_eq!(again.extensions.get(), Some(&7_u8));
        assert_eq!(again.extensions.get::<&str>(), None);
    }

    #[test]
    fn a_target_without_a_host_stays_one() {
        for target in ["/feed?q", "*", "/"] {
            let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
            assert_eq!(Template::of(&head, |_| {}).request::<()>().uri(), target);
        }
    }
}
