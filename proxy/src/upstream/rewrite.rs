//! What changes in the heads of requests and responses between client and upstream.

use super::member::Member;
use super::outgoing::{BoxedBody, Outgoing, nothing};
use super::progress::{Progress, Uploading};
use super::without_trailers::WithoutTrailers;
use crate::headers::{self, Options};
use crate::request_context::RequestContext;
use bytes::BytesMut;
use http::header::{ALT_SVC, CONTENT_LENGTH, EXPECT, TRAILER, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use sse_guard::client_key::{ForwardedIp, PeerAddr};
use sse_guard::internal::{ClientConnection, Upload};
use sse_guard::serve::RequestBody;

/// What a route sets for the requests to its upstream.
#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) trusted: ForwardedIp,
    pub(super) max_body: Option<u64>,
    /// The header with the name in the client's certificate.
    pub(super) client_subject: Option<HeaderName>,
}

impl Rewrite {
    /// The request as the upstream gets it. Its box is freed here: an `async` block that moves a value out
    /// of a box keeps the box to its end.
    pub(super) fn request(
        &self,
        member: &Member,
        request: Box<Request<RequestBody>>,
        protocol: Option<HeaderValue>,
        progress: &Progress,
    ) -> Result<Outgoing, http::Error> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = match member.base() {
            // RFC 9112 section 3.2.4: `*` is the server, whatever lies below it.
            _ if path == "*" => PathAndQuery::from_static("*"),
            "" => PathAndQuery::try_from(path)?,
            base => PathAndQuery::try_from(format!("{base}{path}"))?,
        };
        let peer: Option<PeerAddr> = parts.extensions.remove();
        // Without a peer, the author of the head is unknown.
        let is_by_client = peer.is_some_and(|peer| !self.trusted.is_trusted_peer(peer));
        let options = match is_by_client {
            true => Options::All,
            false => Options::Known,
        };
        headers::remove_hop_by_hop(&mut parts.headers, options);
        headers::remove_misspelt(&mut parts.headers);
        parts.headers.remove(TRAILER);
        // It has been answered, and the body is sent without a wait for another answer: an upstream that
        // declines one would take the body for the next request.
        parts.headers.remove(EXPECT);
        if let Some(peer) = peer {
            let context = parts.extensions.get::<RequestContext>();
            let is_tls = context.is_some_and(RequestContext::is_tls);
            headers::forward(&mut parts.headers, peer, is_tls, &self.trusted);
        }
        // Behind the removal of what a client claims, which includes fields about certificates.
        if let Some(field) = &self.client_subject {
            headers::remove_field(&mut parts.headers, field, false);
            let context = parts.extensions.get::<RequestContext>();
            let name = context.and_then(RequestContext::client_subject);
            // It is visible ASCII.
            if let Some(Ok(name)) = name.map(HeaderValue::from_str) {
                parts.headers.insert(field, name);
            }
        }
        // Behind what names the client's host to the upstream.
        member.host().set(&mut parts.headers);
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut parts.headers, protocol);
        }
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // hyper drops a body of unknown length of a GET or HEAD that has no such field.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
        if parts
            .headers
            .get(CONTENT_LENGTH)
            .is_some_and(headers::has_leading_zero)
            && let Some(length) = body.size_hint().exact()
        {
            parts.headers.insert(CONTENT_LENGTH, length.into());
        }
        let body = Uploading::new(WithoutTrailers(body), progress);
        let most = self.max_body.and_then(|most| most.try_into().ok());
        let body = Limited::new(body, most.unwrap_or(usize::MAX));
        let body = body.boxed_unsync();
        Ok(Outgoing::new(Request::from_parts(parts, body)))
    }
}

/// The response as the client gets it.
pub(super) fn response<B>(response: &mut Response<B>) {
    headers::remove_hop_by_hop(response.headers_mut(), Options::All);
    // RFC 7838: it names other addresses and protocols of the upstream, by which clients would bypass this
    // proxy.
    response.headers_mut().remove(ALT_SVC);
    *response.version_mut() = Version::HTTP_11;
}

/// The request once more, if its body was empty.
pub(super) fn repeated(request: &Request<BoxedBody>, upload: &Upload) -> Option<Outgoing> {
    // A body that was read ahead has been taken and is still to be sent.
    if !upload.is_over() || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(nothing());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = copy_of_path(request.uri());
    *again.headers_mut() = copy_of(request.headers());
    if let Some(client) = request.extensions().get::<ClientConnection>() {
        again.extensions_mut().insert(client.clone());
    }
    Some(Outgoing::new(again))
}

/// Out of the buffer that the request came in, which the others keep as a whole.
fn copy_of(headers: &HeaderMap) -> HeaderMap {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    let mut copies = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        all.extend_from_slice(value.as_bytes());
        // Each was one before.
        if let Ok(copy) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            copies.append(name, copy);
        }
    }
    copies
}

/// The target of a request to the upstream, out of that buffer, too.
fn copy_of_path(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map(PathAndQuery::as_str);
    let copy = path.and_then(|path| PathAndQuery::try_from(path).ok());
    copy.map_or_else(|| uri.clone(), Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[test]
    fn request_body_that_was_read_ahead_is_not_repeated_as_an_empty_one() {
        let upload = RequestBody::default().upload();
        let ahead = Full::from("ahead").map_err(|never| match never {});
        assert!(repeated(&Request::new(ahead.boxed_unsync()), &upload).is_none());
        assert!(repeated(&Request::new(nothing()), &upload).is_some());
    }
}
