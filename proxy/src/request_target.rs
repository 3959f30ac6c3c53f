//! The target of a request: host and path, validated once, before all other uses.
//!
//! A field that routes and that two parties read differently takes a request past routes, limits
//! and the upstream's own checks. So what is not valid by RFC 9110, RFC 9112 and RFC 3986 is refused
//! here. Behind [`check`] a request has an origin-form target (or `*`) and one valid `Host`, which
//! only HTTP/1.0 may omit.
//!
//! Raw characters that RFC 3986 does not allow but the parser does, such as `|`, `"` and bytes beyond
//! ASCII, are percent-encoded: old clients send them, servers refuse them or read them each in its own
//! way. Routes are chosen by the encoded path.

mod authority;

pub(super) use self::authority::AuthorityError;
use super::path::{self, Normalize, PathError};
use super::percent::encode_raw;
use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use sse_guard::internal::log_invalid_request;
use std::borrow::Cow;

/// What is forwarded, of the methods in common use.
const OTHER_METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Why a request is rejected because of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    #[error("an HTTP/1.1 request must have a Host field")]
    NoHost,
    #[error("a redirect to https requires a Host field")]
    NoHostToRedirect,
    #[error("the request has more than one Host field")]
    SeveralHosts,
    #[error("the Host field is not a host with an optional port: {0}")]
    Host(AuthorityError),
    #[error("the authority of the target is not a host with an optional port: {0}")]
    Authority(AuthorityError),
    #[error("the target's scheme is neither http nor https")]
    Scheme,
    #[error("the target is neither a path that begins with a slash nor an absolute URL")]
    Form,
    #[error("the target * is valid only with OPTIONS")]
    Asterisk,
    /// URL parsers take it for a slash, others for a character of a segment.
    #[error("the path has a raw backslash; send it as %5C, or a slash")]
    PathBackslash,
    #[error("the path has a percent sign without two hexadecimal digits")]
    PathPercent,
    #[error("the request target is too long")]
    TooLong,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("this proxy does not support CONNECT")]
    Connect,
    /// The upstream would send back what this proxy and those ahead of it have added to the request.
    #[error("this proxy does not forward TRACE")]
    Trace,
}

impl TargetError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::Trace => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLong | Self::Path(PathError::TooLong) => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether what follows on the connection may not be HTTP: a client may send what is for its tunnel without a wait
    /// for the response.
    pub(super) fn ends_connection(self) -> bool {
        self == Self::Connect
    }

    /// Reports the reason to the log and to the client.
    pub(super) fn answer<B: From<String>>(self) -> Response<B> {
        let status = self.status();
        log_invalid_request(status.as_str(), &self.to_string());
        let mut response = Response::new(B::from(format!("sse-guard: {self}\n")));
        *response.status_mut() = status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 section 15.5.6. What each upstream supports is not known here.
            response.headers_mut().insert(ALLOW, OTHER_METHODS);
        }
        if self.ends_connection() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}

/// Checks all that routes `request`, and brings it to one form.
pub(super) fn check<B>(request: &mut Request<B>) -> Result<(), TargetError> {
    if request.method() == Method::CONNECT {
        return Err(TargetError::Connect);
    }
    if request.method() == Method::TRACE {
        return Err(TargetError::Trace);
    }
    check_host(request)?;
    let uri = request.uri();
    match (uri.scheme(), uri.authority()) {
        (Some(scheme), Some(authority)) => {
            if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
                return Err(TargetError::Scheme);
            }
            authority::check(authority.as_str().as_bytes()).map_err(TargetError::Authority)?;
            // RFC 9112 section 3.2.2: it overrides Host.
            let host = HeaderValue::from_str(authority.as_str());
            let host = host.map_err(|_| TargetError::Authority(AuthorityError::Character))?;
            let target = origin_form(uri)?;
            *request.uri_mut() = target;
            request.headers_mut().insert(HOST, host);
        }
        (None, None) => {}
        // The authority-form, RFC 9112 section 3.2.3.
        _ => return Err(TargetError::Form),
    }
    let uri = request.uri();
    match uri.path() {
        "*" if request.method() == Method::OPTIONS => return Ok(()),
        "*" => return Err(TargetError::Asterisk),
        path if path.starts_with('/') => check_path(path)?,
        _ => return Err(TargetError::Form),
    }
    if let Some(target) = encoded(uri)? {
        *request.uri_mut() = target;
    }
    Ok(())
}

