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
//! For an hour after each response that allows it, an origin, and whether credentials were allowed with
//! it; or that any origin is allowed (`*`, never with credentials). What one origin is allowed opens
//! nothing to another. At most 256 origins are remembered: a further one replaces the oldest that came
//! once, and none that came twice, so that invented origins do not displace real ones at a service
//! that allows any.
//!
//! # Preflights
//!
//! An `EventSource` never sends one: its request has no `unsafe-request` flag, also with
//! `Last-Event-ID` ([Fetch, main fetch](https://fetch.spec.whatwg.org/#concept-main-fetch)). A `fetch`
//! with `Authorization`, as of many libraries for event streams, does. A
//! [`ConnectionLimitLayer`](crate::connection_limit::ConnectionLimitLayer) counts no preflight. When one
//! fails for want of the service (an answer of this crate with a 5xx), and the service has allowed the
//! same within an hour, to the same origin, for the same path, method and header names, it is answered
//! by a 204 that allows just that. Else the page could not see the status of the request behind it.
//!
//! # Early answers
//!
//! Their head goes out before the service has allowed anything for that request. An
//! [`EarlyLayer`](crate::early::EarlyLayer) therefore compares: when the late head does not allow the
//! origin, nothing of its body is passed, and the stream ends as for a late refusal. A
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

mod seen;
#[cfg(test)]
mod tests;

use crate::answer::{AnswerBody, Own};
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL, COOKIE, HOST, ORIGIN, RETRY_AFTER,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use seen::{Allowed, Seen, only};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Adds CORS fields to answers of this crate. See the [module docs](self). Clones share what they
/// remember.
#[derive(Clone, Debug)]
pub struct CorsLayer {
    policy: Policy,
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
    /// Allows the origins that the service inside allows.
    pub fn new() -> Self {
        Self::with(Policy::Service)
    }

    /// Allows any origin, without credentials unless the service was seen to allow it those.
    pub fn any() -> Self {
        Self::with(Policy::Any)
    }

    /// Allows just these origins, such as `https://app.example`; credentials as [`any`](Self::any).
    pub fn origins(origins: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let origins = origins.into_iter().map(|origin| origin.as_ref().into());
        Self::with(Policy::List(origins.collect()))
    }

    /// Changes nothing and remembers nothing; for a type that does not depend on the configuration.
    pub fn off() -> Self {
        Self::with(Policy::Off)
    }

    fn with(policy: Policy) -> Self {
        Self {
            policy,
            memory: Arc::default(),
        }
    }

    /// Shares what `other` remembers: for a policy that changes while the service stays the same.
    #[must_use]
    pub fn remembering_with(mut self, other: &Self) -> Self {
        self.memory = other.memory.clone();
        self
    }

    /// What this origin is allowed on an answer of this crate: with credentials or without.
    fn grant(&self, origin: &[u8]) -> Option<Grant> {
        let seen = self.memory.seen.allowed(origin);
        let is_allowed = match &self.policy {
            Policy::Off => false,
            Policy::Service => seen.is_some(),
            Policy::Any => true,
            Policy::List(origins) => origins.iter().any(|listed| **listed == *origin),
        };
        let credentials = seen == Some(Allowed::Origin { credentials: true });
        is_allowed.then_some(Grant { credentials })
    }

    /// Adds to an answer without a service what it would have with this one. Whether its origin is
    /// allowed.
    #[cfg(feature = "proxy")]
    pub(crate) fn complete(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
        if matches!(self.policy, Policy::Off) {
            return false;
        }
        let grant = origin.and_then(|origin| self.grant(origin.as_bytes()));
        complete(headers, origin, grant);
        grant.is_some()
    }

    fn learn(&self, plan: &Plan, head: &http::response::Parts) {
        let Some(origin) = plan.origin.as_ref().map(HeaderValue::as_bytes) else {
            return;
        };
        let Some(allowed) = Allowed::of(&head.headers, origin) else {
            return;
        };
        let memory = &self.memory;
        if !memory.seen.learn(origin, allowed) && !memory.warned.swap(true, Relaxed) {
            tracing::warn!(
                most = seen::ORIGINS,
                "the service allows more origins than are remembered: further ones get no CORS \
                 fields on answers in its place; name them in cors.allowed_origins"
            );
        }
        if let Some(preflight) = &plan.preflight
            && head.status.is_success()
            && preflight.is_allowed(&head.headers, allowed)
        {
            memory.seen.learn_preflight(&preflight.key(origin));
        }
    }

