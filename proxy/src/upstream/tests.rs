//! Requests through the whole service, to an upstream with a script.

use super::*;
use crate::config::from_file;
use http::{StatusCode, Version};
use http_body_util::BodyExt;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The responses of each connection.
type Script = &'static [&'static [&'static str]];

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// In place of a response: the connection is closed.
const CLOSE: &str = "";

/// An upstream that serves one connection after the other: to each request on one it sends the next text of the
/// connection's script, and closes the connection at its end.
struct Scripted {
    url: String,
    /// The heads of all requests, each with the number of its connection.
    heads: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Scripted {
    async fn start(scripts: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        tokio::spawn(async move {
            for (number, script) in scripts.iter().enumerate() {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, number, script, seen.clone()));
            }
        });
        Self { url, heads }
    }

    /// The service for a config with these lines below `[upstream]`.
    fn service(&self, base: &str, lines: &str) -> Upstream {
        let config = format!("[upstream]\nurl = '{}{base}'\n{lines}", self.url);
        let config = from_file(&config).unwrap().config;
        let settings = &config.routes[0].settings;
        let cluster = Endpoints::default().cluster(&config, &settings.upstream, None);
        Upstream::new(settings, ForwardedIp::new([]), Tunnels::default(), cluster)
    }

    fn heads(&self) -> Vec<(usize, String)> {
        self.heads.lock().unwrap().clone()
    }

    /// The connection of each request.
    fn connections(&self) -> Vec<usize> {
        self.heads().into_iter().map(|(number, _)| number).collect()
    }
}

async fn serve(
    mut socket: TcpStream,
    number: usize,
    script: &[&str],
    heads: Arc<Mutex<Vec<(usize, String)>>>,
) {
    for response in script {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        heads.lock().unwrap().push((number, head));
        socket.write_all(response.as_bytes()).await.unwrap();
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<RequestBody> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(RequestBody::default()).unwrap()
}

/// The status and the text of the response.
async fn send(upstream: &Upstream, request: Request<RequestBody>) -> (StatusCode, String) {
    let response = upstream.clone().call(request).await.unwrap();
    let status = response.status();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

async fn get(upstream: &Upstream) -> (StatusCode, String) {
    send(upstream, request("GET", "/", &[])).await
}

/// Requests that have counted against the upstream.
fn failures(upstream: &Upstream) -> u64 {
    let member = upstream.0.cluster.pick();
    member.endpoint().health().state(member.url()).failed
}

fn ok() -> (StatusCode, String) {
    (StatusCode::OK, "ok".to_owned())
}

#[tokio::test]
async fn request_goes_below_the_base_path_and_keeps_its_query() {
    let scripted = Scripted::start(&[&[OK, OK, OK]]).await;
    let upstream = scripted.service("/base/", "");
    assert!(upstream.has_base_path());
    for (method, path) in [("GET", "/a/b?c=d"), ("GET", "/"), ("OPTIONS", "*")] {
        assert_eq!(send(&upstream, request(method, path, &[])).await, ok());
    }
    let lines: Vec<_> = scripted
        .heads()
        .iter()
        .map(|(_, head)| head.lines().next().unwrap().to_owned())
        .collect();
    let expected = [
        "GET /base/a/b?c=d HTTP/1.1",
        "GET /base/ HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn request_loses_hop_by_hop_fields_and_keeps_its_host() {
    let scripted = Scripted::start(&[&[OK, OK]]).await;
    let upstream = scripted.service("", "");
    let fields = [
        ("host", "app.test"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("x-end", "2"),
    ];
    assert_eq!(send(&upstream, request("GET", "/", &fields)).await, ok());
    assert_eq!(get(&upstream).await, ok());
    let heads = scripted.heads();
    let (_, with_host) = &heads[0];
    assert!(with_host.contains("host: app.test\r\n"), "{with_host}");
    assert!(with_host.contains("x-end: 2\r\n"), "{with_host}");
    for name in ["connection", "keep-alive", "te:"] {
        assert!(!with_host.contains(name), "{with_host}");
    }
    let own = scripted.url.strip_prefix("http://").unwrap();
    let (_, without_host) = &heads[1];
    assert!(
        without_host.contains(&format!("host: {own}\r\n")),
        "{without_host}"
    );
}

#[tokio::test]
async fn response_loses_hop_by_hop_fields_and_other_addresses_of_the_upstream() {
    const FULL: &str = "HTTP/1.0 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nalt-svc: h3=\":443\"\r\n\
        keep-alive: timeout=5\r\nx-end: 2\r\ncontent-length: 0\r\n\r\n";
    let scripted = Scripted::start(&[&[FULL]]).await;
    let mut upstream = scripted.service("", "");
    let response = upstream.call(request("GET", "/", &[])).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_11);
    let names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["x-end", "content-length"]);
}

#[tokio::test]
async fn connection_serves_the_next_request_unless_it_is_to_close() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let scripted = Scripted::start(&[&[OK, LAST, OK], &[OK, OK]]).await;
    let upstream = scripted.service("", "");
    for _ in 0..4 {
        assert_eq!(get(&upstream).await, ok());
        // A task of its own returns the connection.
        tokio::task::yield_now().await;
    }
    assert_eq!(scripted.connections(), [0, 0, 1, 1]);
    let member = upstream.0.cluster.pick();
    member.endpoint().pool().clear();
    assert!(member.pool().take().is_none());
}

#[tokio::test]
async fn request_on_a_connection_that_ends_is_repeated_if_that_does_no_harm() {
    let scripted = Scripted::start(&[&[OK, CLOSE], &[OK, CLOSE], &[OK]]).await;
    let upstream = scripted.service("", "");
    assert_eq!(get(&upstream).await, ok());
    assert_eq!(get(&upstream).await, ok(), "repeated on a new connection");
    let (status, _) = send(&upstream, request("POST", "/", &[])).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "may have been processed");
    assert_eq!(scripted.connections(), [0, 0, 1, 1]);
}

