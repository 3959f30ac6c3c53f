//! CORS fields on the answers that this crate gives in place of the service inside.
//!
//! A page of another origin may read a response only if that says so
//! ([CORS](https://fetch.spec.whatwg.org/#http-cors-protocol)). The service inside says so on its own
//! responses, but not on those of the layers around it: early answers, empty streams with `retry:`,
//! rejections, gateway errors. A browser takes one without `Access-Control-Allow-Origin` for a network
//! error, and an `EventSource` gives up on it for good.
//!
//! This layer remembers which origins the service allows, and adds the same permission to answers of
//! this crate. Responses of the service itself are never changed. For a general CORS policy use the
//! service's own, or `tower_http::cors`, which knows neither whose a response is nor what the service
//! allows.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use sse_guard::{SseGuardLayer, connection_limit::ConnectionLimitLayer, cors::CorsLayer};
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(CorsLayer::new())
//!     .layer(SseGuardLayer::new().limit(ConnectionLimitLayer::new().total(1)))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .header("access-control-allow-origin", "https://app.test")
//!                 .body(Full::new(Bytes::from("data: 1\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let get = || {
//!     let get = Request::get("/").header("accept", "text/event-stream");
//!     get.header("origin", "https://app.test").body(())
//! };
//! let _first = service.clone().oneshot(get()?).await?;
//! let rejected = service.oneshot(get()?).await?;
//! assert_eq!(rejected.status(), 503);
//! assert_eq!(rejected.headers()["access-control-allow-origin"], "https://app.test");
//! assert_eq!(rejected.headers()["vary"], "origin");
//! # Ok(())
//! # }
//! ```
//!
//! # What is remembered
//!
//! For an hour after each response that allows it: an origin at one host, and whether credentials were
//! allowed with it; or that any origin is allowed there (`*`, never with credentials). What one origin is
//! allowed opens nothing to another, and what one virtual host allows opens nothing at another (`Host`,
//! `X-Forwarded-Host`, `host` of `Forwarded`). Where a response to the same method and path allows the
//! origin without credentials, so do the answers in its place.
//!
//! A response that does not allow the origin of its request withdraws what was remembered: a 2xx for the
//! method and path that was allowed last, or any 2xx and 403 if no other client has confirmed the origin.
//! A client therefore cannot withdraw, by a path that allows nothing, what others use. Errors, redirects and
//! responses to OPTIONS, forms, beacons and pages of the same origin withdraw nothing.
//!
//! At most 256 origins are remembered. For a further one, the least recently confirmed is forgotten, among
//! those of one client: the client that adds it if it has added an eighth of them, else the client that
//! added most. So one client that invents origins, at a service that allows any, does not displace those of
//! others. A client is the [`ClientKey`](crate::client_key::ClientKey) in the extensions of the request, else
//! its peer address, IPv6 by its first 64 bits unless [told otherwise](CorsLayer::ipv6_prefix). The same holds for 1024 preflights.
//!
//! # Preflights
//!
//! An `EventSource` never sends one: its request has no `unsafe-request` flag, also with
//! `Last-Event-ID` ([Fetch, main fetch](https://fetch.spec.whatwg.org/#concept-main-fetch)). A `fetch`
//! with `Authorization`, as of many libraries for event streams, does. A
//! [`ConnectionLimitLayer`](crate::connection_limit::ConnectionLimitLayer) counts preflights apart from all
//! else. When one fails for lack of the service (an answer of this crate with a 5xx), and the service has
//! allowed the same within an hour, to the same origin, for the same host, path, query, method and header
//! names, it is answered by a 204 that allows just that, with credentials only if that preflight was. Else
//! the page could not see the status of the request behind it. A later refusal of the same preflight
//! withdraws it.
//!
//! # Early answers
//!
//! Their head goes out before the service has allowed anything for that request. An
//! [`EarlyLayer`](crate::early::EarlyLayer) therefore compares: when the late head does not allow the
//! origin, or not credentials where the early head did, nothing of its body is passed, and the stream ends
//! as for a late refusal. Whether the request carries cookies does not matter: a connection may be logged in
//! (NTLM), or a proxy on the way may add the user. A
//! [`ResumeLayer`](crate::resume::ResumeLayer::wait_for_upstream) whose streams wait for their first head
//! does the same.
//!
//! A page cannot read an early answer that does not allow its origin, and its `EventSource` is dead. So
//! a request whose origin nothing is known of, or whose cookies were not allowed, gets no early answer:
//! it waits for the service's head, from which this layer learns.
//!
//! # Order
//!
//! Outermost.

