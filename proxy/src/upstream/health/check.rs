//! Active health checks of upstreams.

use super::super::connect::{Connector, Established};
use super::super::error::Failure;
use super::super::host::HostField;
use super::super::http1;
use super::super::http2;
use super::super::outgoing::{BoxedBody, nothing};
use crate::config;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode};
use std::time::Duration;
use tokio::time::timeout;

/// By which upstreams recognize a check.
const USER_AGENT_TEXT: &str = concat!("sse-guard/", env!("CARGO_PKG_VERSION"), " check");

/// How an upstream is checked. Equal checks of one address are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveCheck {
    interval: Duration,
    path: Option<PathAndQuery>,
    host: Option<HeaderValue>,
    timeout: Duration,
    connect_timeout: Duration,
    title_case: bool,
}

/// Why an upstream did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("a check failed: {}", .0.with_cause())]
    Unanswered(#[from] Failure),
    #[error("a check failed: the upstream responded with {0}")]
    Refused(StatusCode),
}

impl CheckError {
    /// Whether it is about the upstream at all.
    pub(super) fn is_upstreams(&self) -> bool {
        match self {
            Self::Unanswered(failure) => failure.is_upstreams(),
            Self::Refused(_) => true,
        }
    }
}

impl ActiveCheck {
    /// Nothing if it is switched off.
    pub(crate) fn new(config: &config::Upstream) -> Option<Self> {
        let path = config.health_check.path.clone();
        Some(Self {
            interval: config.health_check.interval?,
            // Without a request, checks that differ in it are equal.
            host: path
                .as_ref()
                .and_then(|_| HostField::of(config).without_client()),
            path,
            timeout: config.health_check.timeout,
            connect_timeout: config.connect_timeout,
            title_case: config.title_case_headers,
        })
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Whether a passed check means a response, not only a connection.
    pub(super) fn requires_response(&self) -> bool {
        self.path.is_some()
    }

    /// Checks the upstream that `connector` connects to.
    pub(super) async fn run(&self, connector: &Connector) -> Result<(), CheckError> {
        let established = connector.establish_within(self.connect_timeout).await?;
        let Some(path) = &self.path else {
            return Ok(());
        };
        let request = self.request(path);
        let answered = async {
            match established {
                Established::Http1(socket) => {
                    Ok(http1::status(socket, request, self.title_case).await?)
                }
                Established::Http2(handshake) => {
                    http2::status(*handshake, request, &connector.scheme()).await
                }
            }
        };
        let status: Result<StatusCode, Failure> = timeout(self.timeout, answered)
            .await
            .map_err(|_| Failure::HeadTimeout)?;
        let status = status?;
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(CheckError::Refused(status))
        }
    }

    /// The path is the whole one: what lies below the URL's own is for clients.
    fn request(&self, path: &PathAndQuery) -> Request<BoxedBody> {
        let mut request = Request::new(nothing());
        *request.uri_mut() = path.clone().into();
        let headers = request.headers_mut();
        headers.extend(self.host.clone().map(|host| (HOST, host)));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_TEXT));
        request
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::address::Address;
    use super::super::super::connect::SocketOptions;
    use super::*;
    use crate::config::from_file;
    use http::Uri;
    use std::cell::Cell;
    use std::future::pending;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    pub(in super::super) fn check(path: Option<&'static str>) -> ActiveCheck {
        ActiveCheck {
            interval: Duration::from_secs(5),
            host: None,
            path: path.map(PathAndQuery::from_static),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            title_case: false,
        }
    }

    async fn listen() -> (TcpListener, Connector) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url: Uri = format!("http://{address}/base").parse().unwrap();
        let connector = Connector::new(&Address::of(&url, None), SocketOptions::default());
        (listener, connector)
    }

    async fn accept_and_read(listener: &TcpListener) -> (TcpStream, String) {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        (socket, String::from_utf8(head).unwrap())
    }

    /// The result of a check of an upstream that sends this.
    async fn answered(answer: &str) -> Result<(), CheckError> {
        let (listener, connector) = listen().await;
        let upstream = async {
            let (mut socket, _) = accept_and_read(&listener).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        let check = check(Some("/up"));
        tokio::join!(check.run(&connector), upstream).0
    }

    #[tokio::test]
    async fn check_passes_with_a_2xx_or_3xx_response_alone() {
        for (status, passes) in [
            ("200 OK", true),
            ("204 No Content", true),
            ("302 Found", true),
            ("404 Not Found", false),
            ("429 Too Many Requests", false),
            ("500 Internal Server Error", false),
            ("503 Service Unavailable", false),
        ] {
            let result = answered(&format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n")).await;
            assert_eq!(result.is_ok(), passes, "{status}");
            if let Err(error) = result {
                assert!(error.to_string().ends_with(status), "{error}");
                assert!(error.is_upstreams());
            }
        }
        assert!(answered("HTTP/1.0 200 OK\r\n\r\n").await.is_ok());
        for nothing in ["", "HTTP/1.1 200", "SSH-2.0-OpenSSH\r\n\r\n"] {
            let error = answered(nothing).await.unwrap_err();
            assert!(error.is_upstreams(), "{error}");
        }
    }

    #[tokio::test]
    async fn check_has_the_path_at_the_root_of_the_host_and_a_user_agent() {
        let (listener, connector) = listen().await;
        let upstream = async {
            let (mut socket, head) = accept_and_read(&listener).await;
            socket.write_all(b"HTTP/1.1 204 Up\r\n\r\n").await.unwrap();
            head
        };
        let address = listener.local_addr().unwrap();
        let config = format!(
            "upstream.url = 'http://{address}/base'\nhealth_check.interval = '5s'\n\
             health_check.path = '/up?all'"
        );
        let config = from_file(&config).unwrap().config;
        let check = ActiveCheck::new(&config.routes[0].settings.upstream).unwrap();
        let (result, head) = tokio::join!(check.run(&connector), upstream);
        result.unwrap();
        let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /up?all HTTP/1.1");
        lines.sort_unstable();
        let agent = format!("user-agent: {USER_AGENT_TEXT}");
        let host = format!("host: {address}");
        assert_eq!(lines, ["connection: close", host.as_str(), agent.as_str()]);
    }

    #[tokio::test]
    async fn check_without_a_path_passes_once_it_is_connected() {
        let (listener, connector) = listen().await;
        check(None).run(&connector).await.unwrap();
        drop(listener);
        let error = check(None).run(&connector).await.unwrap_err();
        assert!(matches!(error, CheckError::Unanswered(Failure::Connect(_))));
    }

    #[tokio::test]
    async fn check_without_a_response_fails_after_its_timeout() {
        let (listener, connector) = listen().await;
        let paused = Cell::new(None);
        let silent = async {
            let request = accept_and_read(&listener).await;
            // All that is left to happen is that time passes.
            tokio::time::pause();
            paused.set(Some(Instant::now()));
            pending::<()>().await;
            drop(request);
        };
        let patient = ActiveCheck {
            timeout: Duration::from_secs(3600),
            ..check(Some("/up"))
        };
        let late = tokio::select! {
            result = patient.run(&connector) => result,
            () = silent => unreachable!("it never ends"),
        };
        assert!(matches!(
            late,
            Err(CheckError::Unanswered(Failure::HeadTimeout))
        ));
        // The little that had passed when the clock stopped is not among it.
        let waited = paused.get().unwrap().elapsed();
        assert!(waited > Duration::from_secs(3500), "{waited:?}");
    }
}
