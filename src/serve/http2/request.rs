//! A request over HTTP/2 in the form that services have of one over HTTP/1.1.

use super::InterimHeads;
use crate::client_key::PeerAddr;
use crate::connection_auth;
use crate::serve::attachment::ClientConnection;
use crate::serve::request_body::{Http2Body, RequestBody};
use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::{COOKIE, EXPECT, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, request};
use std::sync::Arc;

/// Converts a request; or the error that its stream ends with.
pub(super) fn convert(
    request: Request<RecvStream>,
    peer: PeerAddr,
    connection: ClientConnection,
    interim: &Arc<InterimHeads>,
) -> Result<Request<RequestBody>, Reason> {
    let (mut parts, stream) = request.into_parts();
    // These schemes log in a connection, and this one may carry requests of several users.
    if connection_auth::in_request(&parts.headers) {
        return Err(Reason::HTTP_1_1_REQUIRED);
    }
    set_host(&mut parts)?;
    join_cookies(&mut parts.headers);
    let expects_continue = parts
        .headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let body = Http2Body::new(
        stream,
        &parts.headers,
        expects_continue.then(|| interim.clone()),
    );
    let (body, _) = RequestBody::new(body);
    connection
        .with_interim_heads(interim)
        .insert_into(&mut parts.extensions, peer);
    Ok(Request::from_parts(parts, body))
}

/// `:authority` becomes `Host`, and the target gets the origin-form: RFC 9113 section 8.3.1.
fn set_host(parts: &mut request::Parts) -> Result<(), Reason> {
    if parts.method == Method::CONNECT {
        return Ok(());
    }
    let uri = std::mem::take(&mut parts.uri).into_parts();
    let target = uri
        .path_and_query
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(target);
    let Some(authority) = uri.authority else {
        return Ok(());
    };
    let mut hosts = parts.headers.get_all(HOST).iter();
    let is_same = |host: &HeaderValue| {
        host.as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes())
    };
    if !hosts.all(is_same) {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let host = Bytes::copy_from_slice(authority.as_str().as_bytes());
    let host = HeaderValue::from_maybe_shared(host).map_err(|_| Reason::PROTOCOL_ERROR)?;
    parts.headers.insert(HOST, host);
    Ok(())
}

/// Clients may split the field for compression, RFC 9113 section 8.2.3. Services of HTTP/1.1 expect one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    // Parts of valid values.
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(request: request::Builder) -> Result<request::Parts, Reason> {
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        set_host(&mut parts)?;
        join_cookies(&mut parts.headers);
        Ok(parts)
    }

    #[test]
    fn authority_becomes_the_host() {
        let parts = converted(Request::get("https://a.test:8443/x?y=1")).unwrap();
        assert_eq!(parts.uri, "/x?y=1");
        assert_eq!(parts.headers[HOST], "a.test:8443");
        let parts = converted(Request::get("http://a.test/").header(HOST, "A.test")).unwrap();
        assert_eq!(parts.headers[HOST], "a.test");
        let other = Request::get("http://a.test/").header(HOST, "b.test");
        assert_eq!(converted(other).unwrap_err(), Reason::PROTOCOL_ERROR);
        let parts = converted(Request::get("/x").header(HOST, "a.test")).unwrap();
        assert_eq!(
            (parts.uri.path(), &parts.headers[HOST]),
            ("/x", &HeaderValue::from_static("a.test"))
        );
    }

    #[test]
    fn cookies_are_one_field() {
        let request = Request::get("/")
            .header(COOKIE, "a=1")
            .header(COOKIE, "b=2")
            .header(COOKIE, "c=3");
        let parts = converted(request).unwrap();
        let cookies: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }
}
