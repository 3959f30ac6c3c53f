//! Interim (1xx) heads for a client: hyper's server cannot write them.
//!
//! They are queued only while the service is polled for its response: hyper's output is then written or blocked,
//! and the final head has not begun. They are written before any other output, so that a head that is only partly
//! written cannot end up inside another message.

use super::{ClientIo, ClientSocket};
use crate::lock::lock;
use crate::serve::http1::interim_head;
use http::{HeaderMap, StatusCode};
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

/// Maximum size of the queued interim heads. Further ones are dropped, because they are only hints.
const MAX_QUEUED_INTERIM: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct QueuedInterim {
    bytes: Vec<u8>,
    written: usize,
}

impl ClientSocket {
    /// Queues an interim head, or drops it if none may be written.
    pub(in crate::serve) fn push_interim(&self, status: StatusCode, headers: &HeaderMap) {
        // Blocked output may be a part of the previous response, and a client that does not read needs no hints.
        if !self.accepts_interim.load(Relaxed) || self.is_blocked.load(Relaxed) {
            tracing::trace!(%status, "an interim head is dropped");
            return;
        }
        let head = interim_head(status, headers, self.field_case);
        let mut state = lock(&self.state);
        let queued = state
            .interim
            .as_ref()
            .map_or(0, |interim| interim.bytes.len());
        if queued + head.len() > MAX_QUEUED_INTERIM {
            tracing::debug!(%status, "an interim head is dropped: too many bytes are queued");
            return;
        }
        let interim = state.interim.get_or_insert_default();
        interim.bytes.extend_from_slice(&head);
        self.has_interim.store(true, Relaxed);
    }
}

impl ClientIo {
    /// Sets whether interim heads may be queued.
    pub(in crate::serve) fn set_accepts_interim(&self, accepts_interim: bool) {
        self.0.accepts_interim.store(accepts_interim, Relaxed);
    }

    /// Writes the queued interim heads. Must be called only while hyper has no part of a message left to write.
    pub(in crate::serve) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.0.has_interim.load(Relaxed) {
            // Not held during the write, which takes the lock, too.
            let interim = self.state().interim.take();
            let Some(mut interim) = interim else {
                self.0.has_interim.store(false, Relaxed);
                break;
            };
            let rest = [IoSlice::new(&interim.bytes[interim.written..])];
            let wrote = self.poll_write_now(cx, &rest);
            if let Poll::Ready(Ok(wrote @ 1..)) = wrote {
                interim.written += wrote;
            }
            match interim.written < interim.bytes.len() {
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
    use super::*;
    use crate::serve::http1::FieldCase;
    use crate::serve::options::ServerOptions;
    use crate::serve::registry::ConnectionRegistry;
    use crate::serve::stall::StallTimeouts;
    use http::HeaderValue;
    use http::header::LINK;
    use std::future::poll_fn;
    use std::task::Waker;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    /// A client's socket, and the server's handle to it.
    async fn client() -> (TcpStream, ClientIo) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (ours, (theirs, peer)) = (ours.unwrap(), theirs.unwrap());
        let entry =
            ConnectionRegistry::default().admit(peer.ip(), &ServerOptions::default().per_client);
        let io = ClientIo::new(
            theirs,
            StallTimeouts::default(),
            FieldCase::Title,
            entry.unwrap(),
        );
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
    async fn interim_head_is_queued_only_while_the_service_is_polled() {
        let (mut ours, io) = client().await;
        push(&io, 1);
        io.set_accepts_interim(true);
        push(&io, 2);
        push(&io, MAX_QUEUED_INTERIM);
        push(&io, 3);
        io.set_accepts_interim(false);
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
    async fn blocked_interim_head_is_written_completely_before_the_next_output() {
        const LEN: usize = 10_000;
        let (mut ours, io) = client().await;
        io.set_accepts_interim(true);
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
