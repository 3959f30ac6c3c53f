//! The service of the proxy: each request is handled by the config that is active when it arrives.

use super::stack::{RouteBody, RouteService};
use super::table::{Route, Router};
use super::{prepare, redirect};
use crate::config::{self, HttpsRedirect, ListenerConfig};
use crate::headers;
use crate::json_stream_flag;
use crate::request_context::{RequestContext, RequestId};
use crate::request_log::{LoggedBody, RequestRecord};
use crate::request_target::{self, TargetError};
use crate::state::ProxyState;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use sse_guard::Stream;
use sse_guard::client_key::KeyExtractor;
use sse_guard::connection_limit::RejectReason;
use sse_guard::family::Family;
use sse_guard::internal::{Rejected, Rejection, X_REQUEST_ID};
use sse_guard::serve::RequestBody;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// The body of a response that did not become an event stream: the upstream's, or the proxy's.
type PlainBody = Either<RouteBody, Full<Bytes>>;

/// The body of a response to the client. Those of event streams are not boxed: they are many, and live long.
pub(crate) type ResponseBody = Either<RouteBody, Pin<Box<LoggedBody<PlainBody>>>>;

/// Passes the requests of one listener to the router of the active config.
#[derive(Clone)]
pub(crate) struct Handler(Arc<ListenerState>);

/// One allocation: each connection has a handle to it.
struct ListenerState {
    state: Arc<ProxyState>,
    listener: Arc<ListenerConfig>,
}

impl Handler {
    pub(crate) fn new(state: &Arc<ProxyState>, listener: ListenerConfig) -> Self {
        Self(Arc::new(ListenerState {
            state: state.clone(),
            listener: Arc::new(listener),
        }))
    }

    pub(crate) fn listener(&self) -> &ListenerConfig {
        &self.0.listener
    }
}

impl Service<Request<RequestBody>> for Handler {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let Self(shared) = self.clone();
        // Futures hold the room of all that they pass on: a box takes little.
        let request = Box::new(request);
        Box::pin(async move {
            let active = shared.state.active();
            Ok(answer(&active.router, &shared.listener, request).await)
        })
    }
}

/// Why a request has no route. Small, as it is held while a request waits for its response.
enum Unrouted {
    Refused(TargetError),
    Redirect(HttpsRedirect),
    /// A CA verifies a name.
    Challenge,
}