mod granted;
mod preflight;
mod seen;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use granted::{Granted, Unreadable};
pub(crate) use preflight::is_preflight;

use crate::accessors::inner_service_accessors;
use crate::answer::{AnswerBody, Own};
use crate::client_key::IPV6_PREFIX;
use crate::head::list_has;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, COOKIE, HOST,
    ORIGIN, RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, response};
use pin_project_lite::pin_project;
use preflight::Preflight;
use seen::{Allowed, Keys, Seen, only};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Adds CORS headers to the responses that this crate makes. See the [module docs](self). Clones share
/// what they remember.
#[derive(Clone, Debug)]
pub struct CorsLayer {
    policy: Policy,
    ipv6_prefix: u8,
    memory: Arc<Memory>,
}

#[derive(Clone, Debug)]
enum Policy {
    Off,
    /// Those that the service allows.
    Service,
    Any,
    List(Arc<[Box<[u8]>]>),
}

#[derive(Debug, Default)]
struct Memory {
    seen: Seen,
    warned: AtomicBool,
}

impl Default for CorsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl CorsLayer {
    /// Allows the origins that the service allows.
    pub fn new() -> Self {
        Self::with(Policy::Service)
    }

    /// Allows any origin; credentials only where the service allows them.
    pub fn any() -> Self {
        Self::with(Policy::Any)
    }

    /// Allows just these origins, such as `https://app.example`; credentials as [`any`](Self::any).
    pub fn origins(origins: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let origins = origins.into_iter().map(|origin| origin.as_ref().into());
        Self::with(Policy::List(origins.collect()))
    }

    fn with(policy: Policy) -> Self {
        Self {
            policy,
            ipv6_prefix: IPV6_PREFIX,
            memory: Arc::default(),
        }
    }

    /// Switches the layer on or off, for a type that does not depend on the configuration. Off, it changes
    /// nothing and keeps no state.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        if !enabled {
            self.policy = Policy::Off;
        }
        self
    }

    /// Shares the state of `other`, for a policy that changes while the service stays.
    #[must_use]
    pub fn remembering_with(mut self, other: &Self) -> Self {
        self.memory = other.memory.clone();
        self
    }

    /// Sets how many leading bits of an IPv6 address identify a client. 64 by default.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    fn keys<B>(&self, request: &Request<B>, origin: &HeaderValue) -> Keys {
        self.memory.seen.keys(request, origin, self.ipv6_prefix)
    }

    /// What this origin is allowed on an answer of this crate: with credentials or without.
    fn grant(&self, origin: &[u8], keys: &Keys) -> Option<Grant> {
        let seen = self.memory.seen.allowed(keys);
        let is_allowed = match &self.policy {
            Policy::Off => false,
            Policy::Service => seen.is_some(),
            Policy::Any => true,
            Policy::List(origins) => origins.iter().any(|listed| **listed == *origin),
        };
        let credentials = seen.is_some_and(Allowed::credentials);
        is_allowed.then_some(Grant { credentials })
    }

    /// Adds to an answer without a service what it would have with this one. Whether the origin of the
    /// request is allowed.
    #[doc(hidden)]
    pub fn complete<B>(&self, request: &Request<B>, headers: &mut HeaderMap) -> bool {
        if matches!(self.policy, Policy::Off) {
            return false;
        }
        let origin = origin(request);
        let grant = origin.as_ref().and_then(|origin| {
            let keys = self.keys(request, origin);
            self.grant(origin.as_bytes(), &keys)
        });
        complete(headers, origin.as_ref(), grant);
        grant.is_some()
    }

    /// A preflight that the service would have allowed.
    fn answers(&self, plan: &Plan, status: StatusCode) -> Option<Response<Bytes>> {
        let asked = plan.asked.as_ref()?;
        let preflight = asked.preflight.as_ref()?;
        if asked.grant.is_none() || !status.is_server_error() {
            return None;
        }
        let seen = &self.memory.seen;
        let credentials = seen.allowed_preflight(&asked.keys, &preflight.key())?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.extensions_mut().insert(Own);
        let headers = response.headers_mut();
        // Not the credentials of other responses to the origin.
        complete(headers, Some(&asked.origin), Some(Grant { credentials }));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, preflight.method.clone());
        if let Some(names) = &preflight.headers {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        Some(response)
    }
}

