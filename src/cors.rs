//! CORS fields on the responses that this crate sends in place of the service inside.
//!
//! A page of another origin may read a response only with permission
//! ([CORS](https://fetch.spec.whatwg.org/#http-cors-protocol)). The service inside gives it on its own
//! responses, but not on those of the layers around it: early answers, empty streams with `retry:`,
//! rejections, gateway errors. A browser treats one without `Access-Control-Allow-Origin` as a network
//! error, after which an `EventSource` does not reconnect.
//!
//! This layer remembers which origins the service allows, and adds the same permission to responses of
//! this crate. Responses of the service itself are never changed. For a general CORS policy use the
//! service's own, or `tower_http::cors`, which depends neither on the source of a response nor on the
//! permissions of the service.
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
//! allowed with it; or that any origin is allowed there (`*`, never with credentials). A permission for one
//! origin does not apply to another, nor does that of one virtual host to another (`Host`,
//! `X-Forwarded-Host`, `host` of `Forwarded`). Where a response to the same method and path allows the
//! origin without credentials, so do the responses in its place.
//!
//! A response that does not allow the origin of its request withdraws what was remembered: a 2xx for the
//! method and path that was allowed last, or any 2xx and 403 if no other client has confirmed the origin.
//! A client therefore cannot withdraw a permission that others use by a path that allows nothing. Errors, redirects
//! and responses to OPTIONS, forms, beacons and pages of the same origin withdraw nothing.
//!
//! At most 256 origins are remembered. For a further one, the least recently confirmed is forgotten, among
//! those of one client: the client that adds it if it has added an eighth of them, else the client that
//! added most. So one client that invents origins, at a service that allows any, does not displace those of
//! others. A client is the [`ClientKey`](crate::client_key::ClientKey) in the extensions of the request, otherwise
//! its peer address, for IPv6 its first 64 bits, or [others](CorsLayer::ipv6_prefix). The same applies to 1024
//! preflights.
//!
//! # Preflights
//!
//! An `EventSource` never sends one: its request has no `unsafe-request` flag, also with
//! `Last-Event-ID` ([Fetch, main fetch](https://fetch.spec.whatwg.org/#concept-main-fetch)). A `fetch`
//! with `Authorization`, as of many libraries for event streams, does. A
//! [`ConnectionLimitLayer`](crate::connection_limit::ConnectionLimitLayer) counts preflights separately.
//! When one fails because the service is unavailable (a response of this crate with a 5xx), and the service has
//! allowed the same within an hour, to the same origin, for the same host, path, query, method and header
//! names, it gets a 204 that allows exactly that, with credentials only if that preflight was. Otherwise
//! the page could not read the status of the request after it. A later refusal of the same preflight
//! withdraws it.
//!
//! # Early answers
//!
//! Their head is sent before the service has allowed anything for that request. An
//! [`EarlyLayer`](crate::early::EarlyLayer) therefore compares: when the late head does not allow the
//! origin, or not credentials where the early head did, its body is not passed, and the stream ends
//! as for a late refusal. This does not depend on cookies of the request: a connection may be logged in
//! (NTLM), or a proxy on the path may add the user. A
//! [`ResumeLayer`](crate::resume::ResumeLayer::wait_for_upstream) whose streams wait for their first head
//! does the same.
//!
//! A page cannot read an early answer that does not allow its origin, and its `EventSource` does not reconnect. So
//! a request with an unknown origin, or with cookies that were not allowed, gets no early answer:
//! it waits for the service's head, whose permissions this layer then remembers.
//!
//! # Order
//!
//! Outermost.

mod early_permission;
mod permissions;
mod preflight;
mod service;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use early_permission::{EarlyPermission, NoEarlyResponse};
pub(crate) use preflight::is_preflight;
pub use service::{Cors, ResponseFuture};

use crate::answer::{AnswerBody, OwnResponse};
use crate::client_key::IPV6_PREFIX;
use crate::head::list_has;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, ORIGIN, RETRY_AFTER,
    VARY,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, response};
use permissions::{Allowed, EntryKeys, Permissions, only};
use preflight::Preflight;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Adds CORS headers to the responses that this crate makes. See the [module docs](self). Clones share
/// their memory.
#[derive(Clone, Debug)]
pub struct CorsLayer {
    policy: OriginPolicy,
    ipv6_prefix: u8,
    memory: Arc<CorsMemory>,
}

#[derive(Clone, Debug)]
enum OriginPolicy {
    Off,
    /// The origins that the service allows.
    Service,
    Any,
    List(Arc<[Box<[u8]>]>),
}

