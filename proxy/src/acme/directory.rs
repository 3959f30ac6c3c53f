//! HTTP to the CA.

use crate::tls::{TlsFailure, server_name};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use sse_guard::BoxError;
use sse_guard::serve::Io;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time limit of a request, from the connection to the end of the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A chain of certificates takes some KB.
const MAX_RESPONSE: usize = 1 << 20;

/// Sends each request on a connection of its own: orders are rare.
pub(super) struct DirectoryClient {
    tls: Arc<ClientConfig>,
}

/// A request without a response of the CA that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("{0} is not an https:// URL")]
    Url(Uri),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("cannot use TLS with {0}: {1}")]
    Tls(String, TlsFailure),
    #[error("{0} has not responded within {REQUEST_TIMEOUT:?}")]
    Timeout(String),
    #[error("the request to {0} failed: {1}")]
    Http(String, BoxError),
    /// Without a problem document, as of a proxy before the CA.
    #[error("{0} responds with {1}")]
    Status(String, StatusCode),
}

impl DirectoryClient {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls }
    }
}

impl HttpClient for DirectoryClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let response = match timeout(REQUEST_TIMEOUT, send(tls, request)).await {
                Ok(response) => response,
                Err(_) => Err(RequestError::Timeout(host)),
            };
            response.map_err(|error| Error::Other(error.into()))
        })
    }
}

async fn send(
    tls: Arc<ClientConfig>,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, RequestError> {
    let url = std::mem::take(request.uri_mut());
    let authority = url
        .authority()
        .filter(|_| url.scheme_str() == Some("https"));
    let Some((authority, name)) = authority.and_then(|it| Some((it, server_name(it.host())?)))
    else {
        return Err(RequestError::Url(url));
    };
    let (host, port) = (authority.host(), authority.port_u16().unwrap_or(443));
    let failed = |error: BoxError| RequestError::Http(host.to_owned(), error);
    let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
    let socket = TcpStream::connect(address).await;
    let socket = socket.map_err(|error| RequestError::Connect(host.to_owned(), error))?;
    let io = Io::from(socket).connect_tls(tls, name).await;
    let io =
        io.map_err(|error| RequestError::Tls(host.to_owned(), TlsFailure::of_handshake(&error)))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| failed(error.into()))?;
    let connection = tokio::spawn(connection);
    let target = url.path_and_query().cloned();
    *request.uri_mut() = target.unwrap_or(PathAndQuery::from_static("/")).into();
    let host_field = HeaderValue::from_str(authority.as_str());
    let host_field = host_field.map_err(|error| failed(error.into()))?;
    request.headers_mut().insert(HOST, host_field);
    let response = sender.send_request(request).await;
    let (head, body) = response.map_err(|error| failed(error.into()))?.into_parts();
    let body = Limited::new(body, MAX_RESPONSE).collect().await;
    connection.abort();
    let body = body.map_err(failed)?.to_bytes();
    let media_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_problem = media_type.is_some_and(|it| {
        it.starts_with(b"application/") && it.windows(4).any(|part| part == b"json")
    });
    if (head.status.is_client_error() || head.status.is_server_error()) && !is_problem {
        return Err(RequestError::Status(host.to_owned(), head.status));
    }
    Ok(BytesResponse {
        parts: head,
        body: Box::new(body),
    })
}
