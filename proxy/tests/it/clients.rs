//! A client that was not written here, through the real binary, over a bad network.

use crate::support::{Answer, Origin, Proxy};
use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures_util::StreamExt;
use launchdarkly_sdk_transport::HyperTransport;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const LAST: u64 = 300;

/// The same numbers in each run (splitmix64).
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn event(id: u64) -> String {
    format!("id: {id}\nevent: tick\ndata: {id}\ndata: and a second line\n\n")
}

/// Events from `next` on, up to where this connection is cut.
fn tell(to: &mut Answer, connection: u64, mut next: u64) {
    let dice = random(connection ^ 0x5eed);
    // The first is left to the rotation.
    let cut = if connection == 0 {
        LAST
    } else {
        next + dice % 40
    };
    to.stream();
    while next <= LAST && next < cut {
        if !to.chunk(event(next)) {
            return;
        }
        // The origin's pace, with pauses that are longer than the heartbeat's interval.
        let pause = if next.is_multiple_of(10) { 60 } else { 4 };
        thread::sleep(Duration::from_millis(pause));
        next += 1;
    }
    if next > LAST {
        to.wait_for_close();
        return;
    }
    match (dice >> 32) % 4 {
        0 => {
            to.end();
        }
        // Between two events, without the end of the message.
        1 => {}
        // In an event; also in the last line end, so that it is complete but for one byte.
        2 => {
            let event = event(next);
            to.chunk(&event[..event.len() - 1]);
        }
        _ => {
            let event = event(next);
            let at = 1 + usize::try_from(dice >> 40).unwrap() % (event.len() - 1);
            to.chunk(&event[..at]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_gets_each_event_once_and_in_order_across_cuts() {
    let connections = AtomicU64::new(0);
    let origin = Origin::start(move |received, to| {
        let seen = received
            .field("last-event-id")
            .map_or(0, |id| id.parse().unwrap());
        tell(to, connections.fetch_add(1, SeqCst), seen + 1);
    });
    let mut proxy = Proxy::start(
        origin.addr,
        &[
            "--limit-rate=off",
            "--heartbeat-interval=20ms",
            "--heartbeat-immediate=auto",
            "--rotation-max-age=250ms",
            "--rotation-retry=5ms",
        ],
    );
    let reconnect = ReconnectOptions::reconnect(true)
        .retry_initial(true)
        .delay(Duration::from_millis(4))
        .backoff_factor(1)
        .build();
    let transport = HyperTransport::builder()
        .disable_proxy()
        .build_http()
        .unwrap();
    let client = ClientBuilder::for_url(&format!("http://{}/", proxy.addr))
        .unwrap()
        .reconnect(reconnect)
        .build_with_transport(transport);
    let mut stream = client.stream();
    let (mut got, mut heartbeats) = (Vec::new(), 0);
    let reading = async {
        while got.last() != Some(&LAST) {
            match stream.next().await {
                Some(Ok(SSE::Event(event))) => {
                    let id: u64 = event.id.as_deref().unwrap().parse().unwrap();
                    assert_eq!(event.data, format!("{id}\nand a second line"));
                    assert_eq!(event.event_type, "tick");
                    got.push(id);
                }
                Some(Ok(SSE::Comment(text))) => {
                    assert_eq!(text.trim(), "heartbeat");
                    heartbeats += 1;
                }
                // Its connection ended; it comes back by itself.
                Some(Ok(SSE::Connected(_)) | Err(_)) => {}
                None => panic!("the client gave up after {:?}", got.last()),
            }
        }
    };
    let guard = Duration::from_secs(60);
    let in_time = tokio::time::timeout(guard, reading).await;
    assert!(
        in_time.is_ok(),
        "only up to {:?}:\n{}",
        got.last(),
        proxy.log()
    );
    drop(stream);
    assert_eq!(got, (1..=LAST).collect::<Vec<_>>());
    assert!(heartbeats > 0);
    // All that was to go wrong did.
    for reason in ["rotated", "upstream_error", "upstream_end"] {
        proxy.wait_for_log(&format!("\"{reason}\""));
    }
    origin.wait_for_open(0);
    let last = proxy.stop();
    assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
}
