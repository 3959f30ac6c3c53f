//! Warnings about limits of this system that are below the config.

use super::files_for_streams;
use crate::cgroup::memory_limit;
use crate::config::{Budget, Config};
use crate::fd_limit;

/// Raises the limit of open files, and returns the warnings about what stays below the config.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let files = match fd_limit::raise() {
        Ok(files) => too_few_files(config, files),
        Err(error) => Some(format!("the limit of open files cannot be raised: {error}")),
    };
    files
        .into_iter()
        .chain(unreachable_budgets(config))
        .collect()
}

/// Warnings about budgets that cannot be reached because a limit of the system is lower.
fn unreachable_budgets(config: &Config) -> Vec<String> {
    let budgets = &config.budgets;
    let memory = beyond(budgets.memory, memory_limit()).map(|(budget, limit)| {
        format!(
            "memory.budget {} MiB is above the container's limit of {} MiB: the kernel ends the process \
             before the budget takes effect; lower it, or leave it out to use the container's limit",
            budget >> 20,
            limit >> 20
        )
    });
    let files = beyond(budgets.files, fd_limit::soft_limit()).map(|(budget, limit)| {
        format!(
            "files.budget {budget} is above the process's limit of {limit} open files: connections fail \
             before the budget takes effect; lower it, or raise the limit (ulimit -Hn, LimitNOFILE=)"
        )
    });
    memory.into_iter().chain(files).collect()
}

/// A budget above its limit, and that.
fn beyond(budget: Budget, limit: Option<u64>) -> Option<(u64, u64)> {
    match (budget, limit) {
        (Budget::Of(budget), Some(limit)) if budget > limit => Some((budget, limit)),
        _ => None,
    }
}

/// The warning if the config allows more streams than this many files are enough for.
fn too_few_files(config: &Config, limit: u64) -> Option<String> {
    let (own, shared): (Vec<_>, Vec<_>) = config
        .routes
        .iter()
        .partition(|route| route.own_counts.total);
    let of_routes = own.iter().map(|route| route.settings.limit.total);
    let shared = (!shared.is_empty()).then_some(config.limit.total);
    // Without a limit there is nothing to compare with.
    let streams: u64 = of_routes
        .chain(shared)
        .map(|total| total.map(|n| u64::from(n.get())))
        .sum::<Option<_>>()?;
    let files = match config.budgets.files {
        Budget::Of(budget) => budget.min(limit),
        Budget::Auto | Budget::Off => limit,
    };
    let room = files_for_streams(files) / 2;
    (streams > room).then(|| {
        let of_all = if own.is_empty() {
            ""
        } else {
            " in the sum of its routes"
        };
        format!(
            "limit.total{of_all} allows {streams} streams, but {files} open files are enough for \
             {room}: a stream takes two files, and a tenth of all is reserved for other \
             connections; raise the limit (ulimit -Hn, LimitNOFILE=, files.budget), or lower \
             limit.total"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_file;

    fn warning(text: &str, files: u64) -> Option<String> {
        let text = format!("upstream.url = 'http://app'\n{text}");
        too_few_files(&from_file(&text).unwrap().config, files)
    }

    #[test]
    fn warning_counts_two_files_for_each_allowed_stream() {
        assert_eq!(warning("limit.total = 460", 1024), None);
        let text = warning("limit.total = 461", 1024).unwrap();
        let told = "limit.total allows 461 streams, but 1024 open files are enough for 460:";
        assert!(text.starts_with(told), "{text}");
    }

    #[test]
    fn warning_counts_the_budget_where_it_is_below_the_limit() {
        let text = "limit.total = 100\nfiles.budget = ";
        assert!(warning(&format!("{text}200"), 1024).is_some());
        assert_eq!(warning(&format!("{text}300"), 1024), None);
        assert!(warning(&format!("{text}300"), 200).is_some());
        assert_eq!(warning(&format!("{text}'off'"), 300), None);
    }

    #[test]
    fn warning_adds_up_routes_with_limits_of_their_own() {
        let routes = "[[route]]\npath = '/a'\nlimit.total = 100\n[[route]]\npath = '/b'";
        let text = format!("limit.total = 100\n{routes}");
        assert_eq!(warning(&text, 450), None);
        assert!(warning(&text, 440).is_some());
        let warning = warning(&text, 400).unwrap();
        let sum = "limit.total in the sum of its routes allows 200 streams,";
        assert!(warning.starts_with(sum), "{warning}");
    }

    #[test]
    fn warning_adds_nothing_for_a_route_with_another_limit_of_its_own() {
        let route = "[[route]]\npath = '/a'\nlimit";
        for key in ["retry_after = '1s'", "per_ip = 5", "rate = '1/s'"] {
            let text = format!("limit.total = 100\n{route}.{key}");
            assert_eq!(warning(&text, 230), None, "{key}");
        }
    }

    #[test]
    fn warning_is_not_given_without_a_limit() {
        assert_eq!(warning("limit.total = 'off'", 64), None);
    }
}
