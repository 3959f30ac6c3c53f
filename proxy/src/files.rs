//! Open files: a stream takes two, its client's socket and its upstream's.

use super::budget;
use super::config::{Budget, Config};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Files that are reserved for the admin address, if the limit allows it, so that health and metrics are
/// served when clients have taken all others.
const KEPT: u64 = 16;
/// But no more than this part of all.
const KEPT_PART: u64 = 8;

/// No file for a client or an upstream has this number or a greater one: the kernel gives out the lowest
/// that is free, so that a greater one means that all lower ones are taken.
static FIRST_KEPT: AtomicU64 = AtomicU64::new(u64::MAX);

/// From now on some files are kept for the admin address.
pub(super) fn keep_some() {
    if let Ok(limit) = rlimit::Resource::NOFILE.get_soft() {
        FIRST_KEPT.store(limit - KEPT.min(limit / KEPT_PART), Relaxed);
    }
}

/// How many of these files are kept.
pub(super) fn kept(files: u64) -> u64 {
    // As many as there are below the first that is kept.
    files.saturating_sub(FIRST_KEPT.load(Relaxed))
}

/// How many connections the admin address may hold: a part of the files.
pub(super) fn for_admin(most: usize) -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    let part = usize::try_from(limit / KEPT_PART).unwrap_or(usize::MAX);
    most.min(part.max(1))
}

/// Whether there is a file for another connection, beside those that are kept.
pub(super) fn has_room() -> bool {
    let first_kept = FIRST_KEPT.load(Relaxed);
    if first_kept == u64::MAX {
        return true;
    }
    let next = File::open("/dev/null").map(|file| file.as_raw_fd());
    next.is_ok_and(|next| u64::try_from(next).is_ok_and(|next| next < first_kept))
}

/// Raises the limit as far as this process may. The sentence that warns of it, if the config allows
/// more streams than that is room for.
pub(super) fn raise_limit(config: &Config) -> Option<String> {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => too_few(config, files),
        Err(error) => Some(format!("the limit of open files cannot be raised: {error}")),
    }
}

fn too_few(config: &Config, limit: u64) -> Option<String> {
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
    let room = budget::files_for_streams(files) / 2;
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
    use super::super::config::from_file;
    use super::*;

    fn warning(text: &str, files: u64) -> Option<String> {
        let text = format!("upstream.url = 'http://app'\n{text}");
        too_few(&from_file(&text).unwrap().config, files)
    }

    #[test]
    fn two_files_for_each_stream_that_is_allowed() {
        assert_eq!(warning("limit.total = 460", 1024), None);
        let text = warning("limit.total = 461", 1024).unwrap();
        let told = "limit.total allows 461 streams, but 1024 open files are enough for 460:";
        assert!(text.starts_with(told), "{text}");
    }

    #[test]
    fn a_budget_below_the_limit_is_what_counts() {
        let text = "limit.total = 100\nfiles.budget = ";
        assert!(warning(&format!("{text}200"), 1024).is_some());
        assert_eq!(warning(&format!("{text}300"), 1024), None);
        assert!(warning(&format!("{text}300"), 200).is_some());
        assert_eq!(warning(&format!("{text}'off'"), 300), None);
    }

    #[test]
    fn routes_with_limits_of_their_own_add_up() {
        let routes = "[[route]]\npath = '/a'\nlimit.total = 100\n[[route]]\npath = '/b'";
        let text = format!("limit.total = 100\n{routes}");
        assert_eq!(warning(&text, 450), None);
        assert!(warning(&text, 440).is_some());
        let warning = warning(&text, 400).unwrap();
        let sum = "limit.total in the sum of its routes allows 200 streams,";
        assert!(warning.starts_with(sum), "{warning}");
    }

    #[test]
    fn a_route_with_another_limit_of_its_own_adds_nothing() {
        let route = "[[route]]\npath = '/a'\nlimit";
        for key in ["retry_after = '1s'", "per_ip = 5", "rate = '1/s'"] {
            let text = format!("limit.total = 100\n{route}.{key}");
            assert_eq!(warning(&text, 230), None, "{key}");
        }
    }

    #[test]
    fn no_limit_is_no_promise() {
        assert_eq!(warning("limit.total = 'off'", 64), None);
    }
}
