//! The innermost service: forwards to the upstream, and responds in its place when it fails.

mod binding;
mod connect;
mod dns;
mod error;
mod health;
mod http1;
mod outgoing;
mod pins;
mod pool;
mod progress;
#[cfg(test)]
mod tests;
mod tunnel;
mod without_trailers;

use self::binding::Binding;
use self::connect::{Connector, host};
use self::error::Failure;
pub(super) use self::health::{Check, Health};
pub use self::http1::chunked;
use self::http1::{ExchangeError, Exchanged, HeadOptions, HyperBody, Sent, StreamBody};
use self::outgoing::{BoxedBody, Outgoing, nothing};
use self::pool::Pool;
use self::progress::{Overdue, Progress, Uploading};
pub(super) use self::tunnel::Tunnels;
use self::without_trailers::WithoutTrailers;
use super::headers::Options;
use super::{fd_limit, headers};
use crate::config;
use crate::request_context::RequestContext;
use bytes::{Bytes, BytesMut};
use http::header::{ALT_SVC, HOST, TRAILER, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full, Limited};
use sse_guard::client_key::{ClientKey, ForwardedIp, PeerAddr};
use sse_guard::connection_limit::InFlight;
use sse_guard::family::Family;
use sse_guard::internal::connection_auth::ConnectionBound;
use sse_guard::internal::retry_after_value;
use sse_guard::internal::{ClientConnection, LINGER, Liveness, Upload};
use sse_guard::serve::{Io, RequestBody};
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower_service::Service;

/// An event stream, another body that hyper reads, or a short text of the proxy.
pub(crate) type UpstreamBody = Either<StreamBody, Either<HyperBody, Full<Bytes>>>;

/// One upstream of one route, with its idle connections.
#[derive(Clone)]
pub(super) struct Upstream {
    connector: Connector,
    pool: Arc<Pool>,
    target: Arc<Target>,
}

struct Target {
    /// As it stands in the config, for the log.
    url: Uri,
    /// The server that it is, however many routes lead there.
    authority: Arc<str>,
    /// For requests that name none.
    host: Option<HeaderValue>,
    /// Put in front of the request's path; without a slash at its end.
    base: String,
    liveness: Liveness,
    head_timeout: Duration,
    body_timeout: Duration,
    waiting: Option<Semaphore>,
    max_body: Option<u64>,
    heads: HeadOptions,
    /// For requests that can no longer wait.
    retry_after: Duration,
    trusted: ForwardedIp,
    tunnels: Tunnels,
    tunnel_idle_timeout: Option<Duration>,
    health: Health,
}

impl Upstream {
    /// Connections that switch protocols are `tunnels` from then on.
    pub(super) fn new(
        settings: &config::Settings,
        trusted: ForwardedIp,
        tunnels: Tunnels,
        health: Health,
    ) -> Self {
        let config = &settings.upstream;
        let unix = config::unix_socket(&config.url);
        let base = unix.map_or(config.url.path(), |unix| unix.base);
        let authority = match unix {
            Some(unix) => unix.socket,
            None => config.url.authority().map_or("", Authority::as_str),
        };
        Self {
            connector: Connector::of(config),
            pool: Arc::new(Pool::new(config.idle_timeout)),
            target: Arc::new(Target {
                authority: authority.into(),
                host: host(&config.url),
                base: base.trim_end_matches('/').to_owned(),
                url: config.url.clone(),
                liveness: Liveness {
                    keepalive: config.keepalive,
                    user_timeout: config.user_timeout,
                },
                head_timeout: config.head_timeout,
                body_timeout: config.body_timeout,
                waiting: config.max_pending.map(|most| {
                    let most = usize::try_from(most.get()).unwrap_or(usize::MAX);
                    Semaphore::new(most.min(Semaphore::MAX_PERMITS))
                }),
                max_body: config.max_body,
                heads: HeadOptions {
                    max_bytes: config.max_head,
                    title_case: config.title_case_headers,
                },
                // A client that comes back at once finds no room.
                retry_after: settings.limit.retry_after,
                trusted,
                tunnels,
                tunnel_idle_timeout: config.tunnel_idle_timeout,
                health,
            }),
        }
    }

    /// Whether requests go below a path of the upstream's.
    pub(super) fn has_base_path(&self) -> bool {
        !self.target.base.is_empty()
    }

    pub(super) fn close_idle_connections(&self) {
        self.pool.clear();
    }

