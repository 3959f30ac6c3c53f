//! Preflights.

use super::permissions::{Allowed, only};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request};

/// Whether this is a
/// [CORS-preflight request](https://fetch.spec.whatwg.org/#cors-preflight-request).
pub(crate) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && only(headers, &ORIGIN).is_some()
        && only(headers, &ACCESS_CONTROL_REQUEST_METHOD).is_some()
}

/// A request of a browser for permission to send another one.
#[derive(Debug)]
pub(super) struct Preflight {
    target: Box<str>,
    pub(super) method: HeaderValue,
    pub(super) headers: Option<HeaderValue>,
}

impl Preflight {
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        if !is_preflight(request)
            || headers
                .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
                .iter()
                .count()
                > 1
        {
            return None;
        }
        let target = request.uri().path_and_query();
        let target = target.map_or("", PathAndQuery::as_str);
        Some(Self {
            target: target.into(),
            method: headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.clone(),
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        })
    }

    /// The parts of the request that the response depends on, besides host and origin.
    pub(super) fn key(&self) -> impl std::hash::Hash + '_ {
        let headers = self.headers.as_ref().map(HeaderValue::as_bytes);
        (&*self.target, self.method.as_bytes(), headers)
    }

    /// Whether the service allowed all of it,
    /// [as a browser reads the response](https://fetch.spec.whatwg.org/#cors-preflight-fetch-0).
    pub(super) fn is_allowed(&self, headers: &HeaderMap, allowed: Allowed) -> bool {
        let with_credentials = allowed.credentials();
        let lists = |name, wanted: &[u8]| {
            let values = headers.get_all(name).iter();
            let mut items = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
            items.any(|item| {
                let item = item.trim_ascii();
                // With credentials `*` is not a wildcard, and it never covers Authorization.
                let is_any = item == b"*" && !with_credentials;
                (is_any && !wanted.eq_ignore_ascii_case(b"authorization"))
                    || item.eq_ignore_ascii_case(wanted)
            })
        };
        let method = self.method.as_bytes();
        let is_simple = [&b"GET"[..], b"HEAD", b"POST"].contains(&method);
        let mut names = self
            .headers
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty());
        (is_simple || lists(ACCESS_CONTROL_ALLOW_METHODS, method))
            && names.all(|name| lists(ACCESS_CONTROL_ALLOW_HEADERS, name))
    }
}
