//! The service at the bottom: asks the upstream, and answers for it when it does not.

mod body;
pub mod chunked;
mod exchange;
mod head_io;
mod pool;

use self::body::StreamBody;
use self::exchange::Failed;
use self::pool::Pool;
use super::headers;
use crate::client_key::{ForwardedIp, PeerAddr};
use crate::guard::BoxError;
use crate::proxy::config;
use crate::serve::{RequestBody, Upload};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Empty, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower_service::Service;

/// The kernel asks a silent upstream after so long whether it is there, and takes one that
/// acknowledges nothing for so long as gone.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// An event stream read by us, another body read by hyper, or a short text of ours.
pub(super) type UpstreamBody = Either<StreamBody, Either<Incoming, Full<Bytes>>>;

/// A request's body on its way to the upstream.
type BoxedBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// One upstream of one route, with its idle connections.
#[derive(Clone)]
pub(super) struct Upstream {
    connector: HttpConnector,
    pool: Arc<Pool>,
    target: Arc<Target>,
}

struct Target {
    /// As it stands in the config, for the log.
    url: Uri,
    /// For requests that name no host.
    authority: Option<HeaderValue>,
    /// Put in front of the request's path; without a slash at its end.
    base: String,
    head_timeout: Duration,
    trusted: ForwardedIp,
    tunnels: TaskTracker,
}

