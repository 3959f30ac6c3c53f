//! Requests that the upstream did not process are sent again, on another connection.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// An upstream that resets its first `count` requests with this error, and reads and returns the body of others.
fn resetting(count: usize, reason: Reason, reads_first: bool) -> Http2Origin {
    let seen = Arc::new(AtomicUsize::new(0));
    Http2Origin::start(move |mut exchange: Exchange| {
        let is_reset = seen.fetch_add(1, SeqCst) < count;
        async move {
            if is_reset {
                if reads_first {
                    exchange.read().await;
                }
                exchange.respond.send_reset(reason);
                return;
            }
            let body = exchange.read().await;
            exchange.text(200, &String::from_utf8(body).unwrap());
        }
    })
}

fn post(proxy: &Proxy, body: &str) -> (String, String) {
    let len = body.len();
    let mut client = proxy.send_request(&format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    ));
    let head = client.head();
    (head, String::from_utf8(client.raw()).unwrap())
}

#[test]
fn refused_post_is_sent_again_with_its_body_on_another_connection() {
    let origin = resetting(1, Reason::REFUSED_STREAM, false);
    let proxy = Proxy::start(origin.addr, &[ON]);
    let (head, body) = post(&proxy, "question");
    assert_eq!((status(&head), body.as_str()), ("200", "question"));
    let connections: Vec<_> = origin
        .requests()
        .iter()
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(connections, [0, 1]);
}

#[test]
fn request_is_sent_again_a_few_times_alone() {
    let origin = resetting(usize::MAX, Reason::REFUSED_STREAM, false);
    let proxy = Proxy::start(origin.addr, &[ON]);
    let (head, body) = post(&proxy, "question");
    assert_eq!(status(&head), "502", "{body}");
    assert_eq!(origin.requests().len(), 3);
    let line = proxy.wait_for_log("\"ERROR\"");
    assert!(line.contains("refused the stream"), "{line}");
    assert!(line.contains("SETTINGS_MAX_CONCURRENT_STREAMS"), "{line}");
}

#[test]
fn request_with_a_long_body_that_was_read_is_not_sent_again() {
    let origin = resetting(1, Reason::REFUSED_STREAM, true);
    let proxy = Proxy::start(origin.addr, &[ON]);
    let (head, _) = post(&proxy, &"x".repeat(200_000));
    assert_eq!(status(&head), "502");
    assert_eq!(origin.requests().len(), 1);
    // A short one is kept.
    let origin = resetting(1, Reason::REFUSED_STREAM, true);
    let proxy = Proxy::start(origin.addr, &[ON]);
    let (head, body) = post(&proxy, "question");
    assert_eq!((status(&head), body.as_str()), ("200", "question"));
}

#[test]
fn request_that_may_have_been_processed_is_not_sent_again() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL] {
        let origin = resetting(1, reason, false);
        let proxy = Proxy::start(origin.addr, &[ON]);
        assert_eq!(status(&get(&proxy, "/").0), "502", "{reason}");
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn connection_with_goaway_takes_no_more_streams_and_keeps_those_that_it_has() {
    let next = Arc::new(Notify::new());
    let sent = next.clone();
    let origin = Http2Origin::start(move |mut exchange: Exchange| {
        let next = next.clone();
        async move {
            let mut stream = exchange.stream();
            send(&mut stream, "data: 1\n\n").await;
            next.notified().await;
            send(&mut stream, "data: 2\n\n").await;
            exchange.until_reset(&mut stream).await;
        }
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    let mut first = streams(&proxy, 1).remove(0);
    origin.command(0, Command::GoAway);
    // Requests that cross the GOAWAY are sent again: none of them fails.
    let mut others = Vec::new();
    wait_until("another connection", || {
        others.extend(streams(&proxy, 1));
        origin.connections() == 2
    });
    for _ in 0..=others.len() {
        sent.notify_one();
    }
    assert_eq!(first.read_until("\n\n"), "data: 2\n\n");
    drop((first, others));
    wait_until("the end of the first connection", || origin.open() == 1);
}

#[test]
fn idempotent_request_survives_the_death_of_a_used_connection() {
    let seen = Arc::new(AtomicUsize::new(0));
    let origin = Http2Origin::start(move |mut exchange: Exchange| {
        let is_second = seen.fetch_add(1, SeqCst) % 3 == 1;
        async move {
            match is_second {
                true => {
                    exchange.command(Command::Drop);
                    // Dropped now, the stream would be reset first.
                    std::future::pending::<()>().await;
                }
                false => exchange.text(200, "ok"),
            }
        }
    });
    let proxy = Proxy::start(origin.addr, &[ON]);
    assert_eq!(get(&proxy, "/").1, "ok");
    assert_eq!(get(&proxy, "/").1, "ok", "sent again");
    assert_eq!(origin.requests().len(), 3);
    assert_eq!(get(&proxy, "/").1, "ok");
    let (head, _) = post(&proxy, "may have been processed");
    assert_eq!(status(&head), "502");
    assert_eq!(origin.requests().len(), 5);
}
