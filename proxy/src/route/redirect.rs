//! The response of a listener that redirects to HTTPS.

use crate::config::HttpsRedirect;
use crate::request_target::{self, TargetError};
use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;

/// 308, which keeps the method, also of a POST (RFC 9110 section 15.4.9); a refusal if the request has no valid host and
/// target.
pub(super) fn answer<B>(request: &mut Request<B>, to: HttpsRedirect) -> Response<Full<Bytes>> {
    let location = match location(request, to) {
        Ok(location) => location,
        Err(refused) => return refused.answer(),
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response
}

fn location<B>(request: &mut Request<B>, to: HttpsRedirect) -> Result<HeaderValue, TargetError> {
    request_target::check(request)?;
    let host = request
        .headers()
        .get(HOST)
        .ok_or(TargetError::NoHostToRedirect)?;
    let host = host.to_str().map_err(|_| TargetError::NoHostToRedirect)?;
    let location = to.location(host, &request.uri().to_string());
    HeaderValue::try_from(location).map_err(|_| TargetError::TooLong)
}