impl Memory {
    /// A response with this status allowed this, or nothing.
    fn learn(&self, keys: &Keys, allowed: Option<Allowed>, status: StatusCode) {
        let Some(allowed) = allowed else {
            return self.seen.refused(keys, status);
        };
        if !self.seen.learn(keys, allowed) && !self.warned.swap(true, Relaxed) {
            tracing::warn!(
                most = seen::ORIGINS,
                "the service allows more origins than are remembered: answers in its place have no CORS \
                 fields for those that were forgotten; name the origins in cors.allowed_origins"
            );
        }
    }

    fn learn_preflight(&self, asked: &Asked, preflight: &Preflight, head: &response::Parts) {
        let (keys, key) = (&asked.keys, preflight.key());
        let allowed = Allowed::of(&head.headers, asked.origin.as_bytes());
        let allowed = allowed.filter(|allowed| {
            head.status.is_success() && preflight.is_allowed(&head.headers, *allowed)
        });
        // A browser sends no body and few fields: these are about the service's load, or about a request that
        // is not like those of a page.
        let is_policy = !head.status.is_server_error()
            && !matches!(
                head.status,
                StatusCode::REQUEST_TIMEOUT
                    | StatusCode::PAYLOAD_TOO_LARGE
                    | StatusCode::URI_TOO_LONG
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            );
        match allowed {
            Some(allowed) => self.seen.learn_preflight(keys, &key, allowed.credentials()),
            None if is_policy => self.seen.forget_preflight(keys, &key),
            None => {}
        }
    }
}

