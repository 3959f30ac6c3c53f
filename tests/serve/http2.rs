//! Clients of HTTP/2. Their connections run on another thread than the test, which may block.

use super::*;
use crate::client::wait_until;
use crate::http2_client::{Http2, frame, rest};
use crate::server::{Running, Stop, start};
use h2::Reason;
use http::{HeaderMap, Method, StatusCode, Version};
use sse_guard::{EndReason, SseGuardLayer, Stream};
use std::time::Duration;
use tokio::time::timeout;
use tower::ServiceBuilder;

const STALL: Duration = Duration::from_millis(200);

fn http2_servers() -> [Server; 2] {
    servers().map(|server| server.http2(true))
}

async fn assert_gets(client: &mut Http2, path: &str, text: &str) {
    let response = client.get(path).await.unwrap();
    assert_eq!(
        (response.status(), response.version()),
        (StatusCode::OK, Version::HTTP_2)
    );
    let (seen, _, end) = rest(&mut response.into_body()).await;
    assert_eq!((std::str::from_utf8(&seen).unwrap(), end), (text, Ok(())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http2_with_prior_knowledge_is_served_beside_http1() {
    for server in http2_servers() {
        let server = start(server, service_fn(plain));
        let mut client = Http2::connect(server.addr).await;
        assert_gets(&mut client, "/", "plain").await;
        assert_gets(&mut client, "/short", "data: 1\n\ndata: 2\n\n").await;
        assert_gets(&mut client, "/known", "data: 1\n\n").await;
        // Its `Connection: close` would make the message malformed.
        assert_gets(&mut client, "/closes", "data: 1\n\ndata: 2\n\n").await;
        let failed = client.get("/fails").await.unwrap_err();
        assert_eq!(failed.reason(), Some(Reason::INTERNAL_ERROR));
        assert_gets(&mut client, "/", "plain").await;
        assert_text(&mut server.get("/"), "plain");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn http2_is_refused_unless_it_is_enabled() {
    let server = start(Server::new(), service_fn(plain));
    let mut client = Http2::connect(server.addr).await;
    assert!(client.get("/").await.is_err());
    let _ = client.closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pieces_that_are_ready_together_leave_in_one_frame() {
    let service = service_fn(|_: Request<RequestBody>| async {
        let pieces = (0..100).map(|n| data(format!("data: {n}\n\n")));
        Ok::<_, Infallible>(events(stream::iter(pieces)))
    });
    let server = start(Server::new().http2(true), service);
    let mut client = Http2::connect(server.addr).await;
    let (seen, frames, end) = rest(&mut client.get("/").await.unwrap().into_body()).await;
    assert_eq!(end, Ok(()));
    let expected: String = (0..100).map(|n| format!("data: {n}\n\n")).collect();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
    assert_eq!(frames, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn request_has_the_form_of_http1() {
    let service = service_fn(|request: Request<RequestBody>| async move {
        let fields = ["host", "cookie"].map(|name| {
            let fields = request.headers().get_all(name).iter();
            let fields: Vec<_> = fields.map(|value| value.to_str().unwrap()).collect();
            fields.join("|")
        });
        let peer: &PeerAddr = request.extensions().get().unwrap();
        let text = format!(
            "{:?} {} {} {}",
            request.version(),
            request.uri(),
            fields.join(" "),
            peer.ip().unwrap()
        );
        Ok::<_, Infallible>(full("text/plain", text))
    });
    let server = start(Server::new().http2(true), service);
    let mut client = Http2::connect(server.addr).await;
    let request = Request::get("http://a.test/x?y=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2");
    let response = client.send(request.body(()).unwrap(), &[]).await.unwrap();
    let (seen, ..) = rest(&mut response.into_body()).await;
    assert_eq!(
        String::from_utf8(seen).unwrap(),
        "HTTP/2.0 /x?y=1 a.test a=1; b=2 127.0.0.1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn upload_larger_than_all_windows_arrives() {
    for server in http2_servers() {
        let server = start(server, service_fn(plain));
        let mut client = Http2::connect(server.addr).await;
        let body: Vec<_> = (0..64).map(|n| Bytes::from(vec![n; 16_000])).collect();
        let request = Request::post("http://a.test/echo").body(()).unwrap();
        let response = client.send(request, &body).await.unwrap();
        let (seen, ..) = rest(&mut response.into_body()).await;
        assert!(seen == body.concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn responses_without_a_body_end_with_their_head() {
    let service = service_fn(|request: Request<RequestBody>| async move {
        let mut response = full("text/plain", "plain");
        if request.uri().path() == "/none" {
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        Ok::<_, Infallible>(response)
    });
    let server = start(Server::new().http2(true), service);
    let mut client = Http2::connect(server.addr).await;
    for (method, path) in [(Method::HEAD, "/"), (Method::GET, "/none")] {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://a.test{path}"));
        let response = client.send(request.body(()).unwrap(), &[]).await.unwrap();
        assert!(response.body().is_end_stream());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stream_that_is_broken_off_ends_with_a_reset_after_its_data() {
    for server in http2_servers() {
        let server = start(server, service_fn(plain));
        let mut client = Http2::connect(server.addr).await;
        let response = client.get("/dies").await.unwrap();
        let (seen, _, end) = rest(&mut response.into_body()).await;
        assert_eq!(seen, b"data: 1\n\n");
        assert_eq!(end, Err(Some(Reason::INTERNAL_ERROR)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_share_a_connection_and_a_reset_ends_one_of_them() {
    for server in http2_servers() {
        let (streams, service) = controlled();
        let server = start(server, service);
        let mut client = Http2::connect(server.addr).await;
        let mut open = Vec::new();
        for _ in 0..200 {
            let response = client.get("/").await.unwrap();
            open.push((
                streams.recv_timeout(PATIENCE).unwrap(),
                response.into_body(),
            ));
        }
        for (n, (pieces, body)) in open.iter_mut().enumerate() {
            pieces.send(data(format!("data: {n}\n\n"))).unwrap();
            assert_eq!(
                frame(body).await.unwrap().unwrap(),
                format!("data: {n}\n\n")
            );
        }
        let (reset, body) = open.remove(77);
        drop(body);
        wait_until("the service notices the reset", || reset.is_closed());
        for (pieces, mut body) in open {
            pieces.send(data("data: last\n\n")).unwrap();
            drop(pieces);
            let (seen, _, end) = rest(&mut body).await;
            assert_eq!((seen, end), (b"data: last\n\n".to_vec(), Ok(())));
        }
    }
}

/// More streams have output at a time than are polled between two writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_that_begin_and_end_together_get_all_of_their_events() {
    let (released, gate) = tokio::sync::watch::channel(false);
    let service = service_fn(move |_: Request<RequestBody>| {
        let mut gate = gate.clone();
        async move {
            let piece = gate.clone();
            gate.wait_for(|open| *open).await.unwrap();
            let pieces = stream::iter(0..3).then(move |n| {
                let mut piece = piece.clone();
                async move {
                    let _ = piece.wait_for(|open| *open).await;
                    data(format!("data: {n}\n\n"))
                }
            });
            Ok::<_, Infallible>(events(pieces))
        }
    });
    let server = start(Server::new().http2(true), service);
    let mut client = Http2::connect(server.addr).await;
    let mut responses = Vec::new();
    for _ in 0..200 {
        std::future::poll_fn(|cx| client.requests.poll_ready(cx))
            .await
            .unwrap();
        let request = Request::get("http://a.test/").body(()).unwrap();
        responses.push(client.requests.send_request(request, true).unwrap().0);
    }
    released.send(true).unwrap();
    for response in responses {
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        let (seen, _, end) = rest(&mut response.into_body()).await;
        assert_eq!(seen, b"data: 0\n\ndata: 1\n\ndata: 2\n\n");
        assert_eq!(end, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn panic_of_a_service_ends_its_request_alone() {
    let (streams, controlled) = controlled();
    let service = service_fn(move |request: Request<RequestBody>| {
        let mut controlled = controlled.clone();
        async move {
            assert!(request.uri().path() != "/panics", "as the test wants");
            controlled.call(request).await
        }
    });
    let server = start(Server::new().http2(true), service);
    let mut client = Http2::connect(server.addr).await;
    let mut body = client.get("/").await.unwrap().into_body();
    let pieces = streams.recv_timeout(PATIENCE).unwrap();
    let failed = client.get("/panics").await.unwrap_err();
    assert!(failed.is_reset(), "{failed}");
    pieces.send(data("data: 1\n\n")).unwrap();
    drop(pieces);
    assert_eq!(rest(&mut body).await.2, Ok(()));
    // The next request on the connection.
    assert!(client.get("/").await.is_ok());
}

/// A server of streams that the test controls, with the records of the streams.
fn guarded(server: Server) -> (Running, Receiver<UnboundedSender<Piece>>, Receiver<Stream>) {
    let (streams, service) = controlled();
    let (opened, records) = channel();
    let service = ServiceBuilder::new()
        .map_response(move |response: Response<_>| {
            if let Some(stream) = response.extensions().get::<Stream>() {
                opened.send(stream.clone()).unwrap();
            }
            response
        })
        .layer(SseGuardLayer::new().heartbeat(None))
        .service(service);
    (start(server, service), streams, records)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stream_whose_window_stays_closed_is_reset_and_others_go_on() {
    for server in http2_servers() {
        let (server, streams, records) = guarded(server.write_stall(STALL));
        let mut windows = h2::client::Builder::new();
        windows.initial_connection_window_size(1024 * 1024);
        let mut client = Http2::with(server.addr, windows).await;
        let mut reads = client.get("/").await.unwrap().into_body();
        let read = streams.recv_timeout(PATIENCE).unwrap();
        let _ = records.recv_timeout(PATIENCE).unwrap();
        let mut stalls = client.get("/").await.unwrap().into_body();
        let stalled = streams.recv_timeout(PATIENCE).unwrap();
        let record = records.recv_timeout(PATIENCE).unwrap();
        // More than the window of the stream.
        for n in 0..100 {
            stalled.send(data(numbered(n))).unwrap();
        }
        let reason = async {
            // What fills the window is received, and not released.
            loop {
                if let Err(error) = timeout(PATIENCE, stalls.data()).await.unwrap().unwrap() {
                    return error.reason();
                }
            }
        };
        assert_eq!(reason.await, Some(Reason::CANCEL));
        wait_until("the record has its reason", || {
            record.end_reason() == Some(EndReason::ClientStalled)
        });
        read.send(data("data: 1\n\n")).unwrap();
        assert_eq!(frame(&mut reads).await.unwrap().unwrap(), "data: 1\n\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn credentials_of_a_connection_require_http1() {
    let service = service_fn(|request: Request<RequestBody>| async move {
        let mut response = full("text/plain", "plain");
        if request.uri().path() == "/offers" {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            let offer = http::HeaderValue::from_static("Negotiate");
            response.headers_mut().insert("www-authenticate", offer);
        }
        Ok::<_, Infallible>(response)
    });
    let server = start(Server::new().http2(true), service);
    let mut client = Http2::connect(server.addr).await;
    let offered = client.get("/offers").await.unwrap_err();
    assert_eq!(offered.reason(), Some(Reason::HTTP_1_1_REQUIRED));
    let request = Request::get("http://a.test/").header("authorization", "NTLM TlRM");
    let sent = client
        .send(request.body(()).unwrap(), &[])
        .await
        .unwrap_err();
    assert_eq!(sent.reason(), Some(Reason::HTTP_1_1_REQUIRED));
    assert_gets(&mut client, "/", "plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connection_whose_only_request_was_refused_is_idle() {
    let server = Server::new().http2(true).max_connections_per_client(1);
    let server = start(server, service_fn(plain));
    let mut refused = Http2::connect(server.addr).await;
    let request = Request::get("http://a.test/").header("authorization", "NTLM TlRM");
    let sent = refused.send(request.body(()).unwrap(), &[]).await;
    assert!(sent.is_err());
    // The idle connection is closed for the new one.
    let mut other = Http2::connect(server.addr).await;
    assert_gets(&mut other, "/", "plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stop_sends_goaway_and_waits_for_the_streams() {
    for server in http2_servers() {
        let (streams, service) = controlled();
        let server = start(server, service);
        let mut client = Http2::connect(server.addr).await;
        let mut body = client.get("/").await.unwrap().into_body();
        let pieces = streams.recv_timeout(PATIENCE).unwrap();
        let mut idle = Http2::connect(server.addr).await;
        let mut ended = idle.get("/").await.unwrap().into_body();
        drop(streams.recv_timeout(PATIENCE).unwrap());
        assert_eq!(rest(&mut ended).await.2, Ok(()));
        let Running { stop, done, .. } = server;
        stop.send(Stop::Properly).unwrap();
        idle.closed().await.unwrap();
        let refused = loop {
            if let Err(error) = client.get("/").await {
                break error;
            }
        };
        assert!(
            refused.is_go_away() || refused.reason() == Some(Reason::REFUSED_STREAM),
            "{refused}"
        );
        assert!(done.try_recv().is_err());
        pieces.send(data("data: 1\n\n")).unwrap();
        drop(pieces);
        let (seen, _, end) = rest(&mut body).await;
        assert_eq!((seen, end), (b"data: 1\n\n".to_vec(), Ok(())));
        client.closed().await.unwrap();
        done.recv_timeout(PATIENCE).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connection_is_closed_for_idleness_only_without_streams() {
    let (streams, service) = controlled();
    let server = Server::new().http2(true).head_timeout(STALL);
    let server = start(server, service);
    let mut quiet = Http2::connect(server.addr).await;
    let mut body = quiet.get("/").await.unwrap().into_body();
    let pieces = streams.recv_timeout(PATIENCE).unwrap();
    let idle = Http2::connect(server.addr).await;
    idle.closed().await.unwrap();
    // The stream is older than the other connection.
    pieces.send(data("data: 1\n\n")).unwrap();
    assert_eq!(frame(&mut body).await.unwrap().unwrap(), "data: 1\n\n");
    drop(pieces);
    assert_eq!(rest(&mut body).await.2, Ok(()));
    quiet.closed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn client_that_resets_its_requests_is_disconnected() {
    for server in http2_servers() {
        let (streams, service) = controlled();
        let server = start(server, service);
        let mut client = Http2::connect(server.addr).await;
        let mut sent = 0;
        let error = loop {
            let ready = std::future::poll_fn(|cx| client.requests.poll_ready(cx)).await;
            if let Err(error) = ready {
                break error;
            }
            let request = Request::get("http://a.test/late").body(()).unwrap();
            let (response, _) = client.requests.send_request(request, true).unwrap();
            // The service has the request, and then it is reset.
            let Ok(pieces) = streams.recv_timeout(Duration::from_secs(1)) else {
                continue;
            };
            sent += 1;
            drop(response);
            wait_until("the service notices the reset", || pieces.is_closed());
            tokio::task::yield_now().await;
            assert!(sent < 1000, "no bound");
        };
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        assert!(sent >= 100, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn head_that_is_too_long_is_refused_and_the_connection_stays() {
    let server = Server::new().http2(true).max_head(8 * 1024);
    let server = start(server, service_fn(plain));
    let mut client = Http2::connect(server.addr).await;
    assert_gets(&mut client, "/", "plain").await;
    let mut headers = HeaderMap::new();
    headers.insert("x-long", "x".repeat(9 * 1024).parse().unwrap());
    let mut request = Request::get("http://a.test/").body(()).unwrap();
    *request.headers_mut() = headers;
    // The client obeys the limit that it was sent; one that does not gets a 431.
    match client.send(request, &[]).await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(!error.is_io(), "{error}"),
    }
    assert_gets(&mut client, "/", "plain").await;
}
