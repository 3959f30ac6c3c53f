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
/// By default with metrics, and a heartbeat after 15 s; without rotation, drain, injection, idle timeout,
/// completion, early answer and resume, which only the application can choose. Limits are off until
/// [`limit`](Self::limit) names the key that distinguishes clients: behind a load balancer all of them have
/// one peer address. A layer set to `None` is off.
///
/// To the upstream service, requests that accept an event stream say `Accept-Encoding: identity`.
/// The heads of event streams lose `Content-Length` and get `X-Accel-Buffering: no` and, unless
/// they say `no-store`, `Cache-Control: no-cache, no-transform`;
/// [`cache_control`](Self::cache_control) keeps that of the service.
#[derive(Clone, Debug)]
pub struct SseGuardLayer<K = PeerIp, E = Identity, R = Identity> {
    shared: Shared<K>,
    early: E,
    resume: R,
}

/// The layers that share one body.
#[derive(Clone, Debug)]
struct Shared<K> {
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
            shared: Shared {
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
    /// Sets the layer that counts and times streams; `None` for none.
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
            shared: Shared {
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

    /// Sets the layer through which the application sends events of its own. Off by default.
    #[must_use]
    pub fn inject(mut self, layer: impl Into<Option<InjectLayer>>) -> Self {
        self.shared.inject = layer.into();
        self
    }

    /// Sets the layer that sends heartbeats; `None` for none.
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
    /// It stands inside of the layers above, so that heartbeats and the idle timeout begin with its
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

    /// What becomes of the `Cache-Control` that the service sends with an event stream; by default it is
    /// replaced. Counts for the crate's layers inside and outside this one, too.
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

/// What the body of a [`SseGuard`] is made for.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct StackLayers<K>(Nested<K>);

impl<K: KeyExtractor> StreamLayer for StackLayers<K> {
    type Ticket = <Nested<K> as StreamLayer>::Ticket;
    type Policy = <Nested<K> as StreamLayer>::Policy;
    const OBSERVES: bool = Nested::<K>::OBSERVES;
    const INJECTS: bool = Nested::<K>::INJECTS;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection> {
        self.0.admit(request, request_info)
    }

    fn extend(&self, ticket: &Self::Ticket, extensions: &mut Extensions) {
        self.0.extend(ticket, extensions);
    }

    fn open(
        &self,
        ticket: Self::Ticket,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<Self::Policy>, Rejection> {
        self.0.open(ticket, head)
    }

    fn not_opened(&self, ticket: Self::Ticket, reason: &NotOpened) {
        self.0.not_opened(ticket, reason);
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
        let Shared {
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
        // What was sent ahead of an end goes out before it. In a drain a client over its limit has to
        // get an empty stream, not a 429, so rotation decides first.
        let inner_layers = (rotation, (limit, (heartbeat, (idle, completion))));
        let layers = StackLayers((metrics, (inject, inner_layers)));
        // To resume, an early response to a reconnect would be a success.
        let inner = self.early.layer(self.resume.layer(inner));
        Guard::new(inner, layers).with_cache_control(cache_control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_key::PeerAddr;
    use crate::connection_limit::DEFAULT_PER_CLIENT;
    use crate::guard::StreamError;
    use crate::guard::testing::{Client, Script, Upstream, ask, get};
    use crate::stream::EndReason;
    use bytes::Bytes;
    use http::{Method, Response};
    use http_body::Body;
    use http_body_util::Empty;
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::time::Duration;
    use tower::util::BoxCloneService;
    use tower::{Service, ServiceExt, service_fn};

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test]
    async fn the_cache_control_of_a_stream_is_replaced_or_kept() {
        let (keep, replace) = (CacheControl::Keep, CacheControl::Replace);
        let stack = SseGuardLayer::new;
        let beats = HeartbeatLayer::default;
        let cached = || Upstream::new().header("cache-control", "max-age=9");
        let (kept, replaced) = ("max-age=9, no-transform", "no-cache, no-transform");
        for method in [Method::GET, Method::POST, Method::HEAD] {
            let request = || Request::builder().method(&method).body(()).unwrap();
            let asks = |cache_control: CacheControl| {
                let mut request = request();
                request.extensions_mut().insert(cache_control);
                request
            };
            let kept_by = stack().cache_control(keep);
            for (response, expected) in [
                (ask(stack(), request(), cached()).await, replaced),
                (ask(kept_by.clone(), request(), cached()).await, kept),
                (
                    ask(kept_by.clone(), request(), Upstream::new()).await,
                    replaced,
                ),
                // What is nearer to the service counts.
                (ask(kept_by.clone(), asks(replace), cached()).await, kept),
                (ask(stack(), asks(keep), cached()).await, kept),
                (
                    ask(stack(), request(), cached().extension(keep)).await,
                    kept,
                ),
                (
                    ask(kept_by.clone(), request(), cached().extension(replace)).await,
                    replaced,
                ),
                // Other layers of the crate.
                (ask(beats(), asks(keep), cached()).await, kept),
                (
                    ask((kept_by.clone(), beats()), request(), cached()).await,
                    kept,
                ),
                (
                    ask((beats(), kept_by.clone()), request(), cached()).await,
                    kept,
                ),
            ] {
                assert_eq!(response.headers()["cache-control"], expected, "{method}");
                assert_eq!(response.headers()["x-accel-buffering"], "no");
            }
            let plain = cached().content_type("text/plain");
            let response = ask(kept_by, request(), plain).await;
            assert_eq!(response.headers()["cache-control"], "max-age=9");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_five_work_on_one_body() {
        let (metrics, limit) = (MetricsLayer::new(), ConnectionLimitLayer::new().total(1));
        let stack = SseGuardLayer::new()
            .metrics(metrics.clone())
            .limit(limit.clone())
            .rotation(RotationLayer::new().max_age(secs(100), 0.0).retry(None))
            .heartbeat(HeartbeatLayer::new(secs(10)))
            .idle_timeout(IdleTimeoutLayer::new().timeout(secs(35)).retry(None));

        let upstream = Upstream::new().send("data: 1\n\n").hang();
        let response = get(stack.clone(), upstream).await;
        let stream = response.stream();
        assert_eq!(get(stack.clone(), Upstream::new()).await.status(), 503);
        let beats = ": heartbeat\n".repeat(3);
        assert_eq!(response.text().await, format!("data: 1\n\n{beats}"));
        assert_eq!(stream.end_reason(), Some(EndReason::UpstreamIdle));
        assert_eq!((limit.active(), metrics.snapshot().active), (0, 0));

        let upstream = Upstream::new().repeat(9, |upstream| upstream.wait(30).send("data: 1\n\n"));
        let response = get(stack, upstream).await;
        let stream = response.stream();
        response.read().await.1.unwrap();
        assert_eq!(stream.end_reason(), Some(EndReason::Rotated));
        assert_eq!(metrics.snapshot().ended(EndReason::Rotated), 1);
        assert_eq!(metrics.snapshot().rejected, 1);
    }

    #[tokio::test]
    async fn limits_are_off_until_a_client_key_is_named() {
        let asks = || {
            let peer = PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 5000)));
            let request = Request::get("/").header("accept", "text/event-stream");
            request.extension(peer).body(()).unwrap()
        };
        let off = SseGuardLayer::new();
        let named = off.clone().limit(ConnectionLimitLayer::new());
        for (stack, expected) in [(off, 200), (named, 429)] {
            let mut open = Vec::new();
            for _ in 0..DEFAULT_PER_CLIENT {
                open.push(ask(stack.clone(), asks(), Upstream::new().hang()).await);
            }
            assert!(open.iter().all(|response| response.status() == 200));
            let next = ask(stack, asks(), Upstream::new().hang()).await;
            assert_eq!(next.status(), expected);
        }
    }

    type Asks = Request<Empty<Bytes>>;
    type SlowUpstream = BoxCloneService<Asks, Response<Script>, Infallible>;

    /// What a client gets whose upstream takes 20 s for each response, breaks off after an event, responds
    /// 503 to the first reconnect, and sends the next event to the second.
    async fn through_slow_upstream<L, B>(layer: L) -> String
    where
        L: Layer<SlowUpstream>,
        L::Service: Service<Asks, Response = Response<B>, Error = Infallible>,
        B: Body<Data = Bytes, Error = StreamError> + Send + 'static,
    {
        let calls = Arc::new(AtomicUsize::new(0));
        let upstream = service_fn(move |_: Asks| {
            let upstream = Upstream::new().late(20);
            let upstream = match calls.fetch_add(1, Relaxed) {
                0 => upstream.send("id: 1\ndata: 1\n\n").fail(),
                1 => upstream.status(503),
                _ => upstream.send("id: 2\ndata: 2\n\n"),
            };
            async { Ok(upstream.answer().await) }
        });
        let request = Request::get("/").header("accept", "text/event-stream");
        let request = request.body(Empty::new()).unwrap();
        let service = layer.layer(BoxCloneService::new(upstream));
        Client::new(service.oneshot(request).await.unwrap())
            .text()
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn early_and_resume_have_their_places_in_whatever_order_they_are_set() {
        let stack = || SseGuardLayer::new().heartbeat(HeartbeatLayer::new(secs(4)));
        let (early, resume) = (|| EarlyLayer::new(secs(10)), ResumeLayer::new);
        let one = stack().early(early()).resume(resume());
        let other = stack().resume(resume()).early(early());
        for text in [
            through_slow_upstream(one).await,
            through_slow_upstream(other).await,
        ] {
            // Heartbeats are outside of the early response: after 10, 14 and 18 s.
            let (wait, events) = text.split_at(text.find("id: 1").unwrap());
            assert_eq!(wait, ": heartbeat\n".repeat(3));
            // Resume is inside: an early response to the first reconnect would have been a success, and its
            // 503 an error event.
            let lines = events.split_inclusive('\n');
            let events: String = lines.filter(|line| !line.starts_with(':')).collect();
            assert_eq!(events, "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn early_and_resume_are_off_if_none() {
        let upstream = || Upstream::new().late(20).send("data: 1\n\n");
        let stack = SseGuardLayer::new().heartbeat(HeartbeatLayer::new(secs(4)));
        let text = get(stack.clone().early(None), upstream())
            .await
            .text()
            .await;
        assert_eq!(text, "data: 1\n\n");
        let text = get(stack.early(EarlyLayer::new(secs(10))), upstream()).await;
        assert_eq!(
            text.text().await,
            format!("{}data: 1\n\n", ": heartbeat\n".repeat(3))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn registry_lists_and_drains_streams_without_rotation() {
        let registry = StreamRegistry::new();
        let stack = SseGuardLayer::new().registry(&registry);
        let response = get(stack.clone(), Upstream::new().hang()).await;
        let stream = response.stream();
        assert_eq!(registry.streams()[0].id(), stream.id());
        registry.drain(secs(10));
        assert!(response.text().await.contains("retry: "));
        assert_eq!(stream.end_reason(), Some(EndReason::Drained));
        assert_eq!(registry.live(), 0);
        let rejected = get(stack, Upstream::new().hang()).await;
        assert!(rejected.text().await.starts_with("retry: "));
    }

    #[tokio::test(start_paused = true)]
    async fn with_all_off_the_events_pass() {
        let stack = SseGuardLayer::new()
            .metrics(None)
            .limit(None::<ConnectionLimitLayer>)
            .rotation(None)
            .heartbeat(None);
        let upstream = Upstream::new()
            .send("data: 1\n\n")
            .wait(60)
            .send("data: 2\n\n");
        assert_eq!(
            get(stack, upstream).await.text().await,
            "data: 1\n\ndata: 2\n\n"
        );
    }
}
