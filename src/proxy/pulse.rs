//! What is done from time to time, whatever comes in.

use super::admin::Admin;
use super::budget;
use super::running::Running;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

const SECOND: Duration = Duration::from_secs(1);

/// One that does not make up for what it has missed.
fn every(time: Duration) -> Interval {
    let mut interval = interval(time);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Keeps budgets, judges, and keeps the operator's books.
pub(super) async fn beat(running: Arc<Running>, admin: Option<Arc<Admin>>) -> Infallible {
    let (mut looks, mut seconds) = (every(budget::EVERY), every(SECOND));
    let common = &running.common;
    loop {
        tokio::select! {
            _ = looks.tick() => {
                let current = running.current();
                common.budgets.look(&current.config().budgets, &common.drain);
            }
            _ = seconds.tick() => {
                let current = running.current();
                current.router.probe_upstreams();
                common.judge.second(&current.router, &common.budgets);
                if let Some(admin) = &admin {
                    admin.second();
                }
            }
        }
    }
}