#[tokio::test]
async fn request_is_repeated_when_the_upstream_timed_out_a_used_connection() {
    const TIMEOUT: &str =
        "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let scripted = Scripted::start(&[&[OK, TIMEOUT], &[TIMEOUT]]).await;
    let upstream = scripted.service("", "");
    assert_eq!(get(&upstream).await, ok());
    let (status, _) = send(&upstream, request("POST", "/", &[])).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "of a new connection");
    assert_eq!(scripted.connections(), [0, 0, 1]);
}

#[tokio::test]
async fn event_stream_is_read_without_hyper_and_its_connection_serves_again() {
    const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n";
    let scripted = Scripted::start(&[&[STREAM, OK]]).await;
    let mut upstream = scripted.service("", "");
    let accept = [("accept", "text/event-stream")];
    let response = upstream.call(request("GET", "/", &accept)).await.unwrap();
    assert!(matches!(response.body(), Either::Left(_)));
    let events = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(events, "data: 1\n\n");
    assert_eq!(get(&upstream).await, ok());
    assert_eq!(scripted.connections(), [0, 0]);
}

#[tokio::test]
async fn failure_of_the_upstream_is_a_502_and_counts_against_it() {
    const NO_HTTP: Script = &[&["no HTTP\r\n\r\n"]];
    const CLOSED: Script = &[&[CLOSE]];
    const SWITCH: Script =
        &[&["HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"]];
    const TWO_LENGTHS: Script = &[&["HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n"]];
    for (script, status, failed) in [
        (NO_HTTP, 502, 1),
        (CLOSED, 502, 1),
        (SWITCH, 502, 1),
        (TWO_LENGTHS, 502, 1),
        (&[&[OK]], 200, 0),
    ] {
        let scripted = Scripted::start(script).await;
        let upstream = scripted.service("", "");
        let (found, _) = get(&upstream).await;
        let found = (found.as_u16(), failures(&upstream));
        assert_eq!(found, (status, failed), "{script:?}");
    }
}

#[tokio::test]
async fn request_with_an_unknown_transfer_coding_is_rejected_unsent() {
    let scripted = Scripted::start(&[&[OK]]).await;
    let upstream = scripted.service("", "");
    let gzip = request("POST", "/", &[("transfer-encoding", "gzip, chunked")]);
    let (status, _) = send(&upstream, gzip).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(failures(&upstream), 0);
    assert!(scripted.heads().is_empty());
}
