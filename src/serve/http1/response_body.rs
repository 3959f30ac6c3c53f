//! The body of a response that hyper writes.

use super::handoff::Handoff;
use crate::serve::client_io::ClientIo;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project! {
    /// Bounds what hyper takes of the body before it writes, and reports when hyper drops the body.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: B,
        handoff: Handoff<B>,
        io: ClientIo,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            this.handoff.body_dropped();
        }
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(body: B, handoff: Handoff<B>, io: ClientIo) -> Self {
        io.reset_queued_body();
        Self { body, handoff, io }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.io.is_body_queue_full() {
            return Poll::Pending;
        }
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.io
                .add_queued_body(frame.data_ref().map_or(0, Bytes::len));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::FieldCase;
    use super::*;
    use crate::serve::options::ServerOptions;
    use crate::serve::registry::ConnectionRegistry;
    use crate::serve::stall::StallTimeouts;
    use std::convert::Infallible;
    use std::io::IoSlice;
    use std::task::Waker;
    use tokio::net::{TcpListener, TcpStream};

    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let data = Bytes::from_static(&[b'x'; 10 * 1024]);
            Poll::Ready(Some(Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn response_body_waits_until_enough_of_it_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_ours, (theirs, peer)) = (ours.unwrap(), theirs.unwrap());
        let options = ServerOptions::default();
        let entry = ConnectionRegistry::default().admit(peer.ip(), &options.per_client);
        let io = ClientIo::new(
            theirs,
            StallTimeouts::default(),
            FieldCase::Lower,
            entry.unwrap(),
        );
        let mut body = ResponseBody::new(Endless, Handoff::new(None), io.clone());
        let cx = &mut Context::from_waker(Waker::noop());
        let mut frames = || {
            let polls = std::iter::from_fn(|| Some(Pin::new(&mut body).poll_frame(cx).is_ready()));
            polls.take_while(|is_ready| *is_ready).count()
        };
        assert_eq!((frames(), frames()), (4, 0));
        let cx = &mut Context::from_waker(Waker::noop());
        let wrote = io.poll_write(cx, &[IoSlice::new(&[0; 10 * 1024])]);
        assert!(matches!(wrote, Poll::Ready(Ok(wrote)) if wrote == 10 * 1024));
        assert_eq!(frames(), 1);
    }
}