/// Why there is no response of the upstream. The client is told the kind, the log the cause and
/// what to do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("can not connect to the upstream")]
    Connect(#[source] BoxError),
    #[error("the upstream gave no proper response head")]
    Broken(#[source] Failed),
    #[error("the upstream sent no response head in time")]
    HeadTimeout,
    #[error("the request can not be put to the upstream")]
    Request(#[source] http::Error),
    #[error("this proxy opens no tunnels")]
    Connects,
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Connect(_) | Self::Broken(_) => StatusCode::BAD_GATEWAY,
            Self::HeadTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Request(_) => StatusCode::BAD_REQUEST,
            Self::Connects => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// For the operator, who can do something about those of the upstream.
    fn advice(&self) -> &'static str {
        match self {
            Self::Connect(_) => {
                "is it running, and does upstream.url name its address? upstream.connect_timeout \
                 bounds the wait"
            }
            Self::Broken(_) => "see the upstream's own log",
            Self::HeadTimeout => {
                "if it needs longer to think, raise upstream.head_timeout; else see its own log"
            }
            Self::Request(_) | Self::Connects => "the client has to mend its request",
        }
    }

    /// The whole chain of causes on one line.
    fn cause(&self) -> String {
        let mut cause = String::new();
        let mut next = self.source();
        while let Some(error) = next {
            if !cause.is_empty() {
                cause.push_str(": ");
            }
            cause.push_str(&error.to_string());
            next = error.source();
        }
        cause
    }
}

impl Upstream {
    /// Connections that switch protocols are `tunnels` from then on.
    pub(super) fn new(
        config: &config::Upstream,
        trusted: ForwardedIp,
        tunnels: TaskTracker,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_keepalive_interval(Some(KEEPALIVE / 4));
        connector.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        connector.set_tcp_user_timeout(Some(KEEPALIVE));
        let authority = config.url.authority().map(Authority::as_str);
        Self {
            connector,
            pool: Arc::default(),
            target: Arc::new(Target {
                authority: authority.and_then(|authority| HeaderValue::from_str(authority).ok()),
                base: config.url.path().trim_end_matches('/').to_owned(),
                url: config.url.clone(),
                head_timeout: config.head_timeout,
                trusted,
                tunnels,
            }),
        }
    }

    async fn ask(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, Failure> {
        if request.method() == Method::CONNECT {
            return Err(Failure::Connects);
        }
        let protocol = headers::upgrade(request.headers());
        let client_side = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let switches = protocol.is_some();
        let upload = request.body().upload();
        let (request, progress) = self.request(request, protocol).map_err(Failure::Request)?;
        let response = self.obtain(request, &upload, switches);
        let mut response = self.in_time(response, &progress).await?;
        let agreed = headers::upgrade(response.headers());
        headers::remove_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(client_side), Some(protocol)) = (client_side, agreed)
        {
            headers::set_upgrade(response.headers_mut(), protocol);
            let upstream_side = hyper::upgrade::on(&mut response);
            let tunnel = tunnel(client_side, upstream_side);
            self.target.tunnels.spawn(tunnel);
        }
        Ok(response)
    }

    /// The request as the upstream gets it.
    fn request(
        &self,
        request: Request<RequestBody>,
        protocol: Option<HeaderValue>,
    ) -> Result<(Request<BoxedBody>, Progress), http::Error> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let path = match self.target.base.as_str() {
            // RFC 9112 section 3.2.4: `*` is the server, whatever lies below it.
            _ if path == "*" => PathAndQuery::from_static("*"),
            "" => PathAndQuery::try_from(path)?,
            base => PathAndQuery::try_from(format!("{base}{path}"))?,
        };
        // RFC 9112 section 3.2.2: the authority of an absolute target counts, not Host.
        if let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.insert(HOST, host);
        }
        if let (Some(authority), false) = (&self.target.authority, parts.headers.contains_key(HOST))
        {
            parts.headers.insert(HOST, authority.clone());
        }
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        headers::remove_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut parts.headers, protocol);
        }
        if let Some(PeerAddr(peer)) = parts.extensions.remove() {
            headers::forward(&mut parts.headers, peer, &self.target.trusted);
        }
        let progress = Progress::default();
        let sending = progress.clone();
        let body = body.map_frame(move |frame| {
            sending.made();
            frame
        });
        Ok((Request::from_parts(parts, body.boxed_unsync()), progress))
    }

    /// By an idle connection if there is one, else by a new one.
    async fn obtain(
        &self,
        mut request: Request<BoxedBody>,
        upload: &Upload,
        switches: bool,
    ) -> Result<Response<UpstreamBody>, Failure> {
        if switches {
            let socket = self.connect().await?;
            return exchange::switch(socket, request)
                .await
                .map_err(Failure::Broken);
        }
        if let Some(socket) = self.pool.take() {
            let again = repeated(&request, upload);
            match exchange::exchange(socket, self.pool.home(), request, upload).await {
                Ok(response) => return Ok(response),
                // The upstream may have closed the connection while the request was on its way.
                Err(Failed::Unsent(unsent)) => request = *unsent,
                Err(failed @ Failed::Http(_)) => {
                    request = again.ok_or(Failure::Broken(failed))?;
                }
                Err(failed) => return Err(Failure::Broken(failed)),
            }
        }
        let socket = self.connect().await?;
        exchange::exchange(socket, self.pool.home(), request, upload)
            .await
            .map_err(Failure::Broken)
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let mut connector = self.connector.clone();
        let failed = |error| Failure::Connect(Box::new(error));
        std::future::poll_fn(|cx| connector.poll_ready(cx))
            .await
            .map_err(failed)?;
        let connected = connector.call(self.target.url.clone()).await;
        Ok(connected.map_err(failed)?.into_inner())
    }

    /// Waits for the head, no longer than the timeout since the last of the request was sent.
    async fn in_time(
        &self,
        response: impl Future<Output = Result<Response<UpstreamBody>, Failure>>,
        progress: &Progress,
    ) -> Result<Response<UpstreamBody>, Failure> {
        tokio::pin!(response);
        loop {
            let deadline = progress.last() + self.target.head_timeout;
            tokio::select! {
                result = &mut response => return result,
                () = tokio::time::sleep_until(deadline) => {
                    if progress.last() + self.target.head_timeout <= deadline {
                        return Err(Failure::HeadTimeout);
                    }
                }
            }
        }
    }

    fn answer_for(&self, failure: &Failure) -> Response<UpstreamBody> {
        let status = failure.status();
        if status.is_server_error() {
            tracing::error!(
                status = status.as_u16(),
                upstream = %self.target.url,
                cause = failure.cause(),
                "{failure}: {}",
                failure.advice()
            );
        } else {
            // A client's fault is nothing to wake the operator for.
            tracing::debug!(
                status = status.as_u16(),
                cause = failure.cause(),
                "{failure}"
            );
        }
        let text = Full::from(format!("sse-guard: {failure}\n"));
        let mut response = Response::new(Either::Right(Either::Right(text)));
        *response.status_mut() = status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
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
        let upstream = self.clone();
        Box::pin(async move {
            Ok(match upstream.ask(request).await {
                Ok(response) => response,
                Err(failure) => upstream.answer_for(&failure),
            })
        })
    }
}

/// The same request once more, if to put it twice is to put it once and its body was empty.
fn repeated(request: &Request<BoxedBody>, upload: &Upload) -> Option<Request<BoxedBody>> {
    if !request.method().is_safe() || !upload.is_over() {
        return None;
    }
    let nothing = Empty::new().map_err(|never| match never {});
    let mut again = Request::new(nothing.boxed_unsync());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    Some(again)
}

/// When the last part of a request's body went by.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both sides have switched protocols: bytes pass, until either side ends.
async fn tunnel(client_side: OnUpgrade, upstream_side: OnUpgrade) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client_side, upstream_side) else {
        tracing::debug!("one side went before the switch of protocols was done");
        return;
    };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        tracing::debug!(%error, "tunnel ended");
    }
}
