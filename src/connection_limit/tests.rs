mod limits;
mod rates;
mod requests;
mod slots;

use super::*;
use crate::client_key::PeerAddr;
use crate::guard::testing::{ScriptedService, ScriptedUpstream, TestResponse, send_request};
use crate::stream::StreamRegistry;
use http::{Method, Response};
use std::net::{IpAddr, SocketAddr};
use tower::{Service, ServiceExt, service_fn};

fn from(ip: &str) -> Request<()> {
    let ip: IpAddr = ip.parse().unwrap();
    Request::get("/")
        .header("accept", "text/event-stream")
        .extension(PeerAddr::from(SocketAddr::new(ip, 5000)))
        .body(())
        .unwrap()
}

fn without_accept(ip: &str) -> Request<()> {
    let mut request = from(ip);
    request.headers_mut().clear();
    request
}

async fn open(limit: &ConnectionLimitLayer, request: Request<()>) -> TestResponse {
    send_request(
        limit.clone(),
        request,
        ScriptedUpstream::new().send("data: 1\n\n").hang(),
    )
    .await
}

/// A service that neither answers nor fails, or does whatever `respond` does.
async fn call_service<F>(
    limit: &ConnectionLimitLayer,
    respond: impl Fn() -> F + Clone,
) -> Result<(), String>
where
    F: Future<Output = Result<Response<Empty>, String>>,
{
    let service = limit.layer(service_fn(move |_: Request<()>| respond()));
    service.oneshot(from("192.0.2.1")).await.map(drop)
}

type Empty = http_body_util::Empty<bytes::Bytes>;

fn inner() -> ScriptedService {
    ScriptedService::new(ScriptedUpstream::new().hang())
}

fn plain(ip: &str) -> Request<()> {
    let mut request = without_accept(ip);
    *request.method_mut() = Method::POST;
    request
}

async fn text(
    limit: &ConnectionLimitLayer,
    request: Request<()>,
    upstream: ScriptedUpstream,
) -> TestResponse {
    send_request(limit.clone(), request, upstream.content_type("text/plain")).await
}

/// An OPTIONS request with these fields.
fn options(ip: &str, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = without_accept(ip);
    *request.method_mut() = Method::OPTIONS;
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}
