//! Streams that their upstream breaks off.

use super::*;

/// Streams with an event of the number of their connection and an id; a POST gets it, too.
fn numbered() -> Http2Origin {
    Http2Origin::start(|mut exchange: Exchange| async move {
        let number = exchange.connection;
        let mut stream = exchange.stream();
        send(&mut stream, &format!("id: {number}\ndata: 1\n\n")).await;
        exchange.until_reset(&mut stream).await;
    })
}

#[test]
fn stream_of_a_connection_that_dies_is_broken_off() {
    let origin = numbered();
    let proxy = Proxy::start(origin.addr, &[ON, "--resume-mode=off"]);
    let mut clients: Vec<_> = (0..3).map(|_| proxy.get("/")).collect();
    for client in &mut clients {
        assert_eq!(status(&client.head()), "200");
        client.read_until("\n\n");
    }
    origin.command(0, Command::Drop);
    for client in &mut clients {
        let (_, end) = client.rest();
        assert_eq!(end, End::Broken);
    }
    let lines = proxy.wait_for_log_lines("\"upstream_error\"", 3);
    assert!(lines[0].contains("\"truncated\""), "{}", lines[0]);
}

#[test]
fn stream_of_a_connection_that_dies_is_resumed_on_another() {
    let origin = numbered();
    let proxy = Proxy::start(
        origin.addr,
        &[ON, "--resume-mode=on", "--resume-backoff=10ms"],
    );
    let mut client = proxy.get("/");
    assert_eq!(status(&client.head()), "200");
    client.read_until("id: 0\ndata: 1\n\n");
    origin.command(0, Command::Drop);
    client.read_until("id: 1\ndata: 1\n\n");
    let requests = origin.requests();
    assert_eq!(requests[1].1.headers["last-event-id"], "0");
}

#[test]
fn stream_that_the_upstream_resets_is_broken_off_alone() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        let mut stream = exchange.stream();
        send(&mut stream, "data: 1\n\n").await;
        if exchange.path() == "/reset" {
            exchange.body.data().await;
            // The event leaves first.
            tokio::task::yield_now().await;
            stream.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
        exchange.until_reset(&mut stream).await;
    });
    let proxy = Proxy::start(origin.addr, &[ON, "--resume-mode=off"]);
    let mut other = streams(&proxy, 1).remove(0);
    let mut client = proxy.send_request(
        "POST /reset HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n",
    );
    assert_eq!(status(&client.head()), "200");
    assert_eq!(client.rest().1, End::Broken);
    let line = proxy.wait_for_log("\"upstream_error\"");
    assert!(line.contains("\"truncated\""), "{line}");
    assert_eq!(streams(&proxy, 1).len(), 1);
    assert_eq!(origin.connections(), 1);
    assert!(other.try_send("\r\n"));
}

#[test]
fn request_that_was_not_answered_is_a_502_with_its_cause() {
    let origin = Http2Origin::start(|mut exchange: Exchange| async move {
        exchange.respond.send_reset(Reason::ENHANCE_YOUR_CALM);
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let (head, body) = get(&proxy, "/");
    assert_eq!(status(&head), "502");
    assert_eq!(
        body,
        "sse-guard: the upstream ended the request without a response\n"
    );
    let line = proxy.wait_for_log("\"ERROR\"");
    assert!(
        line.contains("detected excessive load generating behavior"),
        "{line}"
    );
}
