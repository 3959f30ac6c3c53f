//! `sse-guard health`: requests a health check of a running proxy, for images without an HTTP client.
//!
//! The config is read as by the proxy, but only for the admin address: a file that a reload refuses, or
//! a missing upstream, does not make a running proxy unhealthy.

use super::config::{self, AdminAccess};
use super::demo;
use super::off_thread::OffThread;
use bytes::Bytes;
use clap::ArgMatches;
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::fmt::{self, Write};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// Of an image's health check: other codes are reserved.
const UNHEALTHY: u8 = 1;
/// Of a response: its details grow with routes and upstreams.
const MAX_BODY: usize = 4 << 20;
/// Of the reasons in the line that is printed.
const MAX_REASONS: usize = 3;

/// What is requested.
#[derive(Clone, Copy)]
enum Probe {
    Ready,
    Live,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/healthz",
        }
    }
}

/// A response to the request.
struct ProbeResponse {
    status: StatusCode,
    /// Why the proxy is not ready, as far as the response contains it.
    reasons: Vec<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum HealthError {
    #[error("the admin address is off (admin.listen = \"off\")")]
    Off,
    #[error("admin.listen has port 0, a different port at each start; set a port")]
    AnyPort,
    #[error("cannot read the config: {0}")]
    Config(super::off_thread::ReadError),
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no valid HTTP response: {0}")]
    Http(#[from] hyper::Error),
    #[error("no response within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

/// Runs the check, prints one line about its result, and returns the exit code.
pub(super) async fn run(matches: &ArgMatches) -> ExitCode {
    let flags = matches.subcommand_matches("health");
    let probe = match flags.is_some_and(|flags| flags.get_flag(config::LIVE)) {
        true => Probe::Live,
        false => Probe::Ready,
    };
    let limit = flags
        .and_then(|flags| flags.get_one(config::TIMEOUT).copied())
        .unwrap_or(config::DEFAULT_TIMEOUT);
    let mut subject = String::new();
    let check = check(matches, probe, &mut subject);
    let result = match tokio::time::timeout(limit, check).await {
        Ok(result) => result,
        Err(_) => Err(HealthError::TimedOut(limit)),
    };
    match result {
        Ok(response) if response.status == StatusCode::OK => {
            println!("{}", ResultLine(probe, &subject, &response));
            ExitCode::SUCCESS
        }
        Ok(response) => {
            eprintln!("{}", ResultLine(probe, &subject, &response));
            ExitCode::from(UNHEALTHY)
        }
        Err(error) => {
            eprintln!("unhealthy: {subject}{error}");
            ExitCode::from(UNHEALTHY)
        }
    }
}

/// `subject` names what is checked, once it is known.
async fn check(
    matches: &ArgMatches,
    probe: Probe,
    subject: &mut String,
) -> Result<ProbeResponse, HealthError> {
    let matches = matches.clone();
    let read = move || config::load_admin(&matches, config::process_env());
    let access = OffThread::default().run(read).await;
    let AdminAccess {
        listen,
        token,
        mistakes,
    } = access.map_err(HealthError::Config)?;
    if let Some(mistake) = mistakes.first() {
        // The address may be another one than that of the proxy.
        let _ = write!(subject, "{mistake}; ");
    }
    let address = demo::reachable(listen.ok_or(HealthError::Off)?);
    if address.port() == 0 {
        return Err(HealthError::AnyPort);
    }
    let _ = write!(subject, "http://{address}{}: ", probe.path());
    request(address, probe, token.as_deref()).await
}

async fn request(
    address: SocketAddr,
    probe: Probe,
    token: Option<&str>,
) -> Result<ProbeResponse, HealthError> {
    let socket = TcpStream::connect(address)
        .await
        .map_err(HealthError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(probe.path());
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::try_from(address.to_string()) {
        headers.insert(HOST, host);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    // The checks require no token; the reasons do.
    if let Some(mut token) = token.and_then(|token| format!("Bearer {token}").try_into().ok()) {
        HeaderValue::set_sensitive(&mut token, true);
        headers.insert(AUTHORIZATION, token);
    }
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    connection.abort();
    // The status alone decides.
    let body = body.map(http_body_util::Collected::to_bytes);
    Ok(ProbeResponse {
        status,
        reasons: reasons(&body.unwrap_or_default()),
    })
}

/// The parts that fail, of the JSON of `/readyz`.
fn reasons(body: &[u8]) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(parts) = json["parts"].as_object() else {
        return Vec::new();
    };
    let fails = |part: &serde_json::Value| part["ok"] == false && part["tolerated"] != true;
    let failed = parts.iter().filter(|(_, part)| fails(part));
    failed
        .map(|(name, part)| match part["reason"].as_str() {
            Some(reason) if !reason.is_empty() => format!("{name}: {reason}"),
            _ => name.clone(),
        })
        .map(|text| text.replace(char::is_control, " "))
        .collect()
}

struct ResultLine<'a>(Probe, &'a str, &'a ProbeResponse);

impl fmt::Display for ResultLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(probe, subject, ProbeResponse { status, reasons }) = self;
        let verdict = match (probe, *status) {
            (Probe::Ready, StatusCode::OK) => "ready",
            (Probe::Live, StatusCode::OK) => "alive",
            (Probe::Ready, StatusCode::SERVICE_UNAVAILABLE) => "not ready",
            _ => "unhealthy",
        };
        write!(f, "{verdict}: {subject}status {}", status.as_u16())?;
        let shown = &reasons[..reasons.len().min(MAX_REASONS)];
        for reason in shown {
            write!(f, "; {reason}")?;
        }
        match reasons.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(probe: Probe, status: u16, body: &str) -> String {
        let response = ProbeResponse {
            status: StatusCode::from_u16(status).unwrap(),
            reasons: reasons(body.as_bytes()),
        };
        ResultLine(probe, "X: ", &response).to_string()
    }

    #[test]
    fn line_names_the_parts_that_readiness_lacks() {
        let body = r#"{"ready":false,"parts":{
            "a":{"ok":true},
            "b":{"ok":false,"reason":"x\ny"},
            "c":{"ok":false,"tolerated":true,"reason":"z"},
            "d":{"ok":false}}}"#;
        let expected = "not ready: X: status 503; b: x y; d";
        assert_eq!(line(Probe::Ready, 503, body), expected);
        let many: Vec<_> = (0..5)
            .map(|i| format!("\"{i}\":{{\"ok\":false}}"))
            .collect();
        let body = format!("{{\"parts\":{{{}}}}}", many.join(","));
        let expected = "not ready: X: status 503; 0; 1; 2; and 2 more";
        assert_eq!(line(Probe::Ready, 503, &body), expected);
    }

    #[test]
    fn status_alone_decides() {
        for body in ["", "{}", "[1]", "{\"parts\":1}", "not JSON"] {
            assert_eq!(line(Probe::Ready, 200, body), "ready: X: status 200");
            assert_eq!(line(Probe::Live, 200, body), "alive: X: status 200");
            assert_eq!(line(Probe::Ready, 503, body), "not ready: X: status 503");
            assert_eq!(line(Probe::Ready, 403, body), "unhealthy: X: status 403");
            assert_eq!(line(Probe::Live, 503, body), "unhealthy: X: status 503");
        }
    }
}
