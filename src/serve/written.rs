//! The body of a response while hyper writes it.

use super::io::ClientIo;
use super::talk::Desk;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll};

pin_project! {
    /// Bounds what hyper holds of it. Reports when hyper has taken the last of it, or drops it.
    pub(super) struct Written<B> {
        #[pin]
        body: B,
        desk: Desk<B>,
        io: ClientIo,
    }

    impl<B> PinnedDrop for Written<B> {
        fn drop(this: Pin<&mut Self>) {
            this.desk.is_written();
        }
    }
}

impl<B> Written<B> {
    pub(super) fn new(body: B, desk: Desk<B>, io: ClientIo) -> Self {
        io.start_body();
        Self { body, desk, io }
    }
}

impl<B: Body<Data = Bytes>> Body for Written<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.io.is_full() {
            return Poll::Pending;
        }
        let this = self.project();
        let frame = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            this.io.queue(frame.data_ref().map_or(0, Bytes::len));
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
    use super::super::encode::Case;
    use super::super::registry::Registry;
    use super::super::stalls::Stalls;
    use super::super::{Settings, io::ClientIo};
    use super::*;
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
    async fn a_body_waits_until_enough_of_it_has_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_ours, (theirs, peer)) = (ours.unwrap(), theirs.unwrap());
        let settings = Settings::default();
        let entry = Registry::default().admit(peer.ip(), &settings.per_client);
        let io = ClientIo::new(theirs, Stalls::default(), Case::Lower, entry.unwrap());
        let mut body = Written::new(Endless, Desk::new(None), io.clone());
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