/// Adds to an answer of this crate what it lacks, which is nothing if the service has said it.
fn complete(headers: &mut HeaderMap, origin: Option<&HeaderValue>, grant: Option<Grant>) {
    if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    vary(headers);
    let (Some(origin), Some(grant)) = (origin, grant) else {
        return;
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if grant.credentials {
        let yes = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    if headers.contains_key(RETRY_AFTER) {
        // No script sees it otherwise.
        let name = HeaderValue::from_static("retry-after");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, name);
    }
}

/// The answer depends on the origin.
fn vary(headers: &mut HeaderMap) {
    if !list_has(headers, &VARY, b"*") && !list_has(headers, &VARY, b"origin") {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    credentials: bool,
}

/// What is to be done with the response.
#[derive(Debug)]
struct Plan {
    layer: CorsLayer,
    /// None of a request without an origin.
    asked: Option<Asked>,
}

/// A request that names an origin.
#[derive(Debug)]
struct Asked {
    origin: HeaderValue,
    keys: Keys,
    /// As it was when the request came, which is what the layers inside know of.
    grant: Option<Grant>,
    /// A response that does not allow the origin says that the service does not.
    may_refuse: bool,
    preflight: Option<Preflight>,
}

impl Asked {
    fn learn(&self, memory: &Memory, head: &response::Parts) {
        let allowed = Allowed::of(&head.headers, self.origin.as_bytes());
        if allowed.is_some() || self.may_refuse {
            memory.learn(&self.keys, allowed, head.status);
        }
        if let Some(preflight) = &self.preflight {
            memory.learn_preflight(self, preflight, head);
        }
    }
}

impl Plan {
    fn finish<B>(&self, response: Response<B>) -> Response<AnswerBody<B>> {
        let (mut head, body) = response.into_parts();
        let asked = self.asked.as_ref();
        if head.extensions.get::<Own>().is_none() {
            if let Some(asked) = asked {
                asked.learn(&self.layer.memory, &head);
            }
        } else if let Some(answer) = self.layer.answers(self, head.status) {
            return answer.map(AnswerBody::own);
        } else {
            let grant = asked.and_then(|asked| asked.grant);
            complete(&mut head.headers, asked.map(|asked| &asked.origin), grant);
        }
        Response::from_parts(head, AnswerBody::inner(body))
    }
}

impl<S> Layer<S> for CorsLayer {
    type Service = Cors<S>;

    fn layer(&self, inner: S) -> Cors<S> {
        Cors {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`CorsLayer`] makes.
#[derive(Clone, Debug)]
pub struct Cors<S> {
    inner: S,
    layer: CorsLayer,
}

impl<S> Cors<S> {
    inner_service_accessors!();
}

impl<S> Cors<S> {
    /// Marks the request for the layers inside.
    fn ask<B>(&self, request: &mut Request<B>, origin: HeaderValue) -> Asked {
        let memory = &self.layer.memory;
        let keys = self.layer.keys(request, &origin);
        let grant = self.layer.grant(origin.as_bytes(), &keys);
        let is_other = !is_same_origin(request.headers(), &origin);
        if is_other {
            let has_cookies = request.headers().contains_key(COOKIE);
            match grant {
                // Cookies come only in a mode in which the browser wants them allowed.
                Some(Grant { credentials }) if credentials || !has_cookies => {
                    let granted = Granted::new(memory, keys, origin.as_bytes(), credentials);
                    request.extensions_mut().insert(granted);
                }
                _ => {
                    request.extensions_mut().insert(Unreadable);
                }
            }
        }
        // Forms and beacons name an origin, too, whatever their response allows. Whether services answer
        // OPTIONS as they answer the request behind it is open.
        let mode = request.headers().get(SEC_FETCH_MODE);
        let is_cors = mode.is_none_or(|mode| mode == "cors");
        Asked {
            may_refuse: is_other && is_cors && request.method() != Method::OPTIONS,
            preflight: Preflight::of(request),
            origin,
            keys,
            grant,
        }
    }
}

/// The origin that a request names, if it names one.
fn origin<B>(request: &Request<B>) -> Option<HeaderValue> {
    only(request.headers(), &ORIGIN)?;
    request.headers().get(ORIGIN).cloned()
}

/// Whether the page is of the origin that it asks, which names its own in a POST, too: it may read any
/// response. A page cannot set either field.
fn is_same_origin(headers: &HeaderMap, origin: &HeaderValue) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin";
    }
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    let mut parts = origin.as_bytes().splitn(3, |&byte| byte == b'/');
    let authority = parts.nth(2);
    authority.is_some() && authority == host
}

impl<S, ReqB, B> Service<Request<ReqB>> for Cors<S>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
{
    type Response = Response<AnswerBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        if matches!(self.layer.policy, Policy::Off) {
            return ResponseFuture {
                future: self.inner.call(request),
                plan: None,
            };
        }
        let asked = origin(&request).map(|origin| self.ask(&mut request, origin));
        let plan = Plan {
            layer: self.layer.clone(),
            asked,
        };
        ResponseFuture {
            future: self.inner.call(request),
            plan: Some(plan),
        }
    }
}

pin_project! {
    /// The response to come.
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        plan: Option<Plan>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<AnswerBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        Poll::Ready(Ok(match this.plan {
            Some(plan) => plan.finish(response),
            None => response.map(AnswerBody::inner),
        }))
    }
}
