//! The service of the layer: what a request gets on its way in, and when its response is treated.

use super::preflight::Preflight;
use super::{
    CorsLayer, CorsRequest, EarlyPermission, Grant, NoEarlyResponse, OriginPolicy, ResponsePlan,
    origin,
};
use crate::accessors::inner_service_accessors;
use crate::answer::AnswerBody;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_layer::Layer;
use tower_service::Service;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

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
    fn prepare<B>(&self, request: &mut Request<B>, origin: HeaderValue) -> CorsRequest {
        let memory = &self.layer.memory;
        let keys = self.layer.keys(request, &origin);
        let grant = self.layer.grant(origin.as_bytes(), &keys);
        let is_other = !is_same_origin(request.headers(), &origin);
        if is_other {
            let has_cookies = request.headers().contains_key(COOKIE);
            match grant {
                // Browsers send cookies only in a mode that requires permission for them.
                Some(Grant { credentials }) if credentials || !has_cookies => {
                    let granted =
                        EarlyPermission::new(memory, keys, origin.as_bytes(), credentials);
                    request.extensions_mut().insert(granted);
                }
                _ => {
                    request.extensions_mut().insert(NoEarlyResponse);
                }
            }
        }
        // Forms and beacons have an origin, too, but ignore permissions. The response to OPTIONS may differ from
        // that to the request after it.
        let mode = request.headers().get(SEC_FETCH_MODE);
        let is_cors = mode.is_none_or(|mode| mode == "cors");
        CorsRequest {
            may_refuse: is_other && is_cors && request.method() != Method::OPTIONS,
            preflight: Preflight::of(request),
            origin,
            keys,
            grant,
        }
    }
}

/// Whether the page is of the origin that it requests, as a page sends its origin with a POST, too: it may read
/// any response. A page cannot set either field.
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
        if matches!(self.layer.policy, OriginPolicy::Off) {
            return ResponseFuture {
                future: self.inner.call(request),
                plan: None,
            };
        }
        let cors_request = origin(&request).map(|origin| self.prepare(&mut request, origin));
        let plan = ResponsePlan {
            layer: self.layer.clone(),
            request: cors_request,
        };
        ResponseFuture {
            future: self.inner.call(request),
            plan: Some(plan),
        }
    }
}

pin_project! {
    /// The response future.
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        plan: Option<ResponsePlan>,
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
