//! When the checks of an address are made.

use super::check::ActiveCheck;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// The checks of one address. Those under way end with this.
#[derive(Debug, Default)]
pub(super) struct CheckSchedule(Vec<ScheduledCheck>);

#[derive(Debug)]
struct ScheduledCheck {
    check: ActiveCheck,
    /// At once if nothing stands here.
    due: Option<Instant>,
    under_way: Option<AbortOnDropHandle<()>>,
}

impl CheckSchedule {
    /// Makes these checks from now on, each once however often it is among them. A check that is not among them
    /// has become pointless, and so has its result if it is under way.
    pub(super) fn follow<'a>(&mut self, checks: impl Iterator<Item = &'a ActiveCheck> + Clone) {
        self.0
            .retain(|known| checks.clone().any(|check| *check == known.check));
        for check in checks {
            if !self.0.iter().any(|known| known.check == *check) {
                self.0.push(ScheduledCheck {
                    check: check.clone(),
                    due: None,
                    under_way: None,
                });
            }
        }
    }

    /// Starts the checks that are due, of which none is under way twice.
    pub(super) fn start_due<F>(&mut self, now: Instant, run: impl Fn(ActiveCheck) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        for schedule in &mut self.0 {
            if schedule.is_due(now) {
                let check = tokio::spawn(run(schedule.check.clone()));
                schedule.under_way = Some(AbortOnDropHandle::new(check));
            }
        }
    }
}

impl ScheduledCheck {
    /// Whether to start it now, which also sets when it is due the next time.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_busy = |handle: &AbortOnDropHandle<()>| !handle.is_finished();
        let is_early = self.due.is_some_and(|due| now < due);
        if is_early || self.under_way.as_ref().is_some_and(is_busy) {
            return false;
        }
        // Counted from when it was due, because a caller that comes each second is a little late
        // each time. Checks that were missed by more than that are skipped.
        self.due = Some((self.due.unwrap_or(now) + self.check.interval()).max(now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::check;
    use super::*;
    use std::future::pending;
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// The check to start now, without a start.
    fn next(checks: &mut CheckSchedule, now: Instant) -> Option<ActiveCheck> {
        let schedule = checks.0.first_mut()?;
        schedule.is_due(now).then(|| schedule.check.clone())
    }

    fn start(checks: &mut CheckSchedule, check: impl Future<Output = ()> + Send + 'static) {
        checks.0[0].under_way = Some(AbortOnDropHandle::new(tokio::spawn(check)));
    }

    #[tokio::test(start_paused = true)]
    async fn checks_start_at_their_interval_however_often_they_are_looked_for() {
        let mut checks = CheckSchedule::default();
        let now = Instant::now();
        assert_eq!(next(&mut checks, now), None);
        checks.follow([&check(None)].into_iter());
        let times = [
            0, 10, 4_999, 5_001, 9_999, 10_000, 31_000, 31_001, 35_000, 36_001,
        ];
        let started = times.map(|ms| next(&mut checks, now + Duration::from_millis(ms)).is_some());
        assert_eq!(
            started,
            [
                true, false, false, true, false, true, true, true, false, true
            ]
        );
    }

    #[tokio::test]
    async fn check_does_not_start_while_it_is_under_way() {
        let mut checks = CheckSchedule::default();
        checks.follow([&check(None)].into_iter());
        let now = Instant::now();
        assert!(next(&mut checks, now).is_some());
        let (end, ended) = oneshot::channel::<()>();
        start(&mut checks, async move { ended.await.unwrap() });
        let later = now + Duration::from_secs(60);
        assert!(next(&mut checks, later).is_none());
        end.send(()).unwrap();
        while next(&mut checks, later).is_none() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn check_is_made_once_for_all_that_have_its_settings() {
        let mut checks = CheckSchedule::default();
        let (one, other) = (check(Some("/one")), check(Some("/other")));
        checks.follow([&one, &other, &one].into_iter());
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        checks.start_due(Instant::now(), |check| {
            let started = started.clone();
            async move { started.send(check).unwrap() }
        });
        drop(started);
        let mut made = Vec::new();
        while let Some(check) = starts.recv().await {
            made.push(check);
        }
        made.sort_by_key(|check| *check != one);
        assert_eq!(made, [one, other]);
    }

    /// The other end of what a check that is under way holds.
    fn hang(checks: &mut CheckSchedule) -> oneshot::Receiver<()> {
        let (held, gone) = oneshot::channel::<()>();
        start(checks, async move {
            pending::<()>().await;
            drop(held);
        });
        gone
    }

    #[tokio::test]
    async fn check_with_other_settings_starts_at_once_and_ends_the_one_under_way() {
        let mut checks = CheckSchedule::default();
        let now = Instant::now();
        checks.follow([&check(None)].into_iter());
        assert_eq!(next(&mut checks, now), Some(check(None)));
        let gone = hang(&mut checks);
        checks.follow([&check(None)].into_iter());
        assert!(next(&mut checks, now).is_none());
        checks.follow([&check(Some("/up"))].into_iter());
        assert!(gone.await.is_err());
        assert_eq!(next(&mut checks, now), Some(check(Some("/up"))));

        let gone = hang(&mut checks);
        checks.follow([].into_iter());
        assert!(gone.await.is_err());
        checks.follow([].into_iter());
        assert!(next(&mut checks, now + Duration::from_secs(60)).is_none());

        checks.follow([&check(None)].into_iter());
        let gone = hang(&mut checks);
        drop(checks);
        assert!(gone.await.is_err());
    }
}
