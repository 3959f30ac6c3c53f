//! The service and the future of a layer.

use super::{BoxError, Guarded, NotOpened, ResponseInfo, StreamLayer};
use crate::accessors::inner_service_accessors;
use crate::answer::{ReplacedStatus, ReplacedWhileWaiting};
use crate::family::Family;
use crate::head;
use crate::head::CacheControl;
use crate::rejection::{Rejected, Rejection};
use crate::request_info::{RequestInfo, ResponseKind};
use crate::stream::{EarlyStream, Stream};
use crate::stream_requested::StreamRequested;
use crate::wire::{Aligner, DEFAULT_HOLD};
use bytes::Bytes;
use http::{Request, Response, response};
use http_body::Body;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_service::Service;

/// The service that a layer puts around another.
#[derive(Clone, Debug)]
pub struct Guard<S, L> {
    inner: S,
    layer: L,
    cache_control: Option<CacheControl>,
}

impl<S, L> Guard<S, L> {
    pub(crate) fn new(inner: S, layer: L) -> Self {
        Self {
            inner,
            layer,
            cache_control: None,
        }
    }

    /// Sets what happens to the `Cache-Control` of a stream. `None` leaves it to a guard outside.
    pub(crate) fn with_cache_control(mut self, cache_control: Option<CacheControl>) -> Self {
        self.cache_control = cache_control;
        self
    }

    inner_service_accessors!();
}

impl<S, L, ReqB, B> Service<Request<ReqB>> for Guard<S, L>
where
    S: Service<Request<ReqB>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    L: StreamLayer,
{
    type Response = Response<Guarded<B, L>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, L>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        if let Some(cache_control) = self.cache_control {
            // Guards inside rewrite the head first.
            request.extensions_mut().insert(cache_control);
        }
        let request_info = RequestInfo::of(&request);
        let is_plain = || {
            let flag = request.extensions().get::<StreamRequested>();
            !request_info.accepts_stream && flag.is_some_and(StreamRequested::is_never)
        };
        if L::INJECTS && request_info.may_stream() && !is_plain() {
            head::accept_identity_only(request.headers_mut());
        }
        let state = match self.layer.admit(&request, &request_info) {
            Ok(admitted) => {
                self.layer.extend(&admitted, request.extensions_mut());
                GuardFutureState::Admitted {
                    future: self.inner.call(request),
                    pending: Some((admitted, self.layer.clone(), request_info)),
                }
            }
            Err(rejection) => GuardFutureState::Rejected {
                rejection,
                family: request_info.family,
            },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// The future of [`Guard`].
    pub struct ResponseFuture<F, L: StreamLayer> {
        #[pin]
        state: GuardFutureState<F, L>,
    }
}

pin_project! {
    #[project = GuardFutureStateProj]
    enum GuardFutureState<F, L: StreamLayer> {
        Admitted {
            #[pin]
            future: F,
            pending: Option<(L::Admitted, L, RequestInfo)>,
        },
        Rejected { rejection: Rejection, family: Family },
    }
}

impl<F, L, B, E> Future for ResponseFuture<F, L>
where
    F: Future<Output = Result<Response<B>, E>>,
    L: StreamLayer,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Guarded<B, L>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            GuardFutureStateProj::Rejected { rejection, family } => {
                Poll::Ready(Ok(rejection.response(*family).map(Guarded::fixed)))
            }
            GuardFutureStateProj::Admitted { future, pending } => {
                let result = ready!(future.poll(cx));
                let Some((admitted, layer, request_info)) = pending.take() else {
                    unreachable!("polled again after it was ready");
                };
                Poll::Ready(match result {
                    Ok(response) => Ok(opened(&layer, admitted, &request_info, response)),
                    Err(error) => {
                        layer.not_opened(admitted, &NotOpened::ServiceError);
                        Err(error)
                    }
                })
            }
        }
    }
}

fn opened<L: StreamLayer, B>(
    layer: &L,
    admitted: L::Admitted,
    request_info: &RequestInfo,
    response: Response<B>,
) -> Response<Guarded<B, L>> {
    let (mut parts, body) = response.into_parts();
    let rejected = parts.extensions.get::<Rejected>().is_some();
    let in_place_of = parts.extensions.get().map(|ReplacedStatus(status)| *status);
    let waits = parts
        .extensions
        .get()
        .map(|ReplacedWhileWaiting(status)| *status);
    let kind = match rejected || in_place_of.is_some() {
        true => ResponseKind::Other,
        false => ResponseKind::of(&request_info.method, &parts),
    };
    let known = parts.extensions.get::<Stream>().cloned();
    // The guard that finds no record is the innermost, and writes it.
    let is_recorder = known.is_none();
    let stream = match kind {
        ResponseKind::Other => None,
        _ if L::OBSERVES => Some(known.unwrap_or_else(|| {
            let begun = parts.extensions.remove::<EarlyStream>();
            begun.map_or_else(Stream::open, |EarlyStream(stream)| stream)
        })),
        _ => known,
    };
    if let Some(stream) = stream.as_ref().filter(|_| is_recorder) {
        stream.set_family(request_info.family, request_info.is_family_fixed);
        if kind.is_opaque() {
            stream.set_opaque();
        }
    }
    if L::INJECTS && !rejected && request_info.is_head_of_stream(&parts) {
        harden(&mut parts, request_info);
    }
    let head = ResponseInfo {
        request_info,
        status: in_place_of.or(waits).unwrap_or(parts.status),
        headers: &parts.headers,
        kind,
        stream: stream.as_ref(),
        rejected,
    };
    let policy = match layer.open(admitted, &head) {
        Ok(policy) => policy,
        Err(rejection) => return rejection.response(request_info.family).map(Guarded::fixed),
    };
    let body = match stream {
        // A count of requests may depend on the policy.
        _ if kind == ResponseKind::Other => Guarded::carry(body, policy),
        Some(stream) if L::OBSERVES => {
            if is_recorder {
                parts.extensions.insert(stream.clone());
            }
            let aligner = match (kind, L::INJECTS) {
                (ResponseKind::Stream, true) => {
                    harden(&mut parts, request_info);
                    Aligner::with_hold(if stream.set_aligned() {
                        0
                    } else {
                        DEFAULT_HOLD
                    })
                }
                (ResponseKind::Stream, false) => Aligner::with_hold(0),
                _ => Aligner::opaque(),
            };
            Guarded::stream(body, policy, stream, is_recorder, aligner)
        }
        _ => Guarded::carry(body, policy),
    };
    Response::from_parts(parts, body)
}

fn harden(head: &mut response::Parts, request_info: &RequestInfo) {
    let cache_control = CacheControl::of(&head.extensions).unwrap_or(request_info.cache_control);
    if cache_control == CacheControl::Keep {
        // Guards outside do not have the setting of this one.
        head.extensions.insert(cache_control);
    }
    head::harden(&mut head.headers, cache_control);
}
