//! Periodic maintenance.

use super::admin::Admin;
use super::memory;
use super::state::ProxyState;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

const SECOND: Duration = Duration::from_secs(1);

/// Runs budgets, health checks and the history.
pub(super) async fn run(state: Arc<ProxyState>, admin: Option<Arc<Admin>>) -> Infallible {
    let mut seconds = interval(SECOND);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = Instant::now();
    let carryover = &state.carryover;
    loop {
        tokio::select! {
            () = sleep_until(look) => {
                let active = state.active();
                let config = active.config();
                let holders = carryover.holders(config.limit.ipv6_prefix);
                let again = carryover.budgets.update(&config.budgets, holders);
                if carryover.budgets.is_short() {
                    active.router.endpoints().close_idle_connections();
                }
                look = Instant::now() + again;
            }
            _ = seconds.tick() => {
                let active = state.active();
                active.router.endpoints().probe();
                state.health.update(&active.router, &carryover.budgets);
                if let Some(admin) = &admin {
                    admin.second();
                }
                memory::collect();
            }
        }
    }
}
