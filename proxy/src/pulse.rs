//! Periodic maintenance.

use super::admin::Admin;
use super::memory;
use super::running::Running;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

const SECOND: Duration = Duration::from_secs(1);

/// Runs budgets, health checks and the history.
pub(super) async fn beat(running: Arc<Running>, admin: Option<Arc<Admin>>) -> Infallible {
    let mut seconds = interval(SECOND);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = Instant::now();
    let common = &running.common;
    loop {
        tokio::select! {
            () = sleep_until(look) => {
                let current = running.current();
                let config = current.config();
                let holders = common.holders(config.limit.ipv6_prefix);
                let again = common.budgets.look(&config.budgets, holders);
                if common.budgets.is_short() {
                    current.router.close_idle_upstream_connections();
                }
                look = Instant::now() + again;
            }
            _ = seconds.tick() => {
                let current = running.current();
                current.router.probe_upstreams();
                common.judge.second(&current.router, &common.budgets);
                if let Some(admin) = &admin {
                    admin.second();
                }
                memory::collect();
            }
        }
    }
}
