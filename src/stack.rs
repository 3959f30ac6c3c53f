//! All layers in the right order, in one line.
//!
//! From the client inward: metrics, injection, rotation, connection limit, heartbeat, idle timeout,
//! completion. They share one body, one timer and one look at the bytes; a wrong order would do no harm,
//! but costs more.
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

use crate::cache_control::CacheControl;
use crate::client_key::PeerIp;
use crate::completion::CompletionLayer;
use crate::connection_limit::ConnectionLimitLayer;
use crate::guard::Guard;
use crate::heartbeat::HeartbeatLayer;
use crate::idle_timeout::IdleTimeoutLayer;
use crate::inject::InjectLayer;
use crate::metrics::MetricsLayer;
use crate::rotation::RotationLayer;
use tower_layer::Layer;

/// Applies the layers of this crate as one, in their right order. See the [module docs](self).
///
/// By default with metrics, and a heartbeat after 15 s; without rotation, drain, injection, idle timeout
/// and completion, which only the application can choose. Limits are off until
/// [`limit`](Self::limit) names the key that distinguishes clients: behind a load balancer all of them have
/// one peer address. A layer set to `None` is off.
///
/// To the upstream service, requests that accept an event stream say `Accept-Encoding: identity`.
/// The heads of event streams lose `Content-Length` and get `X-Accel-Buffering: no` and, unless
/// they say `no-store`, `Cache-Control: no-cache, no-transform`;
/// [`cache_control`](Self::cache_control) keeps that of the service.
#[derive(Clone, Debug)]
pub struct SseGuardLayer<K = PeerIp> {
    metrics: Option<MetricsLayer>,
    limit: Option<ConnectionLimitLayer<K>>,
    rotation: Option<RotationLayer>,
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
            metrics: Some(MetricsLayer::new()),
            limit: None,
            rotation: None,
            inject: None,
            heartbeat: Some(HeartbeatLayer::default()),
            idle: None,
            completion: None,
            cache_control: None,
        }
    }
}

impl<K> SseGuardLayer<K> {
    /// Sets the layer that counts and times streams; `None` for none.
    #[must_use]
    pub fn metrics(mut self, layer: impl Into<Option<MetricsLayer>>) -> Self {
        self.metrics = layer.into();
        self
    }

    /// Sets the layer that limits streams per client and in total. Off by default.
    ///
    /// [`ConnectionLimitLayer::new`] counts by the peer's address, for servers that clients connect to
    /// directly. Behind a proxy, [`with_extractor`](ConnectionLimitLayer::with_extractor) takes a
    /// [`ForwardedIp`](crate::client_key::ForwardedIp).
    #[must_use]
    pub fn limit<L>(self, layer: impl Into<Option<ConnectionLimitLayer<L>>>) -> SseGuardLayer<L> {
        SseGuardLayer {
            metrics: self.metrics,
            limit: layer.into(),
            rotation: self.rotation,
            inject: self.inject,
            heartbeat: self.heartbeat,
            idle: self.idle,
            completion: self.completion,
            cache_control: self.cache_control,
        }
    }

    /// Sets the layer that ends old streams, and all streams in a drain. Off by default.
    #[must_use]
    pub fn rotation(mut self, layer: impl Into<Option<RotationLayer>>) -> Self {
        self.rotation = layer.into();
        self
    }

    /// Sets the layer through which the application sends events of its own. Off by default.
    #[must_use]
    pub fn inject(mut self, layer: impl Into<Option<InjectLayer>>) -> Self {
        self.inject = layer.into();
        self
    }

    /// Sets the layer that sends heartbeats; `None` for none.
    #[must_use]
    pub fn heartbeat(mut self, layer: impl Into<Option<HeartbeatLayer>>) -> Self {
        self.heartbeat = layer.into();
        self
    }

    /// Sets the layer that ends streams whose upstream is silent. Off by default.
    #[must_use]
    pub fn idle_timeout(mut self, layer: impl Into<Option<IdleTimeoutLayer>>) -> Self {
        self.idle = layer.into();
        self
    }

    /// Sets the layer that breaks incomplete answers of model APIs. Off by default.
    #[must_use]
    pub fn completion(mut self, layer: impl Into<Option<CompletionLayer>>) -> Self {
        self.completion = layer.into();
        self
    }

    /// What becomes of the `Cache-Control` that the service sends with an event stream; by default it is
    /// replaced. Counts for the crate's layers inside and outside this one, too.
    #[must_use]
    pub fn cache_control(mut self, cache_control: CacheControl) -> Self {
        self.cache_control = Some(cache_control);
        self
    }
}

/// The rules of the stack, the outermost first.
type Rules<K> = (
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

/// The service that [`SseGuardLayer`] makes.
pub type SseGuard<S, K = PeerIp> = Guard<S, Rules<K>>;

impl<S, K: Clone> Layer<S> for SseGuardLayer<K> {
    type Service = SseGuard<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self {
            metrics,
            limit,
            rotation,
            inject,
            heartbeat,
            idle,
            completion,
            cache_control,
        } = self.clone();
        // What was sent ahead of an end goes out before it. In a drain a client over its limit has to
        // get an empty stream, not a 429, so rotation decides first.
        let rules = (rotation, (limit, (heartbeat, (idle, completion))));
        Guard::new(inner, (metrics, (inject, rules))).with_cache_control(cache_control)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_key::PeerAddr;
    use crate::connection_limit::DEFAULT_PER_CLIENT;
    use crate::guard::testing::{Upstream, ask, get};
    use crate::stream::EndReason;
    use http::{Method, Request};
    use std::time::Duration;

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
            let peer = PeerAddr(([192, 0, 2, 1], 5000).into());
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
