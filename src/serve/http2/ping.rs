//! Detects a peer that no longer answers, RFC 9113 section 6.7.

use h2::{Ping, PingPong};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Time for the answer to a PING.
const PONG_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends a PING each interval, and expects its answer.
#[derive(Debug)]
pub struct PingTimer {
    ping_pong: PingPong,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    awaits_pong: bool,
}

impl PingTimer {
    /// A timer for the connection of this handle.
    pub fn new(ping_pong: PingPong, interval: Duration) -> Self {
        Self {
            ping_pong,
            interval,
            timer: Box::pin(sleep(interval)),
            awaits_pong: false,
        }
    }

    /// Ready when a PING was not answered in time.
    pub fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.awaits_pong && self.ping_pong.poll_pong(cx).is_ready() {
                self.awaits_pong = false;
                self.restart(self.interval);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.awaits_pong {
                return Poll::Ready(());
            }
            // Fails while another PING is on its way, or after the end of the connection.
            self.awaits_pong = self.ping_pong.send_ping(Ping::opaque()).is_ok();
            self.restart(match self.awaits_pong {
                true => PONG_TIMEOUT,
                false => self.interval,
            });
        }
    }

    fn restart(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const INTERVAL: Duration = Duration::from_secs(60);

    /// The server's side of a connection, and the client's, whose settings were exchanged.
    async fn connection() -> (h2::server::Connection<DuplexStream, Bytes>, DuplexStream) {
        let (ours, mut theirs) = duplex(1024);
        let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        theirs.write_all(settings).await.unwrap();
        (h2::server::handshake(ours).await.unwrap(), theirs)
    }

    /// The second at which a client is found dead, if that is in the first ten minutes.
    async fn dead_after(
        mut connection: h2::server::Connection<DuplexStream, Bytes>,
    ) -> Option<u64> {
        let start = Instant::now();
        let mut timer = PingTimer::new(connection.ping_pong().unwrap(), INTERVAL);
        let dead = poll_fn(|cx| {
            let _ = connection.poll_accept(cx);
            timer.poll_dead(cx)
        });
        let dead = tokio::time::timeout(Duration::from_secs(600), dead).await;
        dead.ok().map(|()| start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_does_not_answer_a_ping_is_dead() {
        let (connection, _client) = connection().await;
        assert_eq!(dead_after(connection).await, Some(80));
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_answers_each_ping_lives() {
        let (connection, mut client) = connection().await;
        let answers = tokio::spawn(async move {
            let mut pings = 0;
            loop {
                let mut head = [0; 9];
                client.read_exact(&mut head).await.unwrap();
                let len = usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; len];
                client.read_exact(&mut payload).await.unwrap();
                // A PING of the server.
                if head[3] == 6 && head[4] == 0 {
                    pings += 1;
                    head[4] = 1;
                    client.write_all(&head).await.unwrap();
                    client.write_all(&payload).await.unwrap();
                }
                if pings == 9 {
                    return;
                }
            }
        });
        assert_eq!(dead_after(connection).await, None);
        answers.await.unwrap();
    }
}
