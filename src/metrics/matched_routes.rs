//! The numbers of one layer by the route that a router has matched.

use super::MetricsLayer;
use http::Extensions;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// More than a router has. Requests of further routes count for the layer itself.
const MAX_ROUTES: usize = 1_024;

/// Reads the name of a request's route.
type RouteName = fn(&Extensions) -> Option<&str>;

/// One layer for each route.
#[derive(Debug)]
pub(super) struct MatchedRoutes {
    name: RouteName,
    layers: RwLock<HashMap<Box<str>, Arc<MetricsLayer>>>,
}

impl MatchedRoutes {
    #[cfg(feature = "axum")]
    pub(super) fn by(name: RouteName) -> Self {
        Self {
            name,
            layers: RwLock::default(),
        }
    }

    /// Returns the layer of the request's route, made as a copy of `layer` at the first request.
    pub(super) fn layer(
        &self,
        extensions: &Extensions,
        layer: &MetricsLayer,
    ) -> Option<Arc<MetricsLayer>> {
        let name = (self.name)(extensions)?;
        if let Some(known) = self.read().get(name) {
            return Some(known.clone());
        }
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        if layers.len() >= MAX_ROUTES && !layers.contains_key(name) {
            return None;
        }
        let made = layers.entry(name.into()).or_insert_with(|| {
            let mut layer = layer.clone();
            layer.matched_routes = None;
            Arc::new(layer.route(name))
        });
        Some(made.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Box<str>, Arc<MetricsLayer>>> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn layers(&self) -> Vec<(Box<str>, Arc<MetricsLayer>)> {
        let layers = self.read().clone();
        layers.into_iter().collect()
    }
}

#[cfg(all(test, feature = "axum"))]
mod tests {
    use super::*;
    use crate::SseGuardLayer;
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use http::Request;
    use http_body_util::BodyExt;
    use metrics_util::debugging::DebuggingRecorder;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use tower::ServiceExt;

    async fn events() -> ([(&'static str, &'static str); 1], &'static str) {
        let stream = [("content-type", "text/event-stream")];
        (stream, "data: 1\n\ndata: 2\n\n")
    }

    #[tokio::test]
    async fn streams_count_for_their_matched_pattern() {
        let recorder = DebuggingRecorder::new();
        let seen = recorder.snapshotter();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let ended = Arc::new(AtomicU64::new(0));
        let count = ended.clone();
        let layer = MetricsLayer::new()
            .route("unmatched")
            .on_end(move |_| {
                count.fetch_add(1, Relaxed);
            })
            .route_by_matched_path();
        let app = Router::new()
            .route("/rooms/{room}/events", get(events))
            .route("/feed", get(events))
            .fallback(events)
            .layer(SseGuardLayer::new().metrics(layer.clone()));
        for path in [
            "/rooms/1/events",
            "/rooms/2/events?token=x",
            "/feed",
            "/else",
        ] {
            let request = Request::get(path).header("accept", "text/event-stream");
            let request = request.body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
        let mut routes: Vec<_> = layer.routes().into_iter().map(|(name, _)| name).collect();
        routes.sort();
        assert_eq!(routes, ["/feed", "/rooms/{room}/events", "unmatched"]);
        let opened = |name| {
            let routes = layer.routes();
            let (_, numbers) = routes.into_iter().find(|(route, _)| route == name).unwrap();
            (numbers.opened, numbers.events)
        };
        assert_eq!(opened("/rooms/{room}/events"), (2, 4));
        assert_eq!(opened("unmatched"), (1, 2));
        let all = layer.snapshot();
        assert_eq!((all.opened, all.events, all.active), (4, 8, 0));
        assert_eq!(ended.load(Relaxed), 4);

        let mut labels: Vec<_> = (seen.snapshot().into_vec().into_iter())
            .filter(|(key, ..)| key.key().name() == "sse_guard_events_total")
            .flat_map(|(key, ..)| key.key().labels().cloned().collect::<Vec<_>>())
            .map(|label| label.value().to_owned())
            .collect();
        labels.sort();
        assert_eq!(labels, ["/feed", "/rooms/{room}/events", "unmatched"]);
    }

    #[test]
    fn routes_above_the_maximum_count_for_the_layer_itself() {
        #[derive(Clone)]
        struct Name(String);
        let routes = MatchedRoutes::by(|extensions| extensions.get().map(|Name(name)| &**name));
        let layer = MetricsLayer::new();
        let mut extensions = Extensions::new();
        for n in 0..2 * MAX_ROUTES {
            extensions.insert(Name(n.to_string()));
            let found = routes.layer(&extensions, &layer);
            assert_eq!(found.is_some(), n < MAX_ROUTES);
        }
        extensions.insert(Name("0".to_owned()));
        assert!(routes.layer(&extensions, &layer).is_some());
        assert_eq!(routes.layers().len(), MAX_ROUTES);
    }
}
