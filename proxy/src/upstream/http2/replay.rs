//! The beginning of a request's body, kept until the upstream has had the time to refuse the request.

use super::super::outgoing::BoxedBody;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use sse_guard::BoxError;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes of a body that are kept. Requests to models and agents have less, most of them.
const MAX_KEPT: usize = 64 * 1024;

/// What was sent of a body, unless that is too much.
#[derive(Debug)]
pub(super) struct Sent(Option<Kept>);

#[derive(Debug, Default)]
struct Kept {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Default for Sent {
    fn default() -> Self {
        Self(Some(Kept::default()))
    }
}

impl Sent {
    pub(super) fn push(&mut self, piece: &Bytes) {
        let Some(kept) = &mut self.0 else { return };
        kept.len += piece.len();
        match kept.len <= MAX_KEPT {
            true => kept.pieces.push_back(piece.clone()),
            false => self.0 = None,
        }
    }

    pub(super) fn forget(&mut self) {
        if self.0.as_ref().is_some_and(|kept| kept.len > 0) {
            self.0 = None;
        }
    }

    /// The whole body, of which `rest` is not sent.
    pub(super) fn into_body(self, rest: BoxedBody) -> Option<BoxedBody> {
        let kept = self.0?;
        match kept.pieces.is_empty() {
            true => Some(rest),
            false => Some(
                Replay {
                    pieces: kept.pieces,
                    rest,
                }
                .boxed_unsync(),
            ),
        }
    }
}

/// A body that begins with what was read of it before.
struct Replay {
    pieces: VecDeque<Bytes>,
    rest: BoxedBody,
}

impl Body for Replay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::outgoing::nothing;
    use super::*;
    use http_body_util::Full;

    fn body(text: &'static str) -> BoxedBody {
        Full::from(text)
            .map_err(|never| match never {})
            .boxed_unsync()
    }

    #[tokio::test]
    async fn sent_part_of_a_body_is_sent_again_ahead_of_the_rest() {
        let mut sent = Sent::default();
        for piece in ["ab", "c"] {
            sent.push(&Bytes::from(piece));
        }
        let whole = sent.into_body(body("de")).unwrap();
        assert!(!whole.is_end_stream());
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abcde");
    }

    #[test]
    fn body_is_sent_again_only_if_it_is_short_and_soon() {
        assert!(Sent::default().into_body(nothing()).is_some());
        let mut sent = Sent::default();
        sent.push(&vec![0; MAX_KEPT].into());
        sent.push(&Bytes::from("x"));
        assert!(sent.into_body(nothing()).is_none());
        let mut sent = Sent::default();
        sent.forget();
        assert!(sent.into_body(nothing()).is_some(), "nothing was sent");
        let mut sent = Sent::default();
        sent.push(&Bytes::from("x"));
        sent.forget();
        assert!(sent.into_body(nothing()).is_none());
    }
}
