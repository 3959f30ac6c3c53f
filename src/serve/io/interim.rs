//! Interim (1xx) heads on their way to a client: hyper's server cannot write them.
//!
//! They are accepted only while the service is polled for its response: what hyper had to write by then is
//! written or blocked, and the final head has not begun. They are written ahead of anything else, so that what
//! the kernel has no room for cannot end up inside of another message.

use super::super::encode;
use super::{ClientIo, Shared};
use crate::lock::lock;
use http::{HeaderMap, StatusCode};
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

/// Bytes of interim heads that are queued for one write. Those beyond are dropped: a client loses nothing but
/// hints.
const MAX_QUEUED: usize = 16 * 1024;

/// Interim heads, and how many bytes of them are written.
#[derive(Default)]
pub(super) struct Interim {
    bytes: Vec<u8>,
    sent: usize,
}

impl Shared {
    /// Queues an interim head, or drops it where none may be written.
    pub(in crate::serve) fn push_interim(&self, status: StatusCode, headers: &HeaderMap) {
        // What is blocked may be a part of the response ahead, and a client that does not read needs no hints.
        if !self.takes_interim.load(Relaxed) || self.blocked.load(Relaxed) {
            tracing::trace!(%status, "an interim head is dropped");
            return;
        }
        let head = encode::interim(status, headers, self.case);
        let mut state = lock(&self.state);
        let queued = state
            .interim
            .as_ref()
            .map_or(0, |interim| interim.bytes.len());
        if queued + head.len() > MAX_QUEUED {
            tracing::debug!(%status, "an interim head of too many bytes is dropped");
            return;
        }
        let interim = state.interim.get_or_insert_default();
        interim.bytes.extend_from_slice(&head);
        self.has_interim.store(true, Relaxed);
    }
}

impl ClientIo {
    /// Whether an interim head may be queued.
    pub(in crate::serve) fn set_takes_interim(&self, takes_interim: bool) {
        self.0.takes_interim.store(takes_interim, Relaxed);
    }

    /// Writes the interim heads that are queued. To be called only while hyper has no part of a message to
    /// write.
    pub(in crate::serve) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.0.has_interim.load(Relaxed) {
            // The lock is not held across the write, which takes it, too.
            let interim = self.state().interim.take();
            let Some(mut interim) = interim else {
                self.0.has_interim.store(false, Relaxed);
                break;
            };
            let rest = [IoSlice::new(&interim.bytes[interim.sent..])];
            let wrote = self.poll_write_now(cx, &rest);
            if let Poll::Ready(Ok(wrote @ 1..)) = wrote {
                interim.sent += wrote;
            }
            match interim.sent < interim.bytes.len() {
                true => self.state().interim = Some(interim),
                false => self.0.has_interim.store(false, Relaxed),
            }
            if ready!(wrote)? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Settings;
    use super::super::super::encode::Case;
    use super::super::super::registry::Registry;
    use super::super::super::stalls::Stalls;
    use super::*;
    use http::HeaderValue;
    use http::header::LINK;
    use std::future::poll_fn;
    use std::task::Waker;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    /// A client's own socket, and the handle to it.
    async fn client() -> (TcpStream, ClientIo) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (ours, (theirs, peer)) = (ours.unwrap(), theirs.unwrap());
        let entry = Registry::default().admit(peer.ip(), &Settings::default().per_client);
        let io = ClientIo::new(theirs, Stalls::default(), Case::Title, entry.unwrap());
        (ours, io)
    }

    fn push(io: &ClientIo, len: usize) {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&"x".repeat(len)).unwrap();
        headers.insert(LINK, value);
        io.0.push_interim(StatusCode::EARLY_HINTS, &headers);
    }

    fn head(len: usize) -> String {
        format!(
            "HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n",
            "x".repeat(len)
        )
    }

    #[tokio::test]
    async fn a_head_is_queued_only_while_it_may_be_written() {
        let (mut ours, io) = client().await;
        push(&io, 1);
        io.set_takes_interim(true);
        push(&io, 2);
        push(&io, MAX_QUEUED);
        push(&io, 3);
        io.set_takes_interim(false);
        push(&io, 4);
        poll_fn(|cx| io.poll_write(cx, &[IoSlice::new(b"final")]))
            .await
            .unwrap();
        let expected = format!("{}{}final", head(2), head(3));
        let mut seen = vec![0; expected.len()];
        ours.read_exact(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8(seen).unwrap(), expected);
    }

    #[tokio::test]
    async fn a_head_without_room_leaves_as_a_whole_ahead_of_the_next_write() {
        const LEN: usize = 10_000;
        let (mut ours, io) = client().await;
        io.set_takes_interim(true);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut heads = 0;
        while !io.is_blocked() {
            push(&io, LEN);
            heads += 1;
            let result = io.poll_interim(cx);
            assert!(!matches!(result, Poll::Ready(Err(_))), "{result:?}");
        }
        // Blocked, so that it is dropped.
        push(&io, LEN);
        assert!(io.poll_write(cx, &[IoSlice::new(b"final")]).is_pending());
        let expected = format!("{}final", head(LEN).repeat(heads));
        let mut seen = vec![0; expected.len()];
        let write = poll_fn(|cx| io.poll_write(cx, &[IoSlice::new(b"final")]));
        let (wrote, read) = tokio::join!(write, ours.read_exact(&mut seen));
        assert_eq!((wrote.unwrap(), read.unwrap()), (5, expected.len()));
        assert!(seen == expected.as_bytes());
    }
}
