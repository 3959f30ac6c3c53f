//! Clients of HTTP/2, by prior knowledge. Their connections run on another thread than the test, which may block.

pub(super) mod frames;

use crate::support::http2::{Http2, frame, rest};
use crate::support::{Answer, Origin, PATIENCE, Proxy, ReceivedRequest, gate};
use h2::Reason;
use http::{Method, Request, Response, StatusCode};

const HTTP2: &str = "--client-http2=true";

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.test{path}"))
        .header("accept", "text/event-stream")
        .body(())
        .unwrap()
}

async fn status(client: &mut Http2, request: Request<()>) -> StatusCode {
    client.send(request, &[]).await.unwrap().status()
}

/// Each request as text.
fn echoing() -> Origin {
    Origin::start(|received: ReceivedRequest, to: &mut Answer| {
        let head = &received.head;
        let len = head.len();
        let fields = "Content-Type: text/plain\r\nConnection: close\r\n";
        to.raw(
            format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {len}\r\n\r\n{head}").as_bytes(),
        );
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http2_request_reaches_an_http1_upstream() {
    let origin = echoing();
    let proxy = Proxy::start(origin.addr, &[HTTP2]);
    let mut client = Http2::connect(proxy.addr).await;
    let request = Request::get("http://a.test:81/x?y=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers");
    let response = client.send(request.body(()).unwrap(), &[]).await.unwrap();
    assert!(!response.headers().contains_key("connection"));
    let (seen, ..) = rest(&mut response.into_body()).await;
    let seen = String::from_utf8(seen).unwrap().to_ascii_lowercase();
    for line in [
        "get /x?y=1 http/1.1\n",
        "\nhost: a.test:81\n",
        "\ncookie: a=1; b=2\n",
        "\nx-forwarded-for: 127.0.0.1\n",
        "\nx-forwarded-proto: http\n",
    ] {
        assert!(seen.contains(line), "{line:?} is not in {seen}");
    }
    assert!(!seen.contains("\nte:"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_of_one_http2_connection_are_counted_and_freed_by_a_reset() {
    let origin = Origin::holding("data: 1\n\n");
    let flags = [HTTP2, "--limit-per-ip=30", "--limit-rate=off"];
    let proxy = Proxy::start(origin.addr, &flags);
    let mut client = Http2::connect(proxy.addr).await;
    let mut streams = Vec::new();
    for _ in 0..30 {
        let mut body = client.send(get("/"), &[]).await.unwrap().into_body();
        assert_eq!(frame(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
        streams.push(body);
    }
    // The status would end an EventSource: this is another client.
    let other = Request::post("http://a.test/").header("accept", "text/event-stream");
    let over = other.body(()).unwrap();
    assert_eq!(status(&mut client, over.clone()).await, 429);
    drop(streams.pop());
    origin.wait_for_open(29);
    let freed = client.send(over, &[]).await.unwrap();
    assert_eq!(freed.status(), 200);
    assert_eq!(streams.len(), 29);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn first_heartbeat_leaves_with_the_head_over_http2() {
    let (_open, opens) = gate();
    let origin = Origin::start(move |_: ReceivedRequest, to: &mut Answer| {
        to.stream();
        opens.opens();
    });
    let proxy = Proxy::start(origin.addr, &[HTTP2, "--heartbeat-immediate=auto"]);
    let mut client = Http2::connect(proxy.addr).await;
    // Not of a family whose first heartbeat is immediate otherwise.
    let request = Request::post("http://a.test/").header("accept", "text/event-stream");
    let response = client.send(request.body(()).unwrap(), &[]).await.unwrap();
    let first = frame(&mut response.into_body()).await.unwrap().unwrap();
    assert_eq!(first, ": heartbeat\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ambiguous_http2_requests_are_refused() {
    let origin = echoing();
    let proxy = Proxy::start(origin.addr, &[HTTP2]);
    let mut client = Http2::connect(proxy.addr).await;
    let other_host = Request::get("http://a.test/").header("host", "b.test");
    let error = client.send(other_host.body(()).unwrap(), &[]).await;
    assert_eq!(error.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
    for target in [
        "http://u:p@a.test/",
        "http://a.test/a%zz",
        "http://a.test/a\\b",
    ] {
        let request = Request::get(target).body(()).unwrap();
        assert_eq!(status(&mut client, request).await, 400, "{target}");
    }
    let connect = Request::builder().method(Method::CONNECT).uri("a.test:443");
    let refused = status(&mut client, connect.body(()).unwrap()).await;
    assert!(refused.is_client_error() || refused == 501, "{refused}");
    assert_eq!(origin.served(), 0);
    assert_eq!(
        status(
            &mut client,
            Request::get("http://a.test/").body(()).unwrap()
        )
        .await,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http2_upload_arrives_and_its_response_may_precede_its_end() {
    let origin = Origin::start(|received: ReceivedRequest, to: &mut Answer| {
        let len = received.field("content-length").unwrap().parse().unwrap();
        match received.path.as_str() {
            "/early" => {
                to.raw(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            }
            _ => {
                let body = to.body(len);
                let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
                let text = sum.to_string();
                let len = text.len();
                to.raw(
                    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{text}")
                        .as_bytes(),
                );
            }
        }
    });
    let proxy = Proxy::start(origin.addr, &[HTTP2]);
    let mut client = Http2::connect(proxy.addr).await;
    let body = vec![bytes::Bytes::from(vec![1; 300_000]); 3];
    let post = |path: &str| {
        Request::post(format!("http://a.test{path}"))
            .header("content-length", "900000")
            .body(())
            .unwrap()
    };
    let response: Response<_> = client.send(post("/"), &body).await.unwrap();
    let (seen, ..) = rest(&mut response.into_body()).await;
    assert_eq!(seen, b"900000");
    let (response, _body) = client.requests.send_request(post("/early"), false).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.unwrap();
    assert_eq!(response.unwrap().status(), 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn shutdown_sends_goaway_and_then_ends_the_http2_streams() {
    let (_open, opens) = gate();
    let origin = Origin::start(move |_: ReceivedRequest, to: &mut Answer| {
        to.stream();
        to.chunk("data: 1\n\n");
        opens.opens();
    });
    let flags = [HTTP2, "--drain-window=1s"];
    let mut proxy = Proxy::start(origin.addr, &flags);
    let mut client = Http2::connect(proxy.addr).await;
    let mut body = client.send(get("/"), &[]).await.unwrap().into_body();
    assert_eq!(frame(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
    proxy.signal("-TERM");
    // The GOAWAY: no new stream on this connection, though the other one is still open.
    let refused = loop {
        let ready = std::future::poll_fn(|cx| client.requests.poll_ready(cx)).await;
        if let Err(error) = ready {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(
        refused.is_go_away() || refused.reason().is_some(),
        "{refused}"
    );
    let (last, _, end) = rest(&mut body).await;
    let last = String::from_utf8(last).unwrap();
    assert!(last.starts_with("retry: "), "{last:?}");
    assert_eq!(end, Ok(()));
    client.closed().await.unwrap();
    assert!(proxy.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http2_is_off_by_default() {
    let origin = echoing();
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = Http2::connect(proxy.addr).await;
    assert!(client.send(get("/"), &[]).await.is_err());
    assert_eq!(origin.served(), 0);
}
