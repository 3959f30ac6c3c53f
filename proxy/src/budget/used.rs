//! Memory and open files of the process or its container, and their limits. Available on Linux only.

use crate::config::Budget;
use crate::files;
use std::fs;
use std::path::{Path, PathBuf};

/// Usage and budget of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) used: u64,
    pub(crate) budget: u64,
    /// Part of the budget that is reserved for bursts between two measurements.
    pub(crate) reserve: u64,
}

impl Used {
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
            reserve: files::kept(budget),
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

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Reads usage and limits of this process.
#[derive(Debug)]
pub(super) struct Meter {
    /// Control groups (version 2) that have a limit of memory, the own one and those around it.
    groups: Vec<PathBuf>,
}

impl Meter {
    pub(super) fn new() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self {
            groups: limited(Path::new(CONTROL_GROUPS), &own),
        }
    }

    /// Nothing without a budget, or if it is unknown.
    pub(super) fn memory(&self, budget: Budget) -> Option<Used> {
        match budget {
            Budget::Off => None,
            Budget::Of(budget) => {
                let status = fs::read_to_string("/proc/self/status").ok()?;
                let used = field(&status, "VmRSS:")? * 1024;
                Some(Used::memory(used, budget))
            }
            Budget::Auto => {
                let groups = self.groups.iter().filter_map(|group| group_memory(group));
                groups.max_by(|a, b| a.share().total_cmp(&b.share()))
            }
        }
    }

    #[expect(clippy::unused_self, reason = "both are read the same way")]
    pub(super) fn files(&self, budget: Budget) -> Option<Used> {
        let budget = match budget {
            Budget::Off => return None,
            Budget::Of(budget) => budget,
            Budget::Auto => files_limit()?,
        };
        let used = open_files(Path::new("/proc/self/fd"))?;
        Some(Used::files(used, budget))
    }
}

/// The memory that this process may take: the least of what the control groups around it may.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = Meter::new().groups;
    groups.iter().filter_map(|group| limit(group)).min()
}

/// How many files this process may open.
pub(crate) fn files_limit() -> Option<u64> {
    rlimit::Resource::NOFILE.get_soft().ok()
}

/// Linux 6.2 and later report the number as the size of the directory; before, the entries must be counted.
fn open_files(directory: &Path) -> Option<u64> {
    match fs::metadata(directory).ok()?.len() {
        0 => u64::try_from(fs::read_dir(directory).ok()?.count()).ok(),
        files => Some(files),
    }
}

/// `own` is `/proc/self/cgroup`.
fn limited(root: &Path, own: &str) -> Vec<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some(own) = own.map(|own| root.join(own)) else {
        return Vec::new();
    };
    let around = own.ancestors().take_while(|group| group.starts_with(root));
    around
        .filter(|group| limit(group).is_some())
        .map(Path::to_owned)
        .collect()
}

fn limit(group: &Path) -> Option<u64> {
    // `max` is not a number.
    fs::read_to_string(group.join("memory.max"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Memory that cannot be reclaimed at once: the working set, as Kubernetes counts it.
fn group_memory(group: &Path) -> Option<Used> {
    let current: u64 = fs::read_to_string(group.join("memory.current"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let used = current.saturating_sub(field(&stat, "inactive_file")?);
    Some(Used::memory(used, limit(group)?))
}

/// The number behind this word at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| {
        let is_it = words.next() == Some(name);
        words.next().filter(|_| is_it)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn group(path: &Path, max: &str, current: u64, inactive: u64) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("memory.max"), format!("{max}\n")).unwrap();
        fs::write(path.join("memory.current"), format!("{current}\n")).unwrap();
        let stat = format!("anon 1\ninactive_file {inactive}\nactive_file 7\n");
        fs::write(path.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_process_tells_what_it_takes() {
        let meter = Meter::new();
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
    fn a_directory_that_has_no_size_is_counted() {
        let own = Path::new("/proc/self/fd");
        assert!(open_files(own).unwrap() >= 3);
        assert_eq!(open_files(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn shares_are_of_what_may_be_used() {
        let used = Used {
            used: 240,
            budget: 256,
            reserve: 16,
        };
        assert!((used.share() - 1.0).abs() < f64::EPSILON);
        assert_eq!(used.at(0.95), 228);
    }

    #[test]
    fn of_the_groups_around_the_tightest_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        group(root, "max", 9_000, 0);
        group(&root.join("pod"), "1000", 900, 300);
        group(&root.join("pod/app"), "500", 250, 50);
        group(&root.join("pod/app/free"), "max", 1, 0);
        let meter = Meter {
            groups: limited(root, "1:cpu:/x\n0::/pod/app/free\n"),
        };
        assert_eq!(meter.groups.len(), 2);
        let used = meter.memory(Budget::Auto).unwrap();
        assert_eq!((used.used, used.budget), (600, 1000));
        fs::write(root.join("pod/app/memory.current"), "500").unwrap();
        let used = meter.memory(Budget::Auto).unwrap();
        assert_eq!((used.used, used.budget), (450, 500));
    }

    #[test]
    fn what_comes_and_goes_in_a_burst_has_room_of_its_own() {
        for (mib, reserve) in [(8, 2), (64, 16), (96, 24), (4_096, 24)] {
            let full = Used::memory((mib - reserve) * MIB, mib * MIB);
            assert_eq!(full.reserve, reserve * MIB);
            assert!((full.share() - 1.0).abs() < 1e-9, "{full:?}");
        }
    }

    #[test]
    fn without_a_limit_there_is_no_budget() {
        let dir = tempfile::tempdir().unwrap();
        group(dir.path(), "max", 9_000, 0);
        for own in ["0::/", "0::/../elsewhere", "4:memory:/v1", ""] {
            assert!(limited(dir.path(), own).is_empty(), "{own}");
        }
    }
}
