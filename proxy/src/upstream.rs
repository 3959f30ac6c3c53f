//! The innermost service: forwards to the upstream, and responds in its place when it fails.
//!
//! A request goes from [`Upstream`], which has the settings of one route, to a [`Cluster`], which chooses one of its
//! members; a member is an [`endpoint`] as the route uses it. Routes share endpoints, and so do the configs
//! before and after a reload: [`endpoints`]. The protocol on a connection is [`http1`] or [`http2`].

mod address;
mod binding;
mod cluster;
mod connect;
mod dns;
mod endpoint;
mod endpoints;
mod error;
mod health;
mod host;
mod http1;
mod http2;
mod member;
mod outgoing;
mod pins;
mod pool;
mod progress;
mod proxy_header;
mod rewrite;
#[cfg(test)]
mod tests;
mod tunnel;
mod without_trailers;

pub(super) use self::cluster::Cluster;
pub(super) use self::endpoints::Endpoints;
pub use self::http1::chunked;
pub(super) use self::tunnel::Tunnels;

use self::binding::Binding;
use self::error::Failure;
use self::http1::{ExchangeError, Exchanged, HeadOptions, HyperBody, Sent, StreamBody};
use self::http2::{Http2Body, Sending};
use self::member::Member;
use self::outgoing::Outgoing;
use self::progress::{Overdue, Progress};
use self::rewrite::Rewrite;
use super::headers;
use crate::config;
use crate::request_context::RequestContext;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Either, Full};
use sse_guard::client_key::{ClientKey, ForwardedIp};
use sse_guard::connection_limit::InFlight;
use sse_guard::family::Family;
use sse_guard::internal::connection_auth::ConnectionBound;
use sse_guard::internal::retry_after_value;
use sse_guard::internal::{ClientConnection, HYPER_IDLE_TIMEOUT, Upload};
use sse_guard::serve::RequestBody;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_service::Service;

/// An event stream, a body of HTTP/2, another one that hyper reads, or a short text of the proxy.
pub(crate) type UpstreamBody =
    Either<StreamBody, Either<Http2Body, Either<HyperBody, Full<Bytes>>>>;

/// The upstream of one route.
#[derive(Clone)]
pub(super) struct Upstream(Arc<RouteUpstream>);

struct RouteUpstream {
    cluster: Cluster,
    head_timeout: Duration,
    body_timeout: Duration,
    pending: Option<Semaphore>,
    heads: HeadOptions,
    rewrite: Rewrite,
    /// For requests that can no longer wait.
    retry_after: Duration,
    tunnels: Tunnels,
    tunnel_idle_timeout: Option<Duration>,
}

impl Upstream {
    /// Connections that switch protocols are `tunnels` from then on.
    pub(super) fn new(
        settings: &config::Settings,
        trusted: ForwardedIp,
        tunnels: Tunnels,
        cluster: Cluster,
    ) -> Self {
        let config = &settings.upstream;
        Self(Arc::new(RouteUpstream {
            cluster,
            head_timeout: config.head_timeout,
            body_timeout: config.body_timeout,
            pending: config.max_pending.map(|most| {
                let most = usize::try_from(most.get()).unwrap_or(usize::MAX);
                Semaphore::new(most.min(Semaphore::MAX_PERMITS))
            }),
            heads: HeadOptions {
                max_bytes: config.max_head,
                title_case: config.title_case_headers,
            },
            rewrite: Rewrite {
                trusted,
                max_body: config.max_body,
                client_subject: config.client_subject_header.clone(),
            },
            // A client that comes back at once finds no room.
            retry_after: settings.limit.retry_after,
            tunnels,
            tunnel_idle_timeout: config.tunnel_idle_timeout,
        }))
    }

    /// Whether requests go below a path of the upstream's.
    pub(super) fn has_base_path(&self) -> bool {
        self.0.cluster.has_base_path()
    }
}

impl RouteUpstream {
    async fn forward(
        &self,
        member: &Member,
        mut request: Box<Request<RequestBody>>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        if !headers::is_chunked_at_most(request.headers()) {
            return Err(Failure::UnsupportedTransferCoding);
        }
        if !headers::expects_continue_at_most(request.headers()) {
            return Err(Failure::Expectation);
        }
        let protocol = headers::requested_upgrade(&request);
        let client_side = protocol.as_ref().map(|_| hyper::upgrade::on(&mut *request));
        let in_flight: Option<InFlight> = request.extensions().get().cloned();
        let connection: Option<ClientConnection> = request.extensions().get().cloned();
        let switches = protocol.is_some();
        let pending = self.pending.as_ref().map(Semaphore::try_acquire);
        let _pending = pending.transpose().map_err(|_| Failure::Overloaded)?;
        if self
            .rewrite
            .max_body
            .is_some_and(|most| request.body().size_hint().lower() > most)
        {
            return Err(Failure::TooLong);
        }
        let upload = request.body().upload();
        let progress = Progress::default();
        let mut binding = Binding::new(&request, &self.rewrite.trusted, member, switches);
        let request = self
            .rewrite
            .request(member, request, protocol, &progress)
            .map_err(Failure::Request)?;
        let (mut response, switched) = {
            let response = self.send(request, &upload, &progress, &mut binding);
            self.with_head_timeout(pin!(response), &progress).await?
        };
        if binding.is_bound() {
            response.extensions_mut().insert(ConnectionBound);
        }
        let agreed = headers::upgrade(response.headers());
        rewrite::response(&mut response);
        if let Some(switched) = switched {
            let (Some(client_side), Some(protocol)) = (client_side, agreed) else {
                return Err(Failure::UnexpectedUpgrade);
            };
            headers::set_upgrade(response.headers_mut(), protocol);
            let idle_timeout = self.tunnel_idle_timeout;
            let held = in_flight.and_then(|request| request.hold());
            let tunnels = &self.tunnels;
            let task = tunnels.open(client_side, switched, idle_timeout, held);
            if let Some(connection) = connection {
                connection.set_task(task);
            }
        }
        Ok(response)
    }

