//! Health states, debounced.

use serde::Serialize;

/// A health state; worse states are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Healthy,
    /// Worse than it should be; needs attention today.
    Degraded,
    /// It does not work; needs attention now.
    Failing,
}

impl State {
    pub(super) fn number(self) -> f64 {
        match self {
            Self::Healthy => 0.0,
            Self::Degraded => 1.0,
            Self::Failing => 2.0,
        }
    }
}

/// Consecutive seconds in a worse state before it takes effect, so that a single bad one does not count.
const WORSE_AFTER: u32 = 3;
/// Consecutive seconds in a better state before it takes effect, so that the state does not flap.
const BETTER_AFTER: u32 = 30;

/// A state that changes only when the other one lasts.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) state: State,
    worse: Run,
    better: Run,
}

/// Seconds in a row, and the state that all of them allow.
#[derive(Debug, Default)]
struct Run(Option<(u32, State)>);

impl Run {
    fn more(&mut self, state: State, join: fn(State, State) -> State) -> (u32, State) {
        let (seconds, so_far) = self.0.unwrap_or((0, state));
        let run = (seconds + 1, join(so_far, state));
        self.0 = Some(run);
        run
    }
}

impl Held {
    /// Records the state of one second; returns whether the debounced state has changed.
    pub(super) fn note(&mut self, raw: State) -> bool {
        let due = if raw > self.state {
            self.better = Run::default();
            let (seconds, state) = self.worse.more(raw, State::min);
            (seconds >= WORSE_AFTER).then_some(state)
        } else if raw < self.state {
            self.worse = Run::default();
            let (seconds, state) = self.better.more(raw, State::max);
            (seconds >= BETTER_AFTER).then_some(state)
        } else {
            (self.worse, self.better) = (Run::default(), Run::default());
            None
        };
        due.is_some_and(|state| self.set(state))
    }

    /// Sets the state without debouncing.
    pub(super) fn set(&mut self, state: State) -> bool {
        let is_other = self.state != state;
        if is_other {
            *self = Self {
                state,
                ..Self::default()
            };
        }
        is_other
    }
}

#[cfg(test)]
mod tests {
    use super::State::{Degraded, Failing, Healthy};
    use super::*;

    fn after(held: &mut Held, seconds: u32, raw: State) -> State {
        for _ in 0..seconds {
            held.note(raw);
        }
        held.state
    }

    #[test]
    fn it_gets_worse_soon_and_better_late() {
        let mut held = Held::default();
        assert_eq!(after(&mut held, WORSE_AFTER - 1, Failing), Healthy);
        assert_eq!(after(&mut held, 1, Failing), Failing);
        assert_eq!(after(&mut held, BETTER_AFTER - 1, Healthy), Failing);
        assert_eq!(after(&mut held, 1, Failing), Failing);
        assert_eq!(after(&mut held, BETTER_AFTER - 1, Healthy), Failing);
        assert_eq!(after(&mut held, 1, Healthy), Healthy);
    }

    #[test]
    fn what_is_worse_at_times_counts_as_the_least_of_it() {
        let mut held = Held::default();
        for raw in [Failing, Degraded, Failing] {
            held.note(raw);
        }
        assert_eq!(held.state, Degraded);
        assert_eq!(after(&mut held, WORSE_AFTER, Failing), Failing);
        for _ in 0..BETTER_AFTER / 2 {
            held.note(Healthy);
            held.note(Degraded);
        }
        assert_eq!(held.state, Degraded);
    }

    #[test]
    fn a_single_bad_second_is_none() {
        let mut held = Held::default();
        for _ in 0..20 {
            held.note(Failing);
            held.note(Failing);
            assert!(!held.note(Healthy));
        }
        assert_eq!(held.state, Healthy);
    }
}
