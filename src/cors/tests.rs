mod early_answers;
mod permissions;
mod preflights;

use super::*;
use crate::client_key::PeerAddr;
use crate::connection_limit::ConnectionLimitLayer;
use crate::early::EarlyLayer;
use crate::guard::StreamError;
use crate::guard::testing::{ScriptedUpstream, TestResponse, send_request};
use crate::metrics::MetricsLayer;
use crate::unavailable::UnavailableLayer;
use http::Method;
use std::task::{Context, Poll};
use std::time::Duration;
use tower_layer::Layer;
use tower_service::Service;

const APP: &str = "https://app.test";

const OTHER: &str = "https://other.test";

fn request(method: &str, fields: &[(&str, &str)]) -> Request<()> {
    let request = Request::builder().method(method).uri("/feed");
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).unwrap()
}

fn get(origin: &str) -> Request<()> {
    request(
        "GET",
        &[("accept", "text/event-stream"), ("origin", origin)],
    )
}

/// What allows it.
fn allowing(origin: &'static str) -> ScriptedUpstream {
    ScriptedUpstream::new().header("access-control-allow-origin", origin)
}

/// A layer's answer in place of the service: of a limit that is used up.
async fn own(cors: &CorsLayer, request: Request<()>) -> TestResponse {
    let limit = ConnectionLimitLayer::new().total(0);
    send_request((cors.clone(), limit), request, ScriptedUpstream::new()).await
}

/// A response of the service.
async fn through(
    cors: &CorsLayer,
    request: Request<()>,
    upstream: ScriptedUpstream,
) -> TestResponse {
    send_request((cors.clone(), MetricsLayer::new()), request, upstream).await
}

fn allowed(response: &TestResponse) -> (Option<&str>, bool) {
    let field = |name| {
        let value = response.headers().get(name);
        value.map(|value: &HeaderValue| value.to_str().unwrap())
    };
    let credentials = field("access-control-allow-credentials") == Some("true");
    (field("access-control-allow-origin"), credentials)
}

/// A request of this client, by its last number.
fn of(client: u8, mut request: Request<()>) -> Request<()> {
    let address = std::net::SocketAddr::from(([192, 0, 2, client], 5000));
    request.extensions_mut().insert(PeerAddr::from(address));
    request
}

fn at(uri: &str, host: &str, mut request: Request<()>) -> Request<()> {
    *request.uri_mut() = uri.parse().unwrap();
    let host = host.parse().unwrap();
    request.headers_mut().insert("host", host);
    request
}

fn preflight(origin: &str, path: &str, method: &str, headers: Option<&str>) -> Request<()> {
    let fields = [
        ("origin", origin),
        ("access-control-request-method", method),
    ];
    let mut request = request("OPTIONS", &fields);
    if let Some(headers) = headers {
        let headers = headers.parse().unwrap();
        request
            .headers_mut()
            .insert("access-control-request-headers", headers);
    }
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// A layer's 503 in place of the service.
async fn away(cors: &CorsLayer, request: Request<()>) -> TestResponse {
    #[derive(Clone)]
    struct Away;
    impl<S> Layer<S> for Away {
        type Service = Gone;
        fn layer(&self, _: S) -> Gone {
            Gone
        }
    }
    struct Gone;
    impl Service<Request<()>> for Gone {
        type Response = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, StreamError>>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            use http_body_util::{BodyExt, Empty};
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.extensions_mut().insert(OwnResponse);
            std::future::ready(Ok(response))
        }
    }
    send_request((cors.clone(), Away), request, ScriptedUpstream::new()).await
}

/// An early answer to a page of another origin, which was known by then.
async fn early(
    request: Request<()>,
    known: ScriptedUpstream,
    late: ScriptedUpstream,
) -> TestResponse {
    let cors = CorsLayer::new();
    let mut before = get(APP);
    if let Some(host) = request.headers().get("host") {
        before.headers_mut().insert("host", host.clone());
    }
    through(&cors, before, known).await;
    let early = EarlyLayer::new(Duration::from_secs(1));
    let layers = (cors, MetricsLayer::new(), early);
    let response = send_request(layers, request, late.late(5)).await;
    assert_eq!(response.status(), 200);
    response
}
