//! All layers in the right order, in one line.
//!
//! From the client inward: metrics, injection, rotation, connection limit, heartbeat, idle timeout,
//! completion, early answer, resume. All but the last two share one body, one timer and one look at the
//! bytes; a wrong order would do no harm, but costs more.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use sse_guard::SseGuardLayer;
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = ServiceBuilder::new()
//!     .layer(SseGuardLayer::new())
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from("data: 1\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let response = service.oneshot(Request::new(())).await?;
//! assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
//! assert_eq!(response.headers()["x-accel-buffering"], "no");
//! # Ok(())
//! # }
//! ```

#[cfg(test)]
mod tests;

use crate::client_key::KeyExtractor;
use crate::client_key::PeerIp;
use crate::completion::CompletionLayer;
use crate::connection_limit::ConnectionLimitLayer;
use crate::early::EarlyLayer;
use crate::guard::{Guard, NotOpened, ResponseInfo, StreamLayer};
use crate::head::CacheControl;
use crate::heartbeat::HeartbeatLayer;
use crate::idle_timeout::IdleTimeoutLayer;
use crate::inject::InjectLayer;
use crate::metrics::MetricsLayer;
use crate::rejection::Rejection;
use crate::request_info::RequestInfo;
use crate::resume::ResumeLayer;
use crate::rotation::RotationLayer;
use crate::stream::StreamRegistry;
use http::{Extensions, Request};
use tower_layer::{Identity, Layer};

/// Applies the layers of this crate as one, in their right order. See the [module docs](self).
///
/// Metrics and a heartbeat after 15 s are on by default; rotation, drain, injection, idle timeout,
/// completion, early answer and resume are off, as they depend on the application. Limits are off until
/// [`limit`](Self::limit) sets the key that distinguishes clients: behind a load balancer all of them have
/// one peer address. A layer set to `None` is off.
///
/// Requests that accept an event stream reach the upstream service with `Accept-Encoding: identity`.
/// The heads of event streams lose `Content-Length` and get `X-Accel-Buffering: no` and, unless
/// they have `no-store`, `Cache-Control: no-cache, no-transform`;
/// [`cache_control`](Self::cache_control) keeps that of the service.
#[derive(Clone, Debug)]
pub struct SseGuardLayer<K = PeerIp, E = Identity, R = Identity> {
    shared: BodyLayers<K>,
    early: E,
    resume: R,
}

/// The layers that share one body.
#[derive(Clone, Debug)]
struct BodyLayers<K> {
    metrics: Option<MetricsLayer>,
    limit: Option<ConnectionLimitLayer<K>>,
    rotation: Option<RotationLayer>,
    registry: Option<StreamRegistry>,
    inject: Option<InjectLayer>,
    heartbeat: Option<HeartbeatLayer>,
    idle: Option<IdleTimeoutLayer>,
    completion: Option<CompletionLayer>,
    cache_control: Option<CacheControl>,
}

impl Default for SseGuardLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl SseGuardLayer {
    /// Creates the default stack: metrics, and heartbeats after 15 s.
    pub fn new() -> Self {
        Self {
            shared: BodyLayers {
                metrics: Some(MetricsLayer::new()),
                limit: None,
                rotation: None,
                registry: None,
                inject: None,
                heartbeat: Some(HeartbeatLayer::default()),
                idle: None,
                completion: None,
                cache_control: None,
            },
            early: Identity::new(),
            resume: Identity::new(),
        }
    }
}

impl<K, E, R> SseGuardLayer<K, E, R> {
    /// Sets the layer that counts and times streams; `None` switches it off.
    #[must_use]
    pub fn metrics(mut self, layer: impl Into<Option<MetricsLayer>>) -> Self {
        self.shared.metrics = layer.into();
        self
    }

    /// Sets the layer that limits streams per client and in total. Off by default.
    ///
    /// [`ConnectionLimitLayer::new`] counts by the peer's address, for servers that clients connect to
    /// directly. Behind a proxy, [`with_extractor`](ConnectionLimitLayer::with_extractor) takes a
    /// [`ForwardedIp`](crate::client_key::ForwardedIp).
    #[must_use]
    pub fn limit<L>(
        self,
        layer: impl Into<Option<ConnectionLimitLayer<L>>>,
    ) -> SseGuardLayer<L, E, R> {
        let shared = self.shared;
        SseGuardLayer {
            shared: BodyLayers {
                metrics: shared.metrics,
                limit: layer.into(),
                rotation: shared.rotation,
                registry: shared.registry,
                inject: shared.inject,
                heartbeat: shared.heartbeat,
                idle: shared.idle,
                completion: shared.completion,
                cache_control: shared.cache_control,
            },
            early: self.early,
            resume: self.resume,
        }
    }

    /// Sets the layer that ends old streams. Off by default.
    #[must_use]
    pub fn rotation(mut self, layer: impl Into<Option<RotationLayer>>) -> Self {
        self.shared.rotation = layer.into();
        self
    }

    /// Sets the registry that lists, ends and drains the streams, also without a
    /// [rotation layer](Self::rotation). None by default.
    #[must_use]
    pub fn registry(mut self, registry: &StreamRegistry) -> Self {
        self.shared.registry = Some(registry.clone());
        self
    }

    /// Sets the layer by which the application sends its own events. Off by default.
    #[must_use]
    pub fn inject(mut self, layer: impl Into<Option<InjectLayer>>) -> Self {
        self.shared.inject = layer.into();
        self
    }

    /// Sets the layer that sends heartbeats; `None` switches it off.
    #[must_use]
    pub fn heartbeat(mut self, layer: impl Into<Option<HeartbeatLayer>>) -> Self {
        self.shared.heartbeat = layer.into();
        self
    }

    /// Sets the layer that ends streams whose upstream is silent. Off by default.
    #[must_use]
    pub fn idle_timeout(mut self, layer: impl Into<Option<IdleTimeoutLayer>>) -> Self {
        self.shared.idle = layer.into();
        self
    }

    /// Sets the layer that breaks incomplete answers of model APIs. Off by default.
    #[must_use]
    pub fn completion(mut self, layer: impl Into<Option<CompletionLayer>>) -> Self {
        self.shared.completion = layer.into();
        self
    }

    /// Sets the layer that sends a response head when the service is slow. Off by default.
    ///
    /// It is inside the layers above, so that heartbeats and the idle timeout begin with its
    /// response. The service's errors must convert into [`BoxError`](crate::BoxError).
    #[must_use]
    pub fn early(self, layer: impl Into<Option<EarlyLayer>>) -> SseGuardLayer<K, EarlyLayer, R> {
        let off = || EarlyLayer::default().enabled(false);
        SseGuardLayer {
            shared: self.shared,
            early: layer.into().unwrap_or_else(off),
            resume: self.resume,
        }
    }

    /// Sets the layer that reconnects a lost upstream behind a live stream. Off by default.
    ///
    /// It is the innermost, directly around the service, which it calls again: the service must be
    /// `Clone`, `Send` and `'static`, and the request's body have a `Default`, the empty one.
    #[must_use]
    pub fn resume(self, layer: impl Into<Option<ResumeLayer>>) -> SseGuardLayer<K, E, ResumeLayer> {
        let off = || ResumeLayer::new().enabled(false);
        SseGuardLayer {
            shared: self.shared,
            early: self.early,
            resume: layer.into().unwrap_or_else(off),
        }
    }

    /// Sets whether the `Cache-Control` of the service's event streams is kept; by default it is
    /// replaced. This applies to the crate's layers inside and outside this one, too.
    #[must_use]
    pub fn cache_control(mut self, cache_control: CacheControl) -> Self {
        self.shared.cache_control = Some(cache_control);
        self
    }
}

/// The layers of the stack that share one body, the outermost first.
type Nested<K> = (
    Option<MetricsLayer>,
    (
        Option<InjectLayer>,
        (
            Option<RotationLayer>,
            (
                Option<ConnectionLimitLayer<K>>,
                (
                    Option<HeartbeatLayer>,
                    (Option<IdleTimeoutLayer>, Option<CompletionLayer>),
                ),
            ),
        ),
    ),
);

/// The layers whose policies the body of a [`SseGuard`] runs.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct StackLayers<K>(Nested<K>);

impl<K: KeyExtractor> StreamLayer for StackLayers<K> {
    type Admitted = <Nested<K> as StreamLayer>::Admitted;
    type Policy = <Nested<K> as StreamLayer>::Policy;
    const OBSERVES: bool = Nested::<K>::OBSERVES;
    const INJECTS: bool = Nested::<K>::INJECTS;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Admitted, Rejection> {
        self.0.admit(request, request_info)
    }

    fn extend(&self, admitted: &Self::Admitted, extensions: &mut Extensions) {
        self.0.extend(admitted, extensions);
    }

    fn open(
        &self,
        admitted: Self::Admitted,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<Self::Policy>, Rejection> {
        self.0.open(admitted, head)
    }

    fn not_opened(&self, admitted: Self::Admitted, reason: &NotOpened) {
        self.0.not_opened(admitted, reason);
    }
}

/// The service that [`SseGuardLayer`] makes of the layers that share one body.
pub type SseGuard<S, K = PeerIp> = Guard<S, StackLayers<K>>;

impl<S, K, E, R> Layer<S> for SseGuardLayer<K, E, R>
where
    K: Clone,
    E: Layer<R::Service>,
    R: Layer<S>,
{
    type Service = SseGuard<E::Service, K>;

    fn layer(&self, inner: S) -> Self::Service {
        let BodyLayers {
            metrics,
            limit,
            rotation,
            registry,
            inject,
            heartbeat,
            idle,
            completion,
            cache_control,
        } = self.shared.clone();
        // Without a maximum age the rotation layer ends streams on request of the registry only.
        let rotation = match registry {
            Some(registry) => Some(rotation.unwrap_or_default().registry(&registry)),
            None => rotation,
        };
        // Injected events are sent before an end. In a drain a client over its limit must get an empty
        // stream, not a 429, so rotation decides first.
        let inner_layers = (rotation, (limit, (heartbeat, (idle, completion))));
        let layers = StackLayers((metrics, (inject, inner_layers)));
        // Resume is inside early, as it would take an early response to a reconnect for a success.
        let inner = self.early.layer(self.resume.layer(inner));
        Guard::new(inner, layers).with_cache_control(cache_control)
    }
}