/// Checks `request` and finds its route, by which its path may get another spelling.
///
/// `is_bounded`: whether the upstream of a route is limited to a base path.
pub(super) fn route<B, R: PartialEq>(
    request: &mut Request<B>,
    normalize: Normalize,
    route_of: impl Fn(&str) -> R,
    is_bounded: impl Fn(&R) -> bool,
) -> Result<R, TargetError> {
    check(request)?;
    let uri = request.uri().clone();
    if uri.path() == "*" {
        return Ok(route_of("*"));
    }
    let resolved = path::resolve(uri.path(), normalize, route_of, is_bounded)?;
    if let Cow::Owned(path) = resolved.path {
        let query = uri.query().map(|query| format!("?{query}"));
        let target = PathAndQuery::try_from(path + query.as_deref().unwrap_or_default());
        *request.uri_mut() = Uri::from(target.map_err(|_| TargetError::TooLong)?);
    }
    Ok(resolved.route)
}

/// The route of a target in a request line, and what the upstream gets, for the fuzz target; `None` if it is refused.
#[doc(hidden)]
pub fn resolve_target<R: PartialEq>(
    target: &[u8],
    normalize: Normalize,
    route_of: impl Fn(&str) -> R,
    is_bounded: impl Fn(&R) -> bool,
) -> Option<(R, String)> {
    let uri = Uri::from_maybe_shared(Bytes::copy_from_slice(target)).ok()?;
    let mut request = Request::get(uri).header(HOST, "a.test").body(()).ok()?;
    let route = route(&mut request, normalize, route_of, is_bounded).ok()?;
    Some((route, request.uri().to_string()))
}

/// Checks a host with perhaps a port, as `Host` has it.
pub(super) fn check_authority(text: &[u8]) -> Result<(), AuthorityError> {
    authority::check(text)
}

/// Whether this is a host with perhaps a port.
pub(super) fn is_authority(text: &[u8]) -> bool {
    authority::check(text).is_ok()
}

/// RFC 9112 section 3.2: one, and a valid one, also beside an absolute target.
fn check_host<B>(request: &Request<B>) -> Result<(), TargetError> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => authority::check(host.as_bytes()).map_err(TargetError::Host),
        (Some(_), Some(_)) => Err(TargetError::SeveralHosts),
        (None, _) if request.version() <= Version::HTTP_10 => Ok(()),
        (None, _) => Err(TargetError::NoHost),
    }
}

fn origin_form(uri: &Uri) -> Result<Uri, TargetError> {
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    // RFC 9112 section 3.2.1: an empty path is sent as a slash.
    let slash = if target.starts_with('/') { "" } else { "/" };
    let target = PathAndQuery::try_from(format!("{slash}{target}"));
    Ok(Uri::from(target.map_err(|_| TargetError::TooLong)?))
}

/// Raw characters are percent-encoded later, but for a backslash, which has two meanings.
fn check_path(path: &str) -> Result<(), TargetError> {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut is_digit = || bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit());
                if !(is_digit() && is_digit()) {
                    return Err(TargetError::PathPercent);
                }
            }
            b'\\' => return Err(TargetError::PathBackslash),
            _ => {}
        }
    }
    Ok(())
}