    async fn forward(
        &self,
        mut request: Box<Request<RequestBody>>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        if !headers::is_chunked_at_most(request.headers()) {
            return Err(Failure::UnsupportedTransferCoding);
        }
        let protocol = headers::upgrade(request.headers());
        let client_side = protocol.as_ref().map(|_| hyper::upgrade::on(&mut *request));
        let in_flight: Option<InFlight> = request.extensions().get().cloned();
        let connection: Option<ClientConnection> = request.extensions().get().cloned();
        let switches = protocol.is_some();
        let target = &self.target;
        let waits = target.waiting.as_ref().map(Semaphore::try_acquire);
        let _waits = waits.transpose().map_err(|_| Failure::Overloaded)?;
        if target
            .max_body
            .is_some_and(|most| request.body().size_hint().lower() > most)
        {
            return Err(Failure::TooLong);
        }
        let upload = request.body().upload();
        let progress = Progress::default();
        let mut binding = Binding::of(&request, target, switches);
        let request = self.request(request, protocol, &progress);
        let request = request.map_err(Failure::Request)?;
        let (mut response, switched) = {
            let response = self.send(request, &upload, &progress, &mut binding, switches);
            self.with_head_timeout(pin!(response), &progress).await?
        };
        if binding.is_bound() {
            response.extensions_mut().insert(ConnectionBound);
        }
        let agreed = headers::upgrade(response.headers());
        headers::remove_hop_by_hop(response.headers_mut(), Options::All);
        // RFC 7838: it names other addresses and protocols of the upstream, by which clients would bypass this
        // proxy.
        response.headers_mut().remove(ALT_SVC);
        *response.version_mut() = Version::HTTP_11;
        if let Some(switched) = switched {
            let (Some(client_side), Some(protocol)) = (client_side, agreed) else {
                return Err(Failure::UnexpectedUpgrade);
            };
            headers::set_upgrade(response.headers_mut(), protocol);
            let idle_timeout = target.tunnel_idle_timeout;
            let held = in_flight.and_then(|request| request.hold());
            let tunnels = &target.tunnels;
            let task = tunnels.open(client_side, switched, idle_timeout, held);
            if let Some(connection) = connection {
                connection.set_task(task);
            }
        }
        Ok(response)
    }

