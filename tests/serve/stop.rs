//! A server that stops or drains.

use super::*;
use crate::client::{Gone, wait_until};
use crate::server::{Running, Stop, on_a_thread, start};
use sse_guard::rotation::RotationLayer;
use sse_guard::{SseGuardLayer, StreamRegistry};
use std::net::TcpStream;
use std::time::Duration;
use tower::ServiceBuilder;

#[test]
fn stop_waits_for_responses_in_progress_and_closes_idle_connections() {
    for server in servers() {
        let (streams, service) = controlled();
        let server = start(server, service);
        let mut reads = server.get("/");
        let stream = streams.recv_timeout(PATIENCE).unwrap();
        stream.send(data("data: 1\n\n")).unwrap();
        reads.head();
        reads.read_until("data: 1\n\n");
        let mut waits = server.get("/late");
        let late = streams.recv_timeout(PATIENCE).unwrap();
        let mut idle = Client::connect(server.addr);
        let mut was_served = server.get("/");
        drop(streams.recv_timeout(PATIENCE).unwrap());
        assert_stream(&mut was_served, "", End::Clean);

        let Running { addr, stop, done } = server;
        stop.send(Stop::Properly).unwrap();
        assert_eq!(idle.raw_and_end(), (Vec::new(), Gone::Closed));
        assert_eq!(was_served.raw_and_end(), (Vec::new(), Gone::Closed));
        wait_until("the listener is closed", || {
            TcpStream::connect(addr).is_err()
        });
        assert!(done.try_recv().is_err());
        stream.send(data("data: 2\n\n")).unwrap();
        drop(stream);
        assert_eq!(reads.rest(), (b"data: 2\n\n".to_vec(), End::Clean));
        assert_eq!(reads.raw_and_end(), (Vec::new(), Gone::Closed));
        assert!(done.try_recv().is_err());
        late.send(data("data: 1\n\n")).unwrap();
        drop(late);
        assert_stream(&mut waits, "data: 1\n\n", End::Clean);
        assert_eq!(waits.raw_and_end(), (Vec::new(), Gone::Closed));
        done.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn response_in_progress_at_a_stop_has_connection_close() {
    for server in servers() {
        let (received, requests) = channel();
        let service = service_fn(move |_: Request<RequestBody>| {
            let (answer, answered) = tokio::sync::oneshot::channel::<()>();
            received.send(answer).unwrap();
            async move {
                answered.await.unwrap();
                Ok::<_, Infallible>(full("text/plain", "plain"))
            }
        });
        let server = start(server, service);
        let mut client = server.get("/");
        let answer = requests.recv_timeout(PATIENCE).unwrap();
        let Running { addr, stop, done } = server;
        stop.send(Stop::Properly).unwrap();
        wait_until("the listener is closed", || {
            TcpStream::connect(addr).is_err()
        });
        answer.send(()).unwrap();
        let head = client.head();
        assert!(head.contains("\nconnection: close\n"), "{head}");
        assert_eq!(client.raw_and_end(), (b"plain".to_vec(), Gone::Closed));
        done.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn drain_serves_all_except_new_streams_until_its_window_is_over() {
    for server in servers() {
        let registry = StreamRegistry::new();
        let guard = SseGuardLayer::new().rotation(RotationLayer::new().registry(&registry));
        let service = ServiceBuilder::new()
            .layer(guard)
            .service(service_fn(plain));
        let handle = registry.clone();
        let (addr, done) = on_a_thread(async move |listener| {
            let served = server.serve_until_drained(listener, service, &handle);
            served.await.unwrap();
        });
        let send_request = |request: &str| {
            let mut client = Client::connect(addr);
            client.send(request);
            client
        };
        let mut kept = send_request(&request("GET", "/text", ""));
        assert_text(&mut kept, "plain");
        let mut idle = send_request(&request("GET", "/text", ""));
        assert_text(&mut idle, "plain");
        registry.drain(Duration::from_secs(1));
        let feed = "GET /stream HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
        wait_until("the server drains", || {
            let mut late = send_request(feed);
            let head = late.head();
            assert!(head.contains("text/event-stream"), "{head}");
            head.contains("connection: close") && late.raw().starts_with(b"retry: ")
        });
        kept.send(&request("GET", "/text", ""));
        assert!(kept.head().contains("connection: close"));
        assert_eq!(kept.raw(), b"plain");
        assert_eq!(idle.raw_and_end(), (Vec::new(), Gone::Closed));
        done.recv_timeout(PATIENCE).unwrap();
        assert!(TcpStream::connect(addr).is_err());
    }
}

#[test]
fn dropped_server_truncates_its_streams() {
    for server in servers() {
        let (streams, service) = controlled();
        let server = start(server, service);
        let mut chunked = server.get("/");
        let one = streams.recv_timeout(PATIENCE).unwrap();
        let mut closes = server.send_request("GET / HTTP/1.0\r\n\r\n");
        let two = streams.recv_timeout(PATIENCE).unwrap();
        for stream in [&one, &two] {
            stream.send(data("data: 1\n\n")).unwrap();
        }
        chunked.head();
        chunked.read_until("data: 1\n\n");
        closes.head();
        assert_eq!(closes.bytes(9), b"data: 1\n\n");
        let Running { stop, done, .. } = server;
        stop.send(Stop::Now).unwrap();
        done.recv_timeout(PATIENCE).unwrap();
        assert_eq!(chunked.rest(), (Vec::new(), End::Broken));
        // Without chunks, this must not look like a proper end.
        assert_eq!(closes.raw_and_end(), (Vec::new(), Gone::Reset));
        wait_until("their end here", || one.is_closed() && two.is_closed());
    }
}