/// An origin-form target with its raw characters percent-encoded, if it has any.
fn encoded(uri: &Uri) -> Result<Option<Uri>, TargetError> {
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    match encode_raw(target, b"") {
        Cow::Borrowed(_) => Ok(None),
        Cow::Owned(target) => {
            let target = PathAndQuery::try_from(target).map_err(|_| TargetError::TooLong)?;
            Ok(Some(Uri::from(target)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `check` makes of a request as hyper reads it: the target and the host.
    fn checked(
        method: &str,
        target: &str,
        version: Version,
        hosts: &[&[u8]],
    ) -> Result<(String, Option<String>), TargetError> {
        let mut request = Request::builder().method(method).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.uri(target).body(()).unwrap();
        check(&mut request)?;
        let host = request.headers().get(HOST);
        let host = host.map(|host| host.to_str().unwrap().to_owned());
        Ok((request.uri().to_string(), host))
    }

    fn get(target: &str) -> Result<String, TargetError> {
        checked("GET", target, Version::HTTP_11, &[b"a.test"]).map(|(target, _)| target)
    }

    #[test]
    fn request_has_one_valid_host() {
        let old = Version::HTTP_10;
        let new = Version::HTTP_11;
        type Case = (
            Version,
            &'static str,
            &'static [&'static [u8]],
            Result<Option<&'static str>, TargetError>,
        );
        let cases: &[Case] = &[
            (new, "/", &[b"a.test:80"], Ok(Some("a.test:80"))),
            (new, "/", &[], Err(TargetError::NoHost)),
            (old, "/", &[], Ok(None)),
            (old, "/", &[b"a"], Ok(Some("a"))),
            (
                old,
                "/",
                &[b""],
                Err(TargetError::Host(AuthorityError::Empty)),
            ),
            (new, "/", &[b"a", b"b"], Err(TargetError::SeveralHosts)),
            (new, "/", &[b"a", b"a"], Err(TargetError::SeveralHosts)),
            (old, "/", &[b"a", b"b"], Err(TargetError::SeveralHosts)),
            (
                new,
                "/",
                &[b"a b"],
                Err(TargetError::Host(AuthorityError::Character)),
            ),
            (
                new,
                "/",
                &[b"a\xe9"],
                Err(TargetError::Host(AuthorityError::Character)),
            ),
            (new, "http://b:8000/", &[b"a"], Ok(Some("b:8000"))),
            (new, "HTTP://b/", &[b"a"], Ok(Some("b"))),
            (new, "https://b/", &[b"a"], Ok(Some("b"))),
            (new, "http://[::1]:80/", &[b"a"], Ok(Some("[::1]:80"))),
            (old, "http://b/", &[], Ok(Some("b"))),
            (new, "http://b/", &[], Err(TargetError::NoHost)),
            (
                new,
                "http://b/",
                &[b"a", b"b"],
                Err(TargetError::SeveralHosts),
            ),
            (
                new,
                "http://b/",
                &[b"a/b"],
                Err(TargetError::Host(AuthorityError::Character)),
            ),
            (
                new,
                "http://u:p@b/",
                &[b"b"],
                Err(TargetError::Authority(AuthorityError::UserInfo)),
            ),
            (
                new,
                "http://u@b/",
                &[b"b"],
                Err(TargetError::Authority(AuthorityError::UserInfo)),
            ),
            (
                new,
                "http://b:99999/",
                &[b"b"],
                Err(TargetError::Authority(AuthorityError::Port)),
            ),
            (
                new,
                "http://b,c/",
                &[b"b"],
                Err(TargetError::Authority(AuthorityError::Character)),
            ),
            (new, "ftp://b/", &[b"b"], Err(TargetError::Scheme)),
            (new, "ws://b/", &[b"b"], Err(TargetError::Scheme)),
        ];
        for (version, target, hosts, expected) in cases {
            let found = checked("GET", target, *version, hosts).map(|(_, host)| host);
            let expected = expected.map(|host| host.map(str::to_owned));
            assert_eq!(found, expected, "{version:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn target_is_a_path_or_an_absolute_url() {
        for (target, expected) in [
            ("/", "/"),
            ("/a?b=c", "/a?b=c"),
            ("//a", "//a"),
            ("/a?", "/a?"),
            ("http://b", "/"),
            ("http://b/a?c", "/a?c"),
            ("http://b?c", "/?c"),
            ("/a%2Fb;c=d/[x]", "/a%2Fb;c=d/[x]"),
            ("/a|b^c/{d}\"e\u{e9}", "/a%7Cb%5Ec/%7Bd%7D%22e%C3%A9"),
            ("http://b/a|?c|", "/a%7C?c%7C"),
            (
                "/?a[]={x}|y^`z\\&100%&\u{e9}",
                "/?a[]=%7Bx%7D%7Cy%5E%60z%5C&100%&%C3%A9",
            ),
        ] {
            assert_eq!(get(target), Ok(expected.to_owned()), "{target}");
        }
        for (target, why) in [
            ("g", TargetError::Form),
            ("g:80", TargetError::Form),
            ("*", TargetError::Asterisk),
            ("/a\\b", TargetError::PathBackslash),
            ("/a%", TargetError::PathPercent),
            ("/a%4", TargetError::PathPercent),
            ("/a%4g", TargetError::PathPercent),
            (&format!("/?{}", "|".repeat(30_000)), TargetError::TooLong),
        ] {
            assert_eq!(get(target), Err(why), "{target}");
        }
    }

    #[test]
    fn methods_have_their_own_targets() {
        let put = |method, target| checked(method, target, Version::HTTP_11, &[b"a"]);
        assert!(put("OPTIONS", "*").is_ok());
        assert!(put("OPTIONS", "/").is_ok());
        assert_eq!(put("POST", "*"), Err(TargetError::Asterisk));
        for target in ["b:80", "/", "http://b/"] {
            assert_eq!(
                put("CONNECT", target),
                Err(TargetError::Connect),
                "{target}"
            );
        }
    }

    #[test]
    fn refusal_says_why() {
        let response = TargetError::NoHost.answer::<String>();
        assert_eq!(response.status(), 400);
        let text = "sse-guard: an HTTP/1.1 request must have a Host field\n";
        assert_eq!(response.body(), text);
        assert!(!response.headers().contains_key(ALLOW));
        let connect = TargetError::Connect.answer::<String>();
        assert_eq!(connect.status(), 405);
        assert_eq!(connect.headers()[ALLOW], OTHER_METHODS);
        assert_eq!(connect.headers()[CONNECTION], "close");
        let trace = TargetError::Trace.answer::<String>();
        assert_eq!(
            (
                trace.status().as_u16(),
                trace.headers().contains_key(CONNECTION)
            ),
            (405, false)
        );
    }
}