    /// The request as the upstream gets it. Its box is freed here: an `async` block that moves a value out
    /// of a box keeps the box to its end.
    fn request(
        &self,
        request: Box<Request<RequestBody>>,
        protocol: Option<HeaderValue>,
        progress: &Progress,
    ) -> Result<Outgoing, http::Error> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = match self.target.base.as_str() {
            // RFC 9112 section 3.2.4: `*` is the server, whatever lies below it.
            _ if path == "*" => PathAndQuery::from_static("*"),
            "" => PathAndQuery::try_from(path)?,
            base => PathAndQuery::try_from(format!("{base}{path}"))?,
        };
        let peer: Option<PeerAddr> = parts.extensions.remove();
        // Without a peer, the author of the head is unknown.
        let is_by_client = peer.is_some_and(|peer| !self.target.trusted.is_trusted_peer(peer));
        let options = match is_by_client {
            true => Options::All,
            false => Options::Known,
        };
        headers::remove_hop_by_hop(&mut parts.headers, options);
        parts.headers.remove(TRAILER);
        if let Some(peer) = peer {
            headers::forward(&mut parts.headers, peer, &self.target.trusted);
        }
        if let (Some(host), false) = (&self.target.host, parts.headers.contains_key(HOST)) {
            parts.headers.insert(HOST, host.clone());
        }
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut parts.headers, protocol);
        }
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // hyper drops a body of unknown length of a GET or HEAD that has no such field.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
        let body = Uploading::new(WithoutTrailers(body), progress);
        let most = self.target.max_body.and_then(|most| most.try_into().ok());
        let body = Limited::new(body, most.unwrap_or(usize::MAX));
        let body = body.boxed_unsync();
        Ok(Outgoing::new(Request::from_parts(parts, body)))
    }

    /// By the client's own connection if it has one, else by an idle one, else by a new one.
    async fn send(
        &self,
        mut request: Outgoing,
        upload: &Upload,
        progress: &Progress,
        binding: &mut Binding,
        switches: bool,
    ) -> Result<Exchanged, Failure> {
        let mut used = binding.take().await;
        // A login begins on a new connection, and so does what may be no HTTP any more.
        if used.is_none() && !binding.is_bound() && !switches {
            used = self.pool.take();
        }
        if let Some(socket) = used {
            let is_idempotent = request.method().is_idempotent();
            let again = repeated(&request, upload);
            let again = again.map(Outgoing::new);
            let is_repeatable = again.is_some();
            let sent = Sent {
                request,
                upload,
                progress,
                is_repeatable,
                heads: self.target.heads,
            };
            let exchanged = http1::exchange(socket, binding, &self.pool, sent);
            match exchanged.await {
                Ok(exchanged) => return Ok(exchanged),
                // The upstream may have closed the connection while the request was on its way.
                Err(ExchangeError::Unsent(unsent)) => request = unsent,
                // RFC 9110 section 9.2.2: it may have been processed, so that it must do no harm twice.
                Err(failed @ ExchangeError::Dead(_)) => {
                    request = again.filter(|_| is_idempotent).ok_or(failed)?;
                }
                Err(failed @ ExchangeError::TimedOut) => request = again.ok_or(failed)?,
                Err(failed) => return Err(failed.into()),
            }
            binding.lose();
        }
        let socket = self.connect().await?;
        let sent = Sent {
            request,
            upload,
            progress,
            is_repeatable: false,
            heads: self.target.heads,
        };
        Ok(http1::exchange(socket, binding, &self.pool, sent).await?)
    }

    async fn connect(&self) -> Result<Io, Failure> {
        if !fd_limit::has_room() {
            return Err(Failure::Files("the last files are kept for others".into()));
        }
        let socket = self.connector.connect().await?;
        if let Err(error) = self.target.liveness.watch(&socket) {
            // Its use will show whether it still works.
            tracing::debug!(%error, "an upstream's connection is not watched");
        }
        Ok(socket)
    }

    /// Waits for the head, no longer than the timeout since the last of the request was sent; for what
    /// the client still has to send of it, no longer than its own timeout.
    async fn with_head_timeout(
        &self,
        mut response: Pin<&mut impl Future<Output = Result<Exchanged, Failure>>>,
        progress: &Progress,
    ) -> Result<Exchanged, Failure> {
        let long = Instant::now() + LINGER;
        loop {
            let (head, body) = (self.target.head_timeout, self.target.body_timeout);
            let mut next = progress
                .check(head, body)
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
        // Once each, as it is handed on often, and futures hold the room of all that they hand on.
        let (upstream, request) = (self.clone(), Box::new(request));
        Box::pin(async move {
            let target = &upstream.target;
            let client: Option<ClientKey> = request.extensions().get().cloned();
            let family = Family::of(&request);
            let context: Option<RequestContext> = request.extensions().get().cloned();
            Ok(match upstream.forward(request).await {
                Ok(response) => {
                    target.health.answered();
                    response
                }
                Err(failure) => {
                    if failure.is_upstreams() {
                        let is_away = matches!(failure, Failure::Connect(_));
                        let health = &target.health;
                        health.failed(&failure.told(), is_away, client.as_ref());
                    }
                    failure.log(
                        &target.url,
                        context.as_ref(),
                        target.health.failure_limits(),
                    );
                    failure.answer(retry_after_value(target.retry_after, family))
                }
            })
        })
    }
}

/// The same request once more, if its body was empty.
fn repeated(request: &Request<BoxedBody>, upload: &Upload) -> Option<Request<BoxedBody>> {
    // A body that was read ahead has been taken and is still to be sent.
    if !upload.is_over() || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(nothing());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = copy_of_path(request.uri());
    *again.headers_mut() = copy_of(request.headers());
    if let Some(client) = request.extensions().get::<ClientConnection>() {
        again.extensions_mut().insert(client.clone());
    }
    Some(again)
}

/// Out of the buffer that the request came in, which the others keep as a whole.
fn copy_of(headers: &HeaderMap) -> HeaderMap {
    let mut all = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    let mut copies = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        all.extend_from_slice(value.as_bytes());
        // Each was one before.
        if let Ok(copy) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            copies.append(name, copy);
        }
    }
    copies
}

/// The same for the target of a request to the upstream.
fn copy_of_path(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map(PathAndQuery::as_str);
    let copy = path.and_then(|path| PathAndQuery::try_from(path).ok());
    copy.map_or_else(|| uri.clone(), Uri::from)
}

#[cfg(test)]
mod size_tests {
    use super::*;

    fn size<F>(_: impl Fn(&'static Upstream, Box<Request<RequestBody>>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_that_waits_is_small() {
        let size = size(|upstream, request| upstream.forward(request));
        // It was eight times as much when each step held the request, and hyper's connection.
        assert!(size <= 1152, "{size} bytes");
    }
    #[test]
    fn a_body_that_was_read_ahead_is_not_repeated_as_an_empty_one() {
        let upload = RequestBody::default().upload();
        let ahead = Full::from("ahead").map_err(|never| match never {});
        assert!(repeated(&Request::new(ahead.boxed_unsync()), &upload).is_none());
        assert!(repeated(&Request::new(nothing()), &upload).is_some());
    }
}
