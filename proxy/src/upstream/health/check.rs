//! Active health checks of upstreams.

use super::super::connect::{Connector, host};
use super::super::error::Failure;
use super::super::http1;
use super::super::outgoing::{BoxedBody, nothing};
use crate::config;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, StatusCode, Uri};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// By which upstreams recognize a check.
const NAME: &str = concat!("sse-guard/", env!("CARGO_PKG_VERSION"), " check");

/// How an upstream is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    every: Duration,
    path: Option<PathAndQuery>,
    timeout: Duration,
    connect_timeout: Duration,
    title_case: bool,
}

/// Why an upstream did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error("a check failed: {0}")]
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

impl Check {
    /// Nothing if it is switched off.
    pub(crate) fn new(config: &config::Upstream) -> Option<Self> {
        Some(Self {
            every: config.health_check.interval?,
            path: config.health_check.path.clone(),
            timeout: config.health_check.timeout,
            connect_timeout: config.connect_timeout,
            title_case: config.title_case_headers,
        })
    }

    /// Whether a passed check means a response, not only a connection.
    pub(super) fn wants_an_answer(&self) -> bool {
        self.path.is_some()
    }

    pub(super) async fn run(&self, url: &Uri) -> Result<(), CheckError> {
        let connector = Connector::new(url, self.connect_timeout);
        let socket = connector.connect_within(self.connect_timeout).await?;
        let Some(path) = &self.path else {
            return Ok(());
        };
        let answered = http1::status(socket, request(url, path), self.title_case);
        let status = timeout(self.timeout, answered)
            .await
            .map_err(|_| Failure::HeadTimeout)?
            .map_err(Failure::from)?;
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(CheckError::Refused(status))
        }
    }
}

/// The path is the whole one: what lies below the URL's own is for clients.
fn request(url: &Uri, path: &PathAndQuery) -> Request<BoxedBody> {
    let mut request = Request::new(nothing());
    *request.uri_mut() = Uri::from(path.clone());
    let headers = request.headers_mut();
    headers.extend(host(url).map(|host| (HOST, host)));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(USER_AGENT, HeaderValue::from_static(NAME));
    request
}

/// When one upstream is checked. What is under way ends with this.
#[derive(Debug, Default)]
pub(super) struct Checks {
    check: Option<Check>,
    /// At once if nothing stands here.
    due: Option<Instant>,
    under_way: Option<AbortOnDropHandle<()>>,
}

impl Checks {
    /// Uses the settings of `check` from now on. Returns whether that switches checks off.
    pub(super) fn follow(&mut self, check: Option<&Check>) -> bool {
        if self.check.as_ref() == check {
            return false;
        }
        // A running check has become pointless: drop its result.
        *self = Self {
            check: check.cloned(),
            ..Self::default()
        };
        check.is_none()
    }

    /// The check to start now: never while one is under way.
    pub(super) fn next(&mut self, now: Instant) -> Option<Check> {
        let is_busy = |handle: &AbortOnDropHandle<()>| !handle.is_finished();
        let is_early = self.due.is_some_and(|due| now < due);
        if is_early || self.under_way.as_ref().is_some_and(is_busy) {
            return None;
        }
        let check = self.check.clone()?;
        // Counted from when it was due, because a caller that comes each second is a little late
        // each time. Checks that were error by more than that are skipped.
        self.due = Some((self.due.unwrap_or(now) + check.every).max(now));
        Some(check)
    }

