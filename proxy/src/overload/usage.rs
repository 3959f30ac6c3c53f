//! Memory and open files of the process or its container, and their limits. Available on Linux only.

use crate::cgroup::{GroupMemory, LimitedGroups, field};
use crate::config::Budget;
use crate::fd_limit;
use std::fs;
use std::path::Path;

/// Usage and budget of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: u64,
    pub(crate) budget: u64,
    /// Part of the budget that is reserved for bursts between two measurements.
    pub(crate) reserve: u64,
}

impl Usage {
    /// A thousand clients that connect at once take 20 MiB until they are streams, or are rejected.
    fn memory(used: u64, budget: u64) -> Self {
        Self {
            used,
            budget,
            reserve: (24 << 20).min(budget / 4),
        }
    }

    fn files(used: u64, budget: u64) -> Self {
        Self {
            used,
            budget,
            // No client gets these.
            reserve: fd_limit::kept(budget),
        }
    }

    /// Share of the budget without the reserve.
    #[expect(clippy::cast_precision_loss, reason = "a share is not exact anyway")]
    pub(crate) fn share(self) -> f64 {
        self.used as f64 / (self.budget - self.reserve).max(1) as f64
    }

    /// How much this share of it is.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is not exact anyway"
    )]
    pub(crate) fn at(self, share: f64) -> u64 {
        ((self.budget - self.reserve) as f64 * share) as u64
    }
}

/// Reads usage and limits of this process.
#[derive(Debug)]
pub(super) struct UsageMeter {
    groups: LimitedGroups,
}

impl UsageMeter {
    pub(super) fn new() -> Self {
        Self {
            groups: LimitedGroups::own(),
        }
    }

    /// Nothing without a budget, or if it is unknown.
    pub(super) fn memory(&self, budget: Budget) -> Option<Usage> {
        match budget {
            Budget::Off => None,
            Budget::Of(budget) => {
                let status = fs::read_to_string("/proc/self/status").ok()?;
                let used = field(&status, "VmRSS:")? * 1024;
                Some(Usage::memory(used, budget))
            }
            Budget::Auto => tightest(self.groups.memory()),
        }
    }

    #[expect(clippy::unused_self, reason = "both are read the same way")]
    pub(super) fn files(&self, budget: Budget) -> Option<Usage> {
        let budget = match budget {
            Budget::Off => return None,
            Budget::Of(budget) => budget,
            Budget::Auto => fd_limit::soft_limit()?,
        };
        let used = open_files(Path::new("/proc/self/fd"))?;
        Some(Usage::files(used, budget))
    }
}

/// The group that is closest to its limit.
fn tightest(groups: impl Iterator<Item = GroupMemory>) -> Option<Usage> {
    let usages = groups.map(|group| Usage::memory(group.used, group.limit));
    usages.max_by(|a, b| a.share().total_cmp(&b.share()))
}

/// Linux 6.2 and later report the number as the size of the directory; before, the entries must be counted.
fn open_files(directory: &Path) -> Option<u64> {
    match fs::metadata(directory).ok()?.len() {
        0 => u64::try_from(fs::read_dir(directory).ok()?.count()).ok(),
        files => Some(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn meter_reads_what_the_process_takes() {
        let meter = UsageMeter::new();
        let memory = meter.memory(Budget::Of(MIB)).unwrap();
        assert_eq!(memory.budget, MIB);
        assert!(memory.used > MIB / 4, "{memory:?}");
        let files = meter.files(Budget::Of(7)).unwrap();
        assert!(files.used >= 3 && files.budget == 7, "{files:?}");
        assert!(meter.files(Budget::Auto).unwrap().budget >= files.used);
        assert_eq!(meter.memory(Budget::Off), None);
        assert_eq!(meter.files(Budget::Off), None);
    }

    #[test]
    fn open_files_are_counted_where_the_directory_has_no_size() {
        let own = Path::new("/proc/self/fd");
        assert!(open_files(own).unwrap() >= 3);
        assert_eq!(open_files(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn usage_share_leaves_out_the_reserve() {
        let usage = Usage {
            used: 240,
            budget: 256,
            reserve: 16,
        };
        assert!((usage.share() - 1.0).abs() < f64::EPSILON);
        assert_eq!(usage.at(0.95), 228);
    }

    #[test]
    fn usage_is_that_of_the_tightest_group() {
        let group = |used, limit| GroupMemory { used, limit };
        let of = |groups: [_; 2]| {
            let usage = tightest(groups.into_iter()).unwrap();
            (usage.used, usage.budget)
        };
        assert_eq!(of([group(200, 500), group(600, 1000)]), (600, 1000));
        assert_eq!(of([group(450, 500), group(600, 1000)]), (450, 500));
    }

    #[test]
    fn usage_of_memory_has_a_reserve_for_bursts() {
        for (mib, reserve) in [(8, 2), (64, 16), (96, 24), (4_096, 24)] {
            let full = Usage::memory((mib - reserve) * MIB, mib * MIB);
            assert_eq!(full.reserve, reserve * MIB);
            assert!((full.share() - 1.0).abs() < 1e-9, "{full:?}");
        }
    }
}
