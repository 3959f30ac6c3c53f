//! Health states, debounced.

use serde::Serialize;

/// A health state; worse states are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HealthState {
    #[default]
    Healthy,
    /// Worse than it should be; needs attention today.
    Degraded,
    /// It does not work; needs attention now.
    Failing,
}

impl HealthState {
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
pub(super) struct Debounced {
    pub(super) state: HealthState,
    worse: StateRun,
    better: StateRun,
}

/// Seconds in a row, and the state that all of them allow.
#[derive(Debug, Default)]
struct StateRun(Option<(u32, HealthState)>);

impl StateRun {
    fn more(
        &mut self,
        state: HealthState,
        join: fn(HealthState, HealthState) -> HealthState,
    ) -> (u32, HealthState) {
        let (seconds, so_far) = self.0.unwrap_or((0, state));
        let run = (seconds + 1, join(so_far, state));
        self.0 = Some(run);
        run
    }
}

impl Debounced {
    /// Records the state of one second; returns whether the debounced state has changed.
    pub(super) fn note(&mut self, raw: HealthState) -> bool {
        let due = if raw > self.state {
            self.better = StateRun::default();
            let (seconds, state) = self.worse.more(raw, HealthState::min);
            (seconds >= WORSE_AFTER).then_some(state)
        } else if raw < self.state {
            self.worse = StateRun::default();
            let (seconds, state) = self.better.more(raw, HealthState::max);
            (seconds >= BETTER_AFTER).then_some(state)
        } else {
            (self.worse, self.better) = (StateRun::default(), StateRun::default());
            None
        };
        due.is_some_and(|state| self.set(state))
    }

    /// Sets the state without debouncing.
    pub(super) fn set(&mut self, state: HealthState) -> bool {
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
    use super::HealthState::{Degraded, Failing, Healthy};
    use super::*;

    fn after(debounced: &mut Debounced, seconds: u32, raw: HealthState) -> HealthState {
        for _ in 0..seconds {
            debounced.note(raw);
        }
        debounced.state
    }

    #[test]
    fn debounced_state_gets_worse_soon_and_better_late() {
        let mut debounced = Debounced::default();
        assert_eq!(after(&mut debounced, WORSE_AFTER - 1, Failing), Healthy);
        assert_eq!(after(&mut debounced, 1, Failing), Failing);
        assert_eq!(after(&mut debounced, BETTER_AFTER - 1, Healthy), Failing);
        assert_eq!(after(&mut debounced, 1, Failing), Failing);
        assert_eq!(after(&mut debounced, BETTER_AFTER - 1, Healthy), Failing);
        assert_eq!(after(&mut debounced, 1, Healthy), Healthy);
    }

    #[test]
    fn debounced_state_is_the_mildest_of_the_seconds_that_were_worse() {
        let mut debounced = Debounced::default();
        for raw in [Failing, Degraded, Failing] {
            debounced.note(raw);
        }
        assert_eq!(debounced.state, Degraded);
        assert_eq!(after(&mut debounced, WORSE_AFTER, Failing), Failing);
        for _ in 0..BETTER_AFTER / 2 {
            debounced.note(Healthy);
            debounced.note(Degraded);
        }
        assert_eq!(debounced.state, Degraded);
    }

    #[test]
    fn debounced_state_ignores_a_single_bad_second() {
        let mut debounced = Debounced::default();
        for _ in 0..20 {
            debounced.note(Failing);
            debounced.note(Failing);
            assert!(!debounced.note(Healthy));
        }
        assert_eq!(debounced.state, Healthy);
    }
}
