//! One call of a service.

use super::request_body::RequestBody;
use crate::guard::BoxError;
use http::Request;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tower_service::Service;

pin_project! {
    /// The request is moved into the call before the wait: its head would keep the buffer that it
    /// was read into.
    #[project = OneshotProj]
    pub(super) enum Oneshot<S, F> {
        Starting {
            service: S,
            request: Option<Box<Request<RequestBody>>>,
        },
        Started {
            #[pin]
            future: F,
        },
    }
}

impl<S> Oneshot<S, S::Future>
where
    S: Service<Request<RequestBody>>,
{
    pub(super) fn new(service: S, request: Request<RequestBody>) -> Self {
        Self::Starting {
            service,
            request: Some(Box::new(request)),
        }
    }
}

impl<S> Future for Oneshot<S, S::Future>
where
    S: Service<Request<RequestBody>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                OneshotProj::Started { future } => {
                    return future.poll(cx).map_err(Into::into);
                }
                OneshotProj::Starting { service, request } => {
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
                    match request.take() {
                        Some(request) => service.call(*request),
                        None => return Poll::Pending,
                    }
                }
            };
            self.set(Self::Started { future });
        }
    }
}