#[derive(Debug, Default)]
struct CorsMemory {
    permissions: Permissions,
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
        Self::with(OriginPolicy::Service)
    }

    /// Allows any origin; credentials only where the service allows them.
    pub fn any() -> Self {
        Self::with(OriginPolicy::Any)
    }

    /// Allows only these origins, such as `https://app.example`; credentials as [`any`](Self::any).
    pub fn origins(origins: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let origins = origins.into_iter().map(|origin| origin.as_ref().into());
        Self::with(OriginPolicy::List(origins.collect()))
    }

    fn with(policy: OriginPolicy) -> Self {
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
            self.policy = OriginPolicy::Off;
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

    fn keys<B>(&self, request: &Request<B>, origin: &HeaderValue) -> EntryKeys {
        self.memory
            .permissions
            .keys(request, origin, self.ipv6_prefix)
    }

    /// Whether a response of this crate allows this origin, and with or without credentials.
    fn grant(&self, origin: &[u8], keys: &EntryKeys) -> Option<Grant> {
        let allowed = self.memory.permissions.allowed(keys);
        let is_allowed = match &self.policy {
            OriginPolicy::Off => false,
            OriginPolicy::Service => allowed.is_some(),
            OriginPolicy::Any => true,
            OriginPolicy::List(origins) => origins.iter().any(|listed| **listed == *origin),
        };
        let credentials = allowed.is_some_and(Allowed::credentials);
        is_allowed.then_some(Grant { credentials })
    }

    /// Adds the CORS fields to a response outside this layer's service. Returns whether the origin of the
    /// request is allowed.
    #[doc(hidden)]
    pub fn complete<B>(&self, request: &Request<B>, headers: &mut HeaderMap) -> bool {
        if matches!(self.policy, OriginPolicy::Off) {
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

    /// The response to a preflight that the service would have allowed.
    fn preflight_response(
        &self,
        plan: &ResponsePlan,
        status: StatusCode,
    ) -> Option<Response<Bytes>> {
        let request = plan.request.as_ref()?;
        let preflight = request.preflight.as_ref()?;
        if request.grant.is_none() || !status.is_server_error() {
            return None;
        }
        let permissions = &self.memory.permissions;
        let credentials = permissions.allowed_preflight(&request.keys, &preflight.key())?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.extensions_mut().insert(OwnResponse);
        let headers = response.headers_mut();
        // The credentials of other responses to the origin do not apply.
        complete(headers, Some(&request.origin), Some(Grant { credentials }));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, preflight.method.clone());
        if let Some(names) = &preflight.headers {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        Some(response)
    }
}

impl CorsMemory {
    /// Records the permission in a response with this status.
    fn record(&self, keys: &EntryKeys, allowed: Option<Allowed>, status: StatusCode) {
        let Some(allowed) = allowed else {
            return self.permissions.refused(keys, status);
        };
        if !self.permissions.record(keys, allowed) && !self.warned.swap(true, Relaxed) {
            tracing::warn!(
                most = permissions::MAX_ORIGINS,
                "the service allows more origins than are remembered: answers in its place have no CORS \
                 fields for those that were forgotten; name the origins in cors.allowed_origins"
            );
        }
    }

    fn record_preflight(
        &self,
        request: &CorsRequest,
        preflight: &Preflight,
        head: &response::Parts,
    ) {
        let (keys, key) = (&request.keys, preflight.key());
        let allowed = Allowed::of(&head.headers, request.origin.as_bytes());
        let allowed = allowed.filter(|allowed| {
            head.status.is_success() && preflight.is_allowed(&head.headers, *allowed)
        });
        // A browser sends no body and few fields: these statuses are about the service's load, or about a request
        // that is not from a page.
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
            Some(allowed) => self
                .permissions
                .record_preflight(keys, &key, allowed.credentials()),
            None if is_policy => self.permissions.remove_preflight(keys, &key),
            None => {}
        }
    }
}

/// The origin that a request names, if it names one.
fn origin<B>(request: &Request<B>) -> Option<HeaderValue> {
    only(request.headers(), &ORIGIN)?;
    request.headers().get(ORIGIN).cloned()
}

/// Adds the CORS fields to a response of this crate, unless the service has set them.
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
        // Scripts cannot read it otherwise.
        let name = HeaderValue::from_static("retry-after");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, name);
    }
}

/// Declares that the response depends on the origin.
fn vary(headers: &mut HeaderMap) {
    if !list_has(headers, &VARY, b"*") && !list_has(headers, &VARY, b"origin") {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    credentials: bool,
}

/// How to treat the response.
#[derive(Debug)]
struct ResponsePlan {
    layer: CorsLayer,
    /// `None` for a request without an origin.
    request: Option<CorsRequest>,
}

/// A request that names an origin.
#[derive(Debug)]
struct CorsRequest {
    origin: HeaderValue,
    keys: EntryKeys,
    /// The grant when the request arrived, which the layers inside know.
    grant: Option<Grant>,
    /// A response that does not allow the origin withdraws its permission.
    may_refuse: bool,
    preflight: Option<Preflight>,
}

impl CorsRequest {
    fn record(&self, memory: &CorsMemory, head: &response::Parts) {
        let allowed = Allowed::of(&head.headers, self.origin.as_bytes());
        if allowed.is_some() || self.may_refuse {
            memory.record(&self.keys, allowed, head.status);
        }
        if let Some(preflight) = &self.preflight {
            memory.record_preflight(self, preflight, head);
        }
    }
}

impl ResponsePlan {
    fn finish<B>(&self, response: Response<B>) -> Response<AnswerBody<B>> {
        let (mut head, body) = response.into_parts();
        let request = self.request.as_ref();
        if head.extensions.get::<OwnResponse>().is_none() {
            if let Some(request) = request {
                request.record(&self.layer.memory, &head);
            }
        } else if let Some(answer) = self.layer.preflight_response(self, head.status) {
            return answer.map(AnswerBody::own);
        } else {
            let grant = request.and_then(|request| request.grant);
            complete(
                &mut head.headers,
                request.map(|request| &request.origin),
                grant,
            );
        }
        Response::from_parts(head, AnswerBody::inner(body))
    }
}