    pub(super) fn start(&mut self, check: impl Future<Output = ()> + Send + 'static) {
        self.under_way = Some(AbortOnDropHandle::new(tokio::spawn(check)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    fn check(path: Option<&'static str>) -> Check {
        Check {
            every: Duration::from_secs(5),
            path: path.map(PathAndQuery::from_static),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            title_case: false,
        }
    }

    async fn listen() -> (TcpListener, Uri) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}/base").parse().unwrap();
        (listener, url)
    }

    async fn accept_and_read(listener: &TcpListener) -> (TcpStream, String) {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        (socket, String::from_utf8(head).unwrap())
    }

    /// What comes of a check of an upstream that says this.
    async fn answered(answer: &str) -> Result<(), CheckError> {
        let (listener, url) = listen().await;
        let upstream = async {
            let (mut socket, _) = accept_and_read(&listener).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        let check = check(Some("/up"));
        tokio::join!(check.run(&url), upstream).0
    }

    #[tokio::test]
    async fn two_and_three_hundreds_pass_and_nothing_else_does() {
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
    async fn the_upstream_sees_who_asks_for_what_at_the_root_of_its_host() {
        let (listener, url) = listen().await;
        let upstream = async {
            let (mut socket, head) = accept_and_read(&listener).await;
            socket.write_all(b"HTTP/1.1 204 Up\r\n\r\n").await.unwrap();
            head
        };
        let check = check(Some("/up?all"));
        let (result, head) = tokio::join!(check.run(&url), upstream);
        result.unwrap();
        let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /up?all HTTP/1.1");
        lines.sort_unstable();
        let agent = format!("user-agent: {NAME}");
        let host = format!("host: {}", listener.local_addr().unwrap());
        assert_eq!(lines, ["connection: close", host.as_str(), agent.as_str()]);
    }

    #[tokio::test]
    async fn without_a_path_to_accept_is_enough() {
        let (listener, url) = listen().await;
        check(None).run(&url).await.unwrap();
        drop(listener);
        let error = check(None).run(&url).await.unwrap_err();
        assert!(matches!(error, CheckError::Unanswered(Failure::Connect(_))));
    }

    #[tokio::test]
    async fn check_without_a_response_fails_after_its_timeout() {
        let (listener, url) = listen().await;
        let paused = Cell::new(None);
        let silent = async {
            let asked = accept_and_read(&listener).await;
            // All that is left to happen is that time passes.
            tokio::time::pause();
            paused.set(Some(Instant::now()));
            pending::<()>().await;
            drop(asked);
        };
        let asked = Check {
            timeout: Duration::from_secs(3600),
            ..check(Some("/up"))
        };
        let late = tokio::select! {
            result = asked.run(&url) => result,
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

    #[tokio::test(start_paused = true)]
    async fn checks_are_so_far_apart_whenever_somebody_looks() {
        let mut checks = Checks::default();
        let start = Instant::now();
        assert_eq!(checks.next(start), None);
        checks.follow(Some(&check(None)));
        let times = [
            0, 10, 4_999, 5_001, 9_999, 10_000, 31_000, 31_001, 35_000, 36_001,
        ];
        let started = times.map(|ms| checks.next(start + Duration::from_millis(ms)).is_some());
        assert_eq!(
            started,
            [
                true, false, false, true, false, true, true, true, false, true
            ]
        );
    }

    #[tokio::test]
    async fn no_check_starts_while_one_is_under_way() {
        let mut checks = Checks::default();
        checks.follow(Some(&check(None)));
        let now = Instant::now();
        assert!(checks.next(now).is_some());
        let (end, ended) = oneshot::channel::<()>();
        checks.start(async move { ended.await.unwrap() });
        let later = now + Duration::from_secs(60);
        assert!(checks.next(later).is_none());
        end.send(()).unwrap();
        while checks.next(later).is_none() {
            tokio::task::yield_now().await;
        }
    }

    /// The other end of what a check that is under way holds.
    fn hang(checks: &mut Checks) -> oneshot::Receiver<()> {
        let (held, gone) = oneshot::channel::<()>();
        checks.start(async move {
            pending::<()>().await;
            drop(held);
        });
        gone
    }

    #[tokio::test]
    async fn another_check_holds_at_once_and_ends_the_one_under_way() {
        let mut checks = Checks::default();
        let now = Instant::now();
        assert!(!checks.follow(Some(&check(None))));
        assert_eq!(checks.next(now), Some(check(None)));
        let gone = hang(&mut checks);
        assert!(!checks.follow(Some(&check(None))));
        assert!(checks.next(now).is_none());
        assert!(!checks.follow(Some(&check(Some("/up")))));
        assert!(gone.await.is_err());
        assert_eq!(checks.next(now), Some(check(Some("/up"))));

        let gone = hang(&mut checks);
        assert!(checks.follow(None));
        assert!(gone.await.is_err());
        assert!(!checks.follow(None));
        assert!(checks.next(now + Duration::from_secs(60)).is_none());

        let gone = hang(&mut checks);
        drop(checks);
        assert!(gone.await.is_err());
    }
}
