//! The task that grants turns when their time comes. It runs only while a stream waits for time to pass.

use super::AdmissionState;
use crate::lock::lock;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

#[derive(Debug, Default)]
pub(super) struct GrantTimer {
    task: Mutex<TimerTask>,
    /// Its deadline has become earlier.
    deadline_moved: Notify,
}

#[derive(Debug, Default)]
struct TimerTask {
    is_running: bool,
    deadline: Option<Instant>,
}

impl GrantTimer {
    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        lock(&self.task).is_running
    }
}

impl AdmissionState {
    /// Grants turns at this time, or before.
    pub(super) fn wake_timer_at(self: &Arc<Self>, at: Instant) {
        let mut task = lock(&self.timer.task);
        if task.is_running {
            if task.deadline.is_none_or(|deadline| at < deadline) {
                task.deadline = Some(at);
                self.timer.deadline_moved.notify_one();
            }
            return;
        }
        // Without a runtime no stream waits either.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        task.is_running = true;
        task.deadline = Some(at);
        drop(task);
        runtime.spawn(run(TimerGuard {
            admission: self.clone(),
            has_stopped: false,
        }));
    }
}

/// Marks the task as stopped if its runtime shuts down before it ends.
struct TimerGuard {
    admission: Arc<AdmissionState>,
    has_stopped: bool,
}

impl Drop for TimerGuard {
    fn drop(&mut self) {
        if !self.has_stopped {
            *lock(&self.admission.timer.task) = TimerTask::default();
        }
    }
}

async fn run(mut guard: TimerGuard) {
    let admission = guard.admission.clone();
    let timer = &admission.timer;
    loop {
        let deadline = lock(&timer.task).deadline;
        // It is set while this runs.
        let at = deadline.unwrap_or_else(Instant::now);
        if timeout_at(at, timer.deadline_moved.notified())
            .await
            .is_ok()
        {
            continue;
        }
        let mut queue = lock(&admission.queue);
        let (grants, next_at) = queue.grants(Instant::now());
        // Still under the queue's lock: its next change finds the task either running or stopped.
        let mut task = lock(&timer.task);
        task.deadline = next_at;
        task.is_running = next_at.is_some();
        guard.has_stopped = !task.is_running;
        drop((task, queue));
        admission.send_grants(grants);
        if guard.has_stopped {
            return;
        }
    }
}
