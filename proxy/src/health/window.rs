//! Counts of the last minute, and of the time before as a baseline.

use sse_guard::metrics::Snapshot;
use std::collections::VecDeque;

/// Seconds between two points of the last minute.
const STEP: u64 = 5;
/// Points that make a minute.
const STEPS: usize = 12;
/// Seconds between two points of the baseline.
const LONG_STEP: u64 = 60;
/// Points of the baseline: with the window, a quarter of an hour.
const LONG_STEPS: usize = 14;
/// A shorter baseline, in seconds, does not count.
const MIN_BASELINE: u64 = 300;

/// The sums at one second.
#[derive(Clone, Debug)]
struct Sample {
    second: u64,
    /// Sum of the streams of each second.
    stream_seconds: u64,
    /// Of those, the ones in which a stream had lost its upstream.
    lost_seconds: u64,
    numbers: Snapshot,
}

impl Sample {
    fn until(&self, later: &Self) -> WindowCounts {
        WindowCounts {
            seconds: later.second - self.second,
            stream_seconds: later.stream_seconds - self.stream_seconds,
            lost_seconds: later.lost_seconds - self.lost_seconds,
            numbers: later.numbers.since(&self.numbers),
        }
    }
}

/// Counts of a span of time.
#[derive(Clone, Debug, Default)]
pub(super) struct WindowCounts {
    pub(super) seconds: u64,
    /// How long all streams together were open.
    pub(super) stream_seconds: u64,
    /// How long all streams together had lost their upstream.
    pub(super) lost_seconds: u64,
    pub(super) numbers: Snapshot,
}

/// Counts per second.
#[derive(Debug, Default)]
pub(super) struct Window {
    now: Option<Sample>,
    minute: VecDeque<Sample>,
    baseline: VecDeque<Sample>,
}

impl Window {
    /// Notes the sums at the end of a second.
    pub(super) fn note(&mut self, numbers: Snapshot) {
        let (second, stream_seconds, lost_seconds) = self.now.as_ref().map_or((0, 0, 0), |now| {
            (
                now.second + 1,
                now.stream_seconds + numbers.active,
                now.lost_seconds + numbers.lost(),
            )
        });
        let sample = Sample {
            second,
            stream_seconds,
            lost_seconds,
            numbers,
        };
        if second.is_multiple_of(STEP) {
            self.minute.push_back(sample.clone());
        }
        if self.minute.len() > STEPS
            && let Some(sample) = self.minute.pop_front()
            && sample.second.is_multiple_of(LONG_STEP)
        {
            self.baseline.push_back(sample);
        }
        if self.baseline.len() > LONG_STEPS {
            self.baseline.pop_front();
        }
        self.now = Some(sample);
    }

    /// The last minute, or what there is of it.
    pub(super) fn last_minute(&self) -> WindowCounts {
        match (self.minute.front(), &self.now) {
            (Some(first), Some(now)) => first.until(now),
            _ => WindowCounts::default(),
        }
    }

    /// The quarter of an hour before that, if there is enough of it to compare with.
    pub(super) fn baseline(&self) -> Option<WindowCounts> {
        let baseline = self.baseline.front()?.until(self.minute.front()?);
        (baseline.seconds >= MIN_BASELINE).then_some(baseline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window_after(seconds: u64) -> Window {
        let mut window = Window::default();
        for second in 0..seconds {
            let mut numbers = Snapshot::default();
            (numbers.active, numbers.waiting, numbers.events) = (2, 1, second * 10);
            window.note(numbers);
        }
        window
    }

    #[test]
    fn window_has_the_last_minute() {
        assert_eq!(Window::default().last_minute().seconds, 0);
        for seconds in [2, 30, 61, 1_000, 5_000] {
            let window = window_after(seconds).last_minute();
            let lasts = (seconds - 1).min(60);
            assert!((lasts.saturating_sub(STEP)..=lasts).contains(&window.seconds));
            assert_eq!(window.numbers.events, window.seconds * 10);
            assert_eq!(window.stream_seconds, window.seconds * 2);
            assert_eq!(window.lost_seconds, window.seconds);
        }
    }

    #[test]
    fn baseline_ends_where_the_last_minute_begins() {
        assert!(window_after(MIN_BASELINE).baseline().is_none());
        let window = window_after(5_000);
        let (minute, baseline) = (window.last_minute(), window.baseline().unwrap());
        assert_eq!(baseline.numbers.events, baseline.seconds * 10);
        let all = minute.seconds + baseline.seconds;
        assert!((840..=900).contains(&all), "{all}");
    }
}
