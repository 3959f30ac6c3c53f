//! Failures of the upstream, and the responses in its place.

use super::UpstreamBody;
use super::http1::{ExchangeError, TooManyInterim};
use super::http2::Http2Error;
use crate::request_context::RequestContext;
use crate::tls::TlsFailure;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode, Uri};
use http_body_util::{Either, Full, LengthLimitError};
use sse_guard::BoxError;
use sse_guard::internal::LogLimits;
use sse_guard::internal::OwnResponse;
use sse_guard::internal::Unreachable;
use sse_guard::serve::RequestBodyError;
use std::error::Error;
use std::io;
use std::mem::{Discriminant, discriminant};
use tracing::field::display;

/// Why a request to the upstream failed. The client gets the kind; the log has the cause and a
/// remedy.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect to the upstream")]
    Connect(#[source] BoxError),
    #[error("the TLS handshake with the upstream failed")]
    Handshake(#[source] TlsFailure),
    /// Behind our side of the handshake: with TLS 1.3 the server verifies the client's certificate then.
    #[error("the upstream ended the TLS connection")]
    Tls(#[source] TlsFailure),
    /// It does not respond as a server of HTTP/2.
    #[error("the upstream does not support HTTP/2")]
    NoHttp2(#[source] Box<Http2Error>),
    #[error("no more files can be opened")]
    Files(#[source] BoxError),
    #[error("the upstream sent no valid response head")]
    Broken(#[source] ExchangeError),
    #[error("the upstream ended the request without a response")]
    Http2(#[source] Box<Http2Error>),
    #[error("the upstream sent too many interim (1xx) heads and no final one")]
    Interim(#[source] BoxError),
    #[error("the head of the upstream's response is too large")]
    LongHead(#[source] BoxError),
    #[error("the upstream sent no response head in time")]
    HeadTimeout,
    #[error("the request cannot be sent to the upstream")]
    Request(#[source] http::Error),
    #[error("the request's body has a transfer coding other than chunked")]
    UnsupportedTransferCoding,
    #[error("the request expects something other than 100-continue")]
    Expectation,
    #[error("the upstream switched protocols without a request for it")]
    UnexpectedUpgrade,
    #[error("too many requests wait for the upstream")]
    Overloaded,
    #[error("the request's body is too long")]
    TooLong,
    #[error("the client sent no more of the request's body in time")]
    UploadStalled,
    #[error("the request's body broke off")]
    Upload(#[source] BoxError),
}

/// A limit of log lines for each kind of failure.
pub(super) type FailureLimits = LogLimits<Discriminant<Failure>>;

/// The errors of too many open files: of the process (`EMFILE`), and of the system (`ENFILE`). They
/// have the same numbers on all of Unix.
const TOO_MANY_FILES_ERRORS: [i32; 2] = [24, 23];

impl Failure {
    /// The cause of a missing connection.
    pub(super) fn of_connecting(error: impl Error + Send + Sync + 'static) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(cause) = next {
            let code = cause
                .downcast_ref()
                .and_then(|error: &io::Error| error.raw_os_error());
            if code.is_some_and(|code| TOO_MANY_FILES_ERRORS.contains(&code)) {
                return Self::Files(Box::new(error));
            }
            next = cause.source();
        }
        Self::Connect(Box::new(error))
    }

    /// The last file descriptors are not for requests.
    pub(super) fn without_files() -> Self {
        Self::Files("the last file descriptors are reserved".into())
    }

    /// Whether the upstream could not be connected to.
    pub(super) fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::Handshake(_) | Self::NoHttp2(_)
        )
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Connect(_)
            | Self::Handshake(_)
            | Self::NoHttp2(_)
            | Self::Http2(_)
            | Self::Tls(_)
            | Self::Broken(_)
            | Self::Interim(_)
            | Self::LongHead(_)
            | Self::UnexpectedUpgrade => StatusCode::BAD_GATEWAY,
            Self::Overloaded | Self::Files(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Request(_) | Self::Upload(_) => StatusCode::BAD_REQUEST,
            Self::UnsupportedTransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
        }
    }

    /// Whether it means that the upstream is unreachable or does not work.
    pub(super) fn is_upstreams(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::Handshake(_)
                | Self::NoHttp2(_)
                | Self::Http2(_)
                | Self::Tls(_)
                | Self::HeadTimeout
                | Self::Broken(_)
                | Self::Interim(_)
                | Self::LongHead(_)
                | Self::UnexpectedUpgrade
        )
    }

    /// What the operator can do about it; nothing about a client's faults.
    fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Connect(_) => {
                "is it running, and does upstream.url name its address? upstream.connect_timeout \
                 bounds the wait"
            }
            Self::Handshake(failure) | Self::Tls(failure) => failure.remedy(),
            Self::NoHttp2(error) | Self::Http2(error) => error.remedy(),
            Self::Files(_) => {
                "it is the limit of this process, not a fault of the upstream: raise it (ulimit -n)"
            }
            Self::Broken(ExchangeError::BodyLength(error)) => error.remedy(),
            Self::Broken(_) | Self::Interim(_) | Self::UnexpectedUpgrade => {
                "check the upstream's log"
            }
            Self::LongHead(_) => {
                "upstream.max_head bounds it: raise it if the response is to be that large"
            }
            Self::Overloaded => {
                "it does not keep up; upstream.max_pending bounds the requests that wait"
            }
            Self::HeadTimeout => {
                "raise upstream.head_timeout if it needs longer, else check its log"
            }
            Self::Request(_)
            | Self::UnsupportedTransferCoding
            | Self::Expectation
            | Self::TooLong
            | Self::Upload(_)
            | Self::UploadStalled => return None,
        })
    }

    /// The whole chain of causes on one line.
    pub(super) fn cause(&self) -> String {
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

    /// The failure and its causes, for the operator alone.
    pub(super) fn with_cause(&self) -> String {
        match self.cause() {
            cause if cause.is_empty() => self.to_string(),
            cause => format!("{self}: {cause}"),
        }
    }

    /// Logs it. Of what a client causes alone nothing is logged above debug; lines of another kind are
    /// limited, as one dead upstream fails each of many requests.
    pub(super) fn log(
        &self,
        upstream: &Uri,
        context: Option<&RequestContext>,
        limits: &FailureLimits,
    ) {
        let status = self.status().as_u16();
        let route = context.and_then(RequestContext::route);
        let path = context.map(RequestContext::path);
        let client = context.and_then(RequestContext::client).map(display);
        let request_id = context.map(RequestContext::id).map(display);
        let is_written = self.advice().is_some_and(|advice| {
            let (failure, url) = (self.to_string(), upstream.clone());
            let limit = limits.of(discriminant(self));
            limit.write(
                || {
                    tracing::error!(
                        status, %upstream, route, path, client, request_id, cause = self.cause(),
                        "{self}: {advice}"
                    );
                },
                move |not_logged| {
                    tracing::error!(
                        status,
                        upstream = %url,
                        not_logged,
                        "more requests failed than were logged: {failure}"
                    );
                },
            )
        });
        if !is_written {
            tracing::debug!(
                status, %upstream, route, path, client, request_id, cause = self.cause(),
                "{self}"
            );
        }
    }

    /// The response to the client.
    pub(super) fn answer(&self, retry_after: HeaderValue) -> Response<UpstreamBody> {
        let status = self.status();
        let text = Full::from(format!("sse-guard: {self}\n"));
        let mut response = Response::new(Either::Right(Either::Right(Either::Right(text))));
        *response.status_mut() = status;
        response.extensions_mut().insert(OwnResponse);
        if self.is_away() {
            response.extensions_mut().insert(Unreachable);
        }
        let headers = response.headers_mut();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, text);
        if let Self::Overloaded | Self::Files(_) = self {
            headers.insert(RETRY_AFTER, retry_after);
        }
        if let Self::Files(_) | Self::Upload(_) | Self::UploadStalled | Self::Expectation = self {
            // What its connection holds is what there are too few of; and the rest of an upload is not a
            // request. A client that waits for its expectation may send none.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Http2Error> for Failure {
    fn from(error: Http2Error) -> Self {
        match error {
            Http2Error::Upload(error) => {
                let mut next: Option<&(dyn Error + 'static)> = Some(&*error);
                while let Some(cause) = next {
                    if cause.is::<LengthLimitError>() {
                        return Self::TooLong;
                    }
                    next = cause.source();
                }
                Self::Upload(error)
            }
            Http2Error::Interim => Self::Interim(error.into()),
            Http2Error::LongHead(_) => Self::LongHead(error.into()),
            Http2Error::Request(error) => Self::Request(error),
            error => Self::Http2(Box::new(error)),
        }
    }
}

impl From<ExchangeError> for Failure {
    fn from(failed: ExchangeError) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(&failed);
        while let Some(error) = next {
            if error.is::<LengthLimitError>() {
                return Self::TooLong;
            }
            if TooManyInterim::is_why(error) {
                // Not the whole of it, which may have the request.
                return Self::Interim(TooManyInterim.into());
            }
            if let Some(failure) = error.downcast_ref().and_then(TlsFailure::of) {
                return Self::Tls(failure);
            }
            next = error.source();
        }
        // The body is the client's connection's, which has an error of its own.
        let of_the_client = failed
            .source()
            .is_some_and(|cause| cause.is::<RequestBodyError>());
        match failed {
            ExchangeError::Http(error) if error.is_parse_too_large() => {
                Self::LongHead(error.into())
            }
            ExchangeError::Http(error) if error.is_user() && of_the_client => {
                Self::Upload(error.into())
            }
            failed => Self::Broken(failed),
        }
    }
}
