//! The layers of a route, from the client to the upstream.

use crate::carryover::RouteLimit;
use crate::client_keys::ClientKeys;
use crate::config::{self, Settings};
use crate::request_context::RequestContext;
use crate::upstream::{Upstream, UpstreamBody};
use http::{Request, Response};
use sse_guard::cors::CorsLayer;
use sse_guard::early::EarlyBody;
use sse_guard::metrics::MetricsLayer;
use sse_guard::resume::{Admission, Resume, ResumeBody, ResumeLayer};
use sse_guard::serve::RequestBody;
use sse_guard::stack::StackLayers;
use sse_guard::{AnswerBody, EventError, Guarded, SseGuardLayer, StreamRegistry};
use std::convert::Infallible;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;
use tower_service::Service;

/// All layers of a route as one service. Boxed, which costs an allocation a request; the body is not, as it is
/// polled for each event.
pub(super) type RouteService =
    BoxCloneSyncService<Request<RequestBody>, Response<RouteBody>, Infallible>;

/// The body of its responses: that of the upstream, behind resume and early answer, in the guard that all other
/// layers of a stream share, unless the unavailable or the CORS layer has answered instead.
pub(super) type RouteBody = AnswerBody<AnswerBody<Guarded<InnerBody, StackLayers<ClientKeys>>>>;
type InnerBody = EarlyBody<ResumeFuture, ResumeBody<UpstreamBody>>;
type ResumeFuture = <Resume<Upstream> as Service<Request<RequestBody>>>::Future;

/// What the layers of a route share with other routes, or with the config before.
pub(super) struct SharedParts<'a> {
    pub(super) drain: &'a StreamRegistry,
    pub(super) metrics: &'a MetricsLayer,
    pub(super) limit: &'a RouteLimit,
    pub(super) cors: &'a CorsLayer,
    /// Where streams wait to reconnect.
    pub(super) queue: Option<&'a Admission>,
}

/// The layers of a route, in the order in which a request passes them.
///
/// # Errors
///
/// If a text of the config cannot stand in an event stream, which its own checks rule out.
pub(super) fn stack(
    settings: &Settings,
    parts: &SharedParts<'_>,
    upstream: Upstream,
) -> Result<RouteService, EventError> {
    let guard = SseGuardLayer::new()
        // The outermost of the guard: counts every request, also those that an inner layer rejects.
        .metrics(parts.metrics.clone())
        // Outside of rotation: what was injected before an end goes out before it.
        .inject(settings.rotation.inject_layer())
        // Before the limit: in a drain a client over its limit is to get an empty stream, not a 429.
        .rotation(settings.rotation.layer()?.registry(parts.drain))
        // Before anything is allocated for the stream or sent to the upstream.
        .limit(parts.limit.clone())
        // Outside of the idle timeout, which is to see the upstream's output without heartbeats.
        .heartbeat(settings.heartbeat.layer()?)
        // Outside of resume: a stream that waits for its upstream counts as idle, too.
        .idle_timeout(settings.idle.layer(settings.rotation.retry)?)
        // Checks the answer as the client gets it, after resume.
        .completion(settings.completion.layer())
        // Outside of resume, for which an early response to a reconnect would be a success.
        .early(settings.early.layer())
        // The innermost: sends the request again, so that each layer above sees one stream.
        .resume(resume(settings, parts.queue))
        .cache_control(settings.cache_control);
    let service = ServiceBuilder::new()
        // Also on responses of the layers below: a page reads their status only with these headers.
        .layer(parts.cors.clone())
        // Replaces error statuses, those of the limits included, which would end an `EventSource` for good.
        .layer(settings.unavailable.layer(settings.limit.retry_after))
        .layer(guard)
        .service(upstream);
    Ok(BoxCloneSyncService::new(service))
}

fn resume(settings: &Settings, queue: Option<&Admission>) -> Option<ResumeLayer> {
    let (config, queue) = settings.resume.as_ref().zip(queue)?;
    let layer = config
        .layer(&settings.idle)
        // Each stream would hold the context to its end.
        .strip_extensions(|extensions| _ = extensions.remove::<RequestContext>())
        .admission(queue)
        .wait_for_upstream(settings.unavailable == config::Unavailable::Wait);
    Some(layer)
}