    /// A preflight that the service would have allowed.
    fn answers(&self, plan: &Plan, status: StatusCode) -> Option<Response<Bytes>> {
        let (preflight, origin) = (plan.preflight.as_ref()?, plan.origin.as_ref()?);
        let key = preflight.key(origin.as_bytes());
        let was_allowed = plan.grant.is_some() && self.memory.seen.allowed_preflight(&key);
        if !was_allowed || !status.is_server_error() {
            return None;
        }
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.extensions_mut().insert(Own);
        let headers = response.headers_mut();
        complete(headers, Some(origin), plan.grant);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, preflight.method.clone());
        if let Some(names) = &preflight.headers {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        Some(response)
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
    let values = headers.get_all(VARY).iter();
    let mut names = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let says = names.any(|name| {
        let name = name.trim_ascii();
        name == b"*" || name.eq_ignore_ascii_case(b"origin")
    });
    if !says {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    credentials: bool,
}

/// In the extensions of a request whose origin an answer of this crate will allow: what the service has
/// to allow for its own body to follow behind such an answer.
#[derive(Clone, Debug)]
pub(crate) struct Granted(Arc<Terms>);

/// In the extensions of a request whose page cannot read an answer of this crate: one ahead of the
/// service's would do harm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unreadable;

#[derive(Debug)]
struct Terms {
    /// A copy: a value of a head would keep the buffer of the whole head.
    origin: Box<[u8]>,
    /// The request carries some.
    credentials: bool,
    /// An answer has gone ahead of the service's head.
    is_used: AtomicBool,
}

impl Granted {
    /// An answer goes ahead of the service's head.
    pub(crate) fn use_it(&self) {
        self.0.is_used.store(true, Relaxed);
    }

    /// Whether a response with this head may follow: a browser that got this head first would let the
    /// origin read it, or got that of the service.
    pub(crate) fn holds(&self, headers: &HeaderMap) -> bool {
        let terms = &self.0;
        if !terms.is_used.load(Relaxed) {
            return true;
        }
        match Allowed::of(headers, &terms.origin) {
            Some(Allowed::Any) => !terms.credentials,
            Some(Allowed::Origin { credentials }) => credentials || !terms.credentials,
            None => false,
        }
    }
}

/// A request of a browser that asks whether another one would be allowed.
#[derive(Debug)]
struct Preflight {
    path: Box<str>,
    method: HeaderValue,
    headers: Option<HeaderValue>,
}

impl Preflight {
    fn of<B>(request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        only(headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
        if request.method() != Method::OPTIONS
            || headers
                .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
                .iter()
                .count()
                > 1
        {
            return None;
        }
        Some(Self {
            path: request.uri().path().into(),
            method: headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.clone(),
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        })
    }

    fn key<'a>(&'a self, origin: &'a [u8]) -> impl std::hash::Hash + 'a {
        let headers = self.headers.as_ref().map(HeaderValue::as_bytes);
        (origin, &*self.path, self.method.as_bytes(), headers)
    }

    /// Whether the service allowed all of it,
    /// [as a browser reads the answer](https://fetch.spec.whatwg.org/#cors-preflight-fetch-0).
    fn is_allowed(&self, headers: &HeaderMap, allowed: Allowed) -> bool {
        let with_credentials = allowed == Allowed::Origin { credentials: true };
        let lists = |name, wanted: &[u8]| {
            let values = headers.get_all(name).iter();
            let mut items = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
            items.any(|item| {
                let item = item.trim_ascii();
                // With credentials `*` is a name like any other, and it never covers Authorization.
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

/// What is to be done with the response.
#[derive(Debug)]
struct Plan {
    layer: CorsLayer,
    origin: Option<HeaderValue>,
    /// As it was when the request came, which is what the layers inside know of.
    grant: Option<Grant>,
    preflight: Option<Preflight>,
}

impl Plan {
    fn finish<B>(&self, response: Response<B>) -> Response<AnswerBody<B>> {
        let (mut head, body) = response.into_parts();
        if head.extensions.get::<Own>().is_none() {
            self.layer.learn(self, &head);
        } else if let Some(answer) = self.layer.answers(self, head.status) {
            return answer.map(AnswerBody::own);
        } else {
            complete(&mut head.headers, self.origin.as_ref(), self.grant);
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
    /// The service inside.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

/// The origin that a request names, if it names one.
pub(crate) fn origin<B>(request: &Request<B>) -> Option<HeaderValue> {
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
        let origin = origin(&request);
        let grant = origin.as_ref();
        let grant = grant.and_then(|origin| self.layer.grant(origin.as_bytes()));
        let other = origin.as_ref();
        if let Some(other) = other.filter(|origin| !is_same_origin(request.headers(), origin)) {
            let has = |name| request.headers().contains_key(name);
            let (cookies, carries) = (has(COOKIE), has(COOKIE) || has(AUTHORIZATION));
            match grant {
                // Cookies come only in a mode in which the browser wants them allowed.
                Some(grant) if grant.credentials || !cookies => {
                    let granted = Granted(Arc::new(Terms {
                        origin: other.as_bytes().into(),
                        credentials: grant.credentials && carries,
                        is_used: AtomicBool::new(false),
                    }));
                    request.extensions_mut().insert(granted);
                }
                _ => {
                    request.extensions_mut().insert(Unreadable);
                }
            }
        }
        let plan = Plan {
            layer: self.layer.clone(),
            preflight: origin.as_ref().and_then(|_| Preflight::of(&request)),
            origin,
            grant,
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
