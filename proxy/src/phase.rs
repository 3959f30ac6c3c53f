//! The phases of a shutdown.

use sse_guard::internal::lock;
use std::sync::Mutex;
use std::time::Instant;

/// A phase of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Serving,
    /// Serves everything, but is not ready (`drain.delay`).
    Delay,
    /// Ends streams, defers new ones, serves all other requests (`drain.window`).
    Draining,
    /// Finishes answers that are not rotated; serves other requests as in the window (`drain.answers`).
    Answers,
}

impl Phase {
    /// As the operator's API has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Delay => "delay",
            Self::Draining => "draining",
            Self::Answers => "answers",
        }
    }

    /// Why readiness is red.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Serving => "",
            Self::Delay => "about to stop (drain.delay): everything is served",
            Self::Draining => {
                "draining (drain.window): streams end, new ones are deferred, other requests are served"
            }
            Self::Answers => "draining (drain.answers): open streams finish, new ones are deferred",
        }
    }
}

/// The phase, and since when the process stops.
#[derive(Debug, Default)]
pub(super) struct Phases(Mutex<(Phase, Option<Instant>)>);

impl Phases {
    pub(super) fn enter(&self, phase: Phase) {
        let mut state = lock(&self.0);
        state.0 = phase;
        state.1.get_or_insert_with(Instant::now);
    }

    pub(super) fn now(&self) -> Phase {
        lock(&self.0).0
    }

    /// Since when it stops, if it does.
    pub(super) fn stopping_since(&self) -> Option<Instant> {
        lock(&self.0).1
    }
}
