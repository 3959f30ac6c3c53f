//! The body of the demo's streams, which plays a list of steps.

use bytes::Bytes;
use http_body::{Body, Frame};
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// One thing that a stream does.
pub(super) enum Step {
    /// Sends these bytes as one chunk.
    Send(Bytes),
    /// Sends nothing for this long.
    Wait(Duration),
    /// Fails, upon which hyper cuts the connection in the middle of the message.
    Break,
    /// Sends nothing, and does not end.
    Forever,
}

/// A response body that plays [`Step`]s, and ends cleanly after the last one.
///
/// It owns all it needs, so a dropped script leaves nothing behind.
pub(super) struct Script {
    steps: Box<dyn Iterator<Item = Step> + Send>,
    sleep: Pin<Box<Sleep>>,
    state: PlayState,
}

/// Where a [`Script`] is.
enum PlayState {
    Playing,
    Waiting,
    Wedged,
    Done,
}

/// The error of [`Step::Break`].
#[derive(Debug)]
pub(super) struct Broken;

impl Script {
    pub(super) fn new(steps: impl Iterator<Item = Step> + Send + 'static) -> Self {
        Self {
            steps: Box::new(steps),
            // Not with the timer wheel until a first `Wait` sets and polls it.
            sleep: Box::pin(sleep(Duration::ZERO)),
            state: PlayState::Playing,
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.state {
                PlayState::Playing => match self.steps.next() {
                    Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Step::Wait(pause)) => {
                        self.sleep.as_mut().reset(Instant::now() + pause);
                        self.state = PlayState::Waiting;
                    }
                    Some(Step::Break) => {
                        self.state = PlayState::Done;
                        return Poll::Ready(Some(Err(Broken)));
                    }
                    Some(Step::Forever) => self.state = PlayState::Wedged,
                    None => self.state = PlayState::Done,
                },
                PlayState::Waiting => {
                    ready!(self.sleep.as_mut().poll(cx));
                    self.state = PlayState::Playing;
                }
                // Nothing will wake us, and nothing needs to: hyper drops us with the connection.
                PlayState::Wedged => return Poll::Pending,
                PlayState::Done => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, PlayState::Done)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the demo breaks this stream on purpose")
    }
}

impl Error for Broken {}
