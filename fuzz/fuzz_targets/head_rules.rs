//! Any heads: what the whole stack takes for an event stream, and what it does to the rest, which is
//! nothing.
//!
//! The input is lines. The first: the method and the status. Then those of the request's head, with
//! `>` before them, and of the response's, with `<`; after an empty line the body as a script.

#![no_main]

#[path = "support/script.rs"]
mod script;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use script::Script;
use sse_guard::SseGuardLayer;
use sse_guard::client_key::PeerAddr;
use sse_guard::connection_limit::ConnectionLimitLayer;
use sse_guard::metrics::MetricsLayer;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, ServiceExt, service_fn};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

struct Chunks(VecDeque<Bytes>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }
}

fuzz_target!(|input: &[u8]| {
    let (head, body) = match input.windows(2).position(|bytes| bytes == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|&byte| byte == b'\n');
    let mut first = lines.next().unwrap_or_default().split(|&byte| byte == b' ');
    let method = first.next().and_then(|text| Method::from_bytes(text).ok());
    let status = first
        .next()
        .and_then(|text| StatusCode::from_bytes(text).ok());
    let (method, status) = (method.unwrap_or_default(), status.unwrap_or_default());
    let (mut asked, mut answered) = (HeaderMap::new(), HeaderMap::new());
    for line in lines {
        let (headers, line) = match line {
            [b'>', line @ ..] => (&mut asked, line),
            [b'<', line @ ..] => (&mut answered, line),
            _ => continue,
        };
        if let Some(colon) = line.iter().position(|&byte| byte == b':')
            && let Ok(name) = HeaderName::from_bytes(&line[..colon])
            && let Ok(value) = HeaderValue::from_bytes(line[colon + 1..].trim_ascii())
        {
            headers.append(name, value);
        }
    }
    let body = Script::read(body);
    let chunks = body.chunks().cloned().collect();

    let mut request = Request::builder().method(&method).body(()).unwrap();
    *request.headers_mut() = asked.clone();
    let peer = SocketAddr::from(([192, 0, 2, 1], 49152));
    request.extensions_mut().insert(PeerAddr::from(peer));
    let mut response = Response::builder()
        .status(status)
        .body(Chunks(chunks))
        .unwrap();
    *response.headers_mut() = answered.clone();

    let (metrics, limit) = (MetricsLayer::new(), ConnectionLimitLayer::new());
    let stack = SseGuardLayer::new()
        .metrics(metrics.clone())
        .limit(limit.clone());
    let accepts = accepts_stream(&asked);
    let mut response = Some(response);
    let service = stack.layer(service_fn(|request: Request<()>| {
        let mut expected = asked.clone();
        if accepts {
            expected.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        assert_eq!(*request.headers(), expected);
        let response = response.take().unwrap();
        async { Ok::<_, Infallible>(response) }
    }));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (head, left) = service.oneshot(request).await.unwrap().into_parts();
            assert_eq!(head.status, status);
            let empty = [
                StatusCode::NO_CONTENT,
                StatusCode::RESET_CONTENT,
                StatusCode::NOT_MODIFIED,
            ];
            let has_body =
                !empty.contains(&status) && ![Method::HEAD, Method::CONNECT].contains(&method);
            let is_stream = status.is_success() && has_body && is_typed(&answered);
            let is_opaque = status == StatusCode::PARTIAL_CONTENT || is_coded(&answered);
            if is_stream && !is_opaque {
                is_hardened(&head.headers, &answered);
            } else {
                assert_eq!(head.headers, answered);
            }
            assert_eq!(limit.active(), u64::from(is_stream));
            // Nobody is silent for so long that we speak.
            assert_eq!(left.collect().await.unwrap().to_bytes(), body.stream);
        });
    });
    assert_eq!((limit.active(), metrics.snapshot().active), (0, 0));
});

/// The members of all fields of a name, in lower case, as Fetch combines and splits them.
fn members(headers: &HeaderMap, name: HeaderName) -> Vec<Vec<u8>> {
    let fields: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| value.as_bytes())
        .collect();
    if fields.is_empty() {
        return Vec::new();
    }
    let mut members = vec![Vec::new()];
    let (mut quoted, mut escaped) = (false, false);
    for byte in fields.join(&b", "[..]) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                members.push(Vec::new());
                continue;
            }
            _ => {}
        }
        members.last_mut().unwrap().push(byte.to_ascii_lowercase());
    }
    members
}

/// Type and subtype, if it is a media type.
fn essence(member: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(member);
    let essence = text.trim_matches([' ', '\t']);
    let essence = essence.split([' ', '\t', ';', '(']).next()?;
    let (kind, subtype) = essence.split_once('/')?;
    let is_token = |text: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !text.is_empty() && text.chars().all(is_allowed)
    };
    (is_token(kind) && is_token(subtype)).then(|| essence.as_bytes().to_vec())
}

fn accepts_stream(asked: &HeaderMap) -> bool {
    members(asked, ACCEPT).iter().any(|member| {
        let is_refused = member.split(|&byte| byte == b';').skip(1).any(|parameter| {
            let weight = parameter.trim_ascii().strip_prefix(b"q=");
            weight.is_some_and(|weight| {
                weight.starts_with(b"0") && weight.iter().all(|byte| b"0.".contains(byte))
            })
        });
        essence(member).is_some_and(|found| found == b"text/event-stream") && !is_refused
    })
}

fn is_typed(answered: &HeaderMap) -> bool {
    let types = members(answered, CONTENT_TYPE);
    let types = types.iter().filter_map(|member| essence(member));
    let last = types.filter(|found| found != b"*/*").last();
    last.is_some_and(|found| found == b"text/event-stream")
}

fn is_coded(answered: &HeaderMap) -> bool {
    let known =
        "gzip x-gzip deflate br zstd dcb dcz compress x-compress aes128gcm exi pack200-gzip";
    answered.get_all(CONTENT_ENCODING).iter().any(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        text.split(',')
            .any(|coding| known.split(' ').any(|known| known == coding.trim()))
    })
}

fn is_hardened(head: &HeaderMap, answered: &HeaderMap) {
    assert!(!head.contains_key(CONTENT_LENGTH));
    assert_eq!(head[X_ACCEL_BUFFERING], "no");
    let says = |head: &HeaderMap, directive: &str| {
        head.get_all(CACHE_CONTROL).iter().any(|line| {
            String::from_utf8_lossy(line.as_bytes())
                .split(',')
                .any(|said| said.trim().eq_ignore_ascii_case(directive))
        })
    };
    let forbids = says(head, "no-store") || says(head, "no-cache") && says(head, "no-transform");
    assert!(forbids);
    assert_eq!(says(head, "no-store"), says(answered, "no-store"));
    if says(answered, "private") {
        assert!(says(head, "private"));
    }
    let others = |head: &HeaderMap| {
        let mut head = head.clone();
        for ours in [CONTENT_LENGTH, CACHE_CONTROL, X_ACCEL_BUFFERING] {
            head.remove(ours);
        }
        head
    };
    assert_eq!(others(head), others(answered));
}