    /// Sends the request on the client's own connection if it has one, else on an idle one, else on a new one.
    async fn send(
        &self,
        request: Outgoing,
        upload: &Upload,
        progress: &Progress,
        binding: &mut Binding<'_>,
    ) -> Result<Exchanged, Failure> {
        let mut used = binding.take().await;
        // A login begins on a new connection, and so does what may be no HTTP any more. HTTP/2 has neither.
        let is_free = used.is_none() && !binding.is_bound() && !binding.switches();
        let mut request = match is_free && binding.member().endpoint().http2().is_some() {
            false => request,
            true => {
                let max_head = self.heads.max_bytes;
                match http2::send(binding.member(), request, upload, max_head).await? {
                    Sending::Response(response) => return Ok((*response, None)),
                    Sending::Http1(unsent) => unsent,
                }
            }
        };
        if is_free {
            used = binding.member().pool().take();
        }
        if let Some(socket) = used {
            let is_idempotent = request.method().is_idempotent();
            let again = rewrite::repeated(&request, upload);
            let is_repeatable = again.is_some();
            let sent = Sent {
                request,
                upload,
                progress,
                is_repeatable,
                heads: self.heads,
            };
            let exchanged = http1::exchange(socket, binding, sent);
            match exchanged.await {
                Ok(exchanged) => return Ok(exchanged),
                // The upstream may have closed the connection while the request was on its way.
                Err(ExchangeError::Unsent {
                    request: unsent, ..
                }) => request = unsent,
                // RFC 9110 section 9.2.2: it may have been processed, so that it must do no harm twice.
                Err(failed @ ExchangeError::Dead(_)) => {
                    request = again.filter(|_| is_idempotent).ok_or(failed)?;
                }
                Err(failed @ ExchangeError::TimedOut) => request = again.ok_or(failed)?,
                Err(failed) => return Err(failed.into()),
            }
            binding.lose();
        }
        let socket = binding.connect().await?;
        let sent = Sent {
            request,
            upload,
            progress,
            is_repeatable: false,
            heads: self.heads,
        };
        Ok(http1::exchange(socket, binding, sent).await?)
    }

    /// Waits for the head, no longer than the timeout since the last of the request was sent; for what
    /// the client still has to send of it, no longer than its own timeout.
    async fn with_head_timeout(
        &self,
        mut response: Pin<&mut impl Future<Output = Result<Exchanged, Failure>>>,
        progress: &Progress,
    ) -> Result<Exchanged, Failure> {
        let long = Instant::now() + HYPER_IDLE_TIMEOUT;
        loop {
            let mut next = progress
                .check(self.head_timeout, self.body_timeout)
                .map_err(|overdue| match overdue {
                    Overdue::Client => Failure::UploadStalled,
                    Overdue::Upstream => Failure::HeadTimeout,
                })?;
            if !progress.is_long() {
                next = next.min(long);
            }
            tokio::select! {
                result = &mut response => return result,
                () = tokio::time::sleep_until(next) => {}
            }
            if Instant::now() >= long {
                progress.set_long();
            }
        }
    }
}

impl Service<Request<RequestBody>> for Upstream {
    type Response = Response<UpstreamBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        // A box, as futures are as large as all that they pass on.
        let (upstream, request) = (self.0.clone(), Box::new(request));
        Box::pin(async move {
            let client: Option<ClientKey> = request.extensions().get().cloned();
            let family = Family::of(&request);
            let context: Option<RequestContext> = request.extensions().get().cloned();
            let member = upstream.cluster.pick();
            Ok(match upstream.forward(member, request).await {
                Ok(response) => {
                    member.answered();
                    response
                }
                Err(failure) => {
                    if failure.is_upstreams() {
                        member.failed(&failure, client.as_ref());
                    }
                    let limits = member.endpoint().health().failure_limits();
                    failure.log(member.url(), context.as_ref(), limits);
                    failure.answer(retry_after_value(upstream.retry_after, family))
                }
            })
        })
    }
}

#[cfg(test)]
mod size_tests {
    use super::*;

    fn size<F>(
        _: impl Fn(&'static RouteUpstream, &'static Member, Box<Request<RequestBody>>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn request_that_waits_is_small() {
        let size = size(|upstream, member, request| upstream.forward(member, request));
        // It was eight times as much when each step held the request, and hyper's connection.
        assert!(size <= 1152, "{size} bytes");
    }
}
