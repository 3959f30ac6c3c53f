//! Access control of the admin address.
//!
//! A browser on the operator's machine reaches loopback for any page that is open in it. A page
//! cannot read from another origin, but it can send requests there, and its own host name may later
//! resolve to 127.0.0.1 (DNS rebinding). So `Host` must name this machine unless a token is
//! required, which no foreign page can read, and a request of a page must come from the dashboard.

use super::super::config;
use super::super::request_target;
use super::super::state::ActiveConfig;
use super::SharedAdmin;
use super::error::ApiError;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// The access settings of the current config.
pub(super) struct Access<'a>(&'a config::Admin);

impl<'a> Access<'a> {
    pub(super) fn by(active: &'a ActiveConfig) -> Self {
        Self(&active.config().admin)
    }

    fn allows_host(&self, host: &str) -> bool {
        if self.0.token.is_some() {
            return true;
        }
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        let name = authority.host();
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) => {
                address.is_loopback() || self.0.listen.is_some_and(|ours| ours.ip() == address)
            }
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    }

    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.0.token else {
            return true;
        };
        let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some((scheme, shown)) = shown.and_then(|shown| shown.split_at_checked(7)) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(shown.ct_eq(token.as_bytes()))
    }
}

/// Whether `origin` is the page that `host` serves.
fn is_ours(origin: &str, host: &str) -> bool {
    let rest = origin.strip_prefix("http://");
    let rest = rest.or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

/// Rejects ambiguous requests, in which two readers could see two hosts, origins or tokens.
pub(super) async fn valid(mut request: Request, next: Next) -> Response {
    if let Err(refused) = request_target::check(&mut request) {
        tracing::debug!(
            status = refused.status().as_u16(),
            "request refused: {refused}"
        );
        let mut response = ApiError::new(refused.status(), refused.to_string()).into_response();
        if refused.status() == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 section 15.5.6.
            let methods = HeaderValue::from_static("GET, HEAD, POST, DELETE");
            response.headers_mut().insert(ALLOW, methods);
        }
        if refused.ends_connection() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        return response;
    }
    for name in [ORIGIN, AUTHORIZATION, CONTENT_TYPE] {
        if request.headers().get_all(&name).iter().nth(1).is_some() {
            let problem = format!("the request has more than one field `{name}`");
            return ApiError::bad(problem).into_response();
        }
    }
    next.run(request).await
}

/// Rejects requests of foreign pages.
pub(super) async fn same_site(
    State(admin): State<SharedAdmin>,
    request: Request,
    next: Next,
) -> Response {
    let active = admin.state.active();
    let access = Access::by(&active);
    let headers = request.headers();
    let text = |value: Option<&HeaderValue>| Some(value?.to_str().ok()?.to_owned());
    // It is valid, and left out by HTTP/1.0 alone: by health checks, and by no browser.
    let host = text(headers.get(HOST));
    if host
        .as_deref()
        .is_some_and(|host| !access.allows_host(host))
    {
        let problem = "the Host header does not name this machine: use its IP address or \
                       localhost, or set admin.token";
        return ApiError::new(StatusCode::FORBIDDEN, problem).into_response();
    }
    if let Some(origin) = headers.get(ORIGIN)
        && !text(Some(origin))
            .zip(host)
            .is_some_and(|(origin, host)| is_ours(&origin, &host))
    {
        let problem = "the request comes from a page of another origin";
        return ApiError::new(StatusCode::FORBIDDEN, problem).into_response();
    }
    next.run(request).await
}

/// Rejects requests without the token.
pub(super) async fn authorize(
    State(admin): State<SharedAdmin>,
    request: Request,
    next: Next,
) -> Response {
    if Access::by(&admin.state.active()).is_shown(request.headers()) {
        return next.run(request).await;
    }
    let problem = "the token is missing or wrong: send `Authorization: Bearer` and admin.token";
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, problem).into_response();
    let scheme = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(token: Option<&str>) -> config::Admin {
        config::Admin {
            listen: Some(([10, 0, 0, 1], 9090).into()),
            token: token.map(str::to_owned),
            user_header: None,
        }
    }

    #[test]
    fn host_has_to_name_this_machine_unless_there_is_a_token() {
        for (host, known) in [
            ("127.0.0.1:9090", true),
            ("localhost:9090", true),
            ("LOCALHOST", true),
            ("[::1]:9090", true),
            ("10.0.0.1:9090", true),
            ("10.0.0.2:9090", false),
            ("evil.test:9090", false),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(Access(&config(None)).allows_host(host), known, "{host}");
        }
        assert!(Access(&config(Some("x"))).allows_host("admin.example"));
    }

    #[test]
    fn origin_is_compared_with_the_host() {
        assert!(is_ours("http://127.0.0.1:9090", "127.0.0.1:9090"));
        assert!(is_ours("https://admin.example", "admin.example"));
        for foreign in [
            "null",
            "http://127.0.0.1:9091",
            "http://evil.test",
            "127.0.0.1:9090",
        ] {
            assert!(!is_ours(foreign, "127.0.0.1:9090"), "{foreign}");
        }
    }

    #[test]
    fn token_has_to_be_shown_whole() {
        let shown = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
            Access(&config(Some("0123456789abcdef"))).is_shown(&headers)
        };
        assert!(shown("Bearer 0123456789abcdef"));
        assert!(shown("bearer 0123456789abcdef"));
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeff",
            "Bearer ",
            "Basic 0123456789abcdef",
            "",
        ] {
            assert!(!shown(wrong), "{wrong}");
        }
        assert!(!Access(&config(Some("x"))).is_shown(&HeaderMap::new()));
        assert!(Access(&config(None)).is_shown(&HeaderMap::new()));
    }
}