impl Unrouted {
    fn answer(
        self,
        router: &Router,
        listener: &ListenerConfig,
        request: &mut Request<RequestBody>,
    ) -> Response<Full<Bytes>> {
        match self {
            Self::Refused(error) => error.answer(),
            Self::Redirect(to) => redirect::answer(request, to),
            Self::Challenge => {
                if let Err(error) = request_target::check(request) {
                    return error.answer();
                }
                let Some(answer) = router.challenge_of(request, listener) else {
                    return not_found();
                };
                let mut response = Response::new(answer.into());
                let binary = HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert(CONTENT_TYPE, binary);
                response
            }
        }
    }
}

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("sse-guard: no route for this path\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

async fn answer(
    router: &Router,
    listener: &Arc<ListenerConfig>,
    mut request: Box<Request<RequestBody>>,
) -> Response<ResponseBody> {
    let is_trusted = router.prepare.is_by_trusted(&request);
    let id = RequestId::of(request.headers_mut(), is_trusted);
    let client = router.clients.key(&*request);
    let mut context = RequestContext::new(&request, id, client);
    context.set_listener(listener);
    let subject = prepare::client_subject(&request, listener);
    // The certificate of a trusted proxy is that of all its clients.
    let own = subject.clone().filter(|_| !is_trusted);
    let user = router.prepare.user(&mut request).or(own);
    context.set_identity(user, subject);
    let route = if router.challenge_of(&request, listener).is_some() {
        Err(Unrouted::Challenge)
    } else if let Some(to) = router.redirect_of(listener) {
        Err(Unrouted::Redirect(to))
    } else {
        let route = router.route_of(&mut request, listener);
        route.map_err(Unrouted::Refused)
    };
    let metrics = match &route {
        Ok(Some(route)) => {
            context.set_route(route.name.clone());
            &route.requests
        }
        Ok(None) | Err(_) => &router.unrouted,
    };
    let record = RequestRecord::new(&request, router.requests, context.clone(), metrics.clone());
    let mut response = match route {
        Ok(Some(route)) => forward(router, route, request, &context).await,
        Ok(None) => without_route(router, &request, not_found()),
        Err(unrouted) => {
            let response = unrouted.answer(router, listener, &mut request);
            without_route(router, &request, response)
        }
    };
    let id = context.id().header_value();
    response.headers_mut().insert(X_REQUEST_ID, id);
    let is_stream = response.extensions().get::<Stream>().is_some();
    let (head, body) = response.into_parts();
    match body {
        Either::Left(body) if is_stream => {
            record.dismiss_for_stream();
            Response::from_parts(head, Either::Left(body))
        }
        body => {
            let response = record.follow(Response::from_parts(head, body));
            response.map(|body| Either::Right(Box::pin(body)))
        }
    }
}

/// Passes a request to the layers of its route.
async fn forward(
    router: &Router,
    route: &Route,
    mut request: Box<Request<RequestBody>>,
    context: &RequestContext,
) -> Response<PlainBody> {
    let settings = &route.settings;
    router
        .prepare
        .prepare(&mut request, settings, context)
        .await;
    if router.drain.is_draining() {
        if headers::requested_upgrade(&request).is_some() {
            return refuse_tunnel(router, &settings.rotation);
        }
        json_stream_flag::read_ahead(&mut request).await;
    }
    // A function of its own: neither the service nor the request's box is needed during the wait.
    let response = call(route.service.clone(), request);
    let Ok(mut response) = response.await;
    if let Some(Rejected(reason)) = response.extensions().get().copied() {
        log_rejection(router, reason, context);
        // The client is to come back later; until then its connection would hold a file.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response.map(Either::Left)
}

/// Frees the request's box, which an `async` block would keep to its end.
fn call(
    mut service: RouteService,
    request: Box<Request<RequestBody>>,
) -> <RouteService as Service<Request<RequestBody>>>::Future {
    service.call(*request)
}

/// Lets a page of another origin see the status if any route would.
fn without_route(
    router: &Router,
    request: &Request<RequestBody>,
    mut response: Response<Full<Bytes>>,
) -> Response<PlainBody> {
    let mut routes = router.routes.iter();
    routes.any(|route| route.cors.complete(request, response.headers_mut()));
    response.map(Either::Right)
}

/// A tunnel would be cut at the end of the window: its client is to connect to another process.
fn refuse_tunnel(router: &Router, rotation: &config::Rotation) -> Response<PlainBody> {
    let refusal = Rejection::while_draining(&router.drain, rotation.retry, false);
    match refusal {
        Some(refusal) => refusal
            .response(Family::Raw)
            .map(|text| Either::Right(text.into())),
        None => Response::new(Either::Right(Full::default())),
    }
}

/// Logs a rejection, at a bounded rate for each reason.
fn log_rejection(router: &Router, reason: RejectReason, context: &RequestContext) {
    let limit = limit_key(reason);
    router.rejections.of(reason).write(
        || {
            tracing::info!(
                limit,
                route = context.route(),
                listener = context.listener().map(|name| &**name),
                client = context.client().map(tracing::field::display),
                user = context.user().map(|user| &**user),
                path = context.path(),
                request_id = %context.id(),
                "request rejected"
            );
        },
        move |not_logged| {
            tracing::info!(
                limit,
                not_logged,
                "more requests were rejected than were logged"
            );
        },
    );
}

/// The config key of the limit.
fn limit_key(reason: RejectReason) -> &'static str {
    match reason {
        RejectReason::PerClient => "limit.per_ip",
        RejectReason::Total => "limit.total",
        RejectReason::Rate => "limit.rate",
        RejectReason::Clients => "limit.max_clients",
        RejectReason::Memory => "memory.budget",
        RejectReason::Files => "files.budget",
        RejectReason::Requests => "limit.requests_per_ip",
        RejectReason::Draining => "drain.window",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carryover::Carryover;
    use crate::config::from_file;

    #[test]
    fn rejection_reasons_have_the_config_key_of_their_limit() {
        for &reason in RejectReason::ALL {
            let key = limit_key(reason);
            assert!(config::KEYS.iter().any(|known| known.name == key), "{key}");
        }
    }

    /// With what the server adds it takes a size class of the allocator of its own: no short-lived box of the
    /// same class leaves holes among those of quiet streams, as a burst of requests would. The clock that tokio
    /// has in tests makes it 24 bytes larger.
    #[test]
    fn body_of_a_quiet_stream_is_small() {
        assert!(size_of::<ResponseBody>() <= 608 + 24);
    }

    /// The boxes of a request that waits for its upstream: in size classes of the allocator apart from those of
    /// a quiet stream's record (320 bytes) and body (640), for the same reason.
    #[tokio::test]
    async fn boxes_of_a_waiting_request_have_size_classes_without_parts_of_streams() {
        let config = from_file("upstream.url = 'http://127.0.0.1:9'").unwrap();
        let router = Router::new(&config.config, &Carryover::default(), None).unwrap();
        let mut service = router.routes[0].service.clone();
        let route = service.call(Request::new(RequestBody::default()));
        let route = size_of_val(&*route);
        assert!((641..=896).contains(&route), "{route}");
        let listener = Arc::new(config.config.listeners[0].clone());
        let request = Box::new(Request::new(RequestBody::default()));
        let answer = answer(&router, &listener, request);
        let answer = size_of_val(&answer);
        assert!((385..=512).contains(&answer), "{answer}");
    }
}
