//! Control groups (version 2) of Linux: the memory that this process and those around it may take.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// The control groups that have a limit of memory: the own one and those around it.
#[derive(Debug)]
pub(super) struct LimitedGroups(Vec<PathBuf>);

/// What a group takes of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupMemory {
    pub(super) used: u64,
    pub(super) limit: u64,
}

impl LimitedGroups {
    /// Those of this process.
    pub(super) fn own() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::below(Path::new(ROOT), &own)
    }

    /// `own` is `/proc/self/cgroup`.
    fn below(root: &Path, own: &str) -> Self {
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let Some(own) = own.map(|own| root.join(own)) else {
            return Self(Vec::new());
        };
        let around = own.ancestors().take_while(|group| group.starts_with(root));
        let limited = around.filter(|group| limit(group).is_some());
        Self(limited.map(Path::to_owned).collect())
    }

    pub(super) fn memory(&self) -> impl Iterator<Item = GroupMemory> {
        self.0.iter().filter_map(|group| group_memory(group))
    }
}

/// The memory that this process may take: the lowest limit of the control groups around it.
pub(super) fn memory_limit() -> Option<u64> {
    let LimitedGroups(groups) = LimitedGroups::own();
    groups.iter().filter_map(|group| limit(group)).min()
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
fn group_memory(group: &Path) -> Option<GroupMemory> {
    let current: u64 = fs::read_to_string(group.join("memory.current"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let used = current.saturating_sub(field(&stat, "inactive_file")?);
    let limit = limit(group)?;
    Some(GroupMemory { used, limit })
}

/// The number behind this word at the beginning of a line.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| {
        let is_it = words.next() == Some(name);
        words.next().filter(|_| is_it)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &Path, max: &str, current: u64, inactive: u64) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("memory.max"), format!("{max}\n")).unwrap();
        fs::write(path.join("memory.current"), format!("{current}\n")).unwrap();
        let stat = format!("anon 1\ninactive_file {inactive}\nactive_file 7\n");
        fs::write(path.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn groups_are_those_with_a_limit_from_the_own_one_outward() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        group(root, "max", 9_000, 0);
        group(&root.join("pod"), "1000", 900, 300);
        group(&root.join("pod/app"), "500", 250, 50);
        group(&root.join("pod/app/free"), "max", 1, 0);
        let groups = LimitedGroups::below(root, "1:cpu:/x\n0::/pod/app/free\n");
        let memory = |used, limit| GroupMemory { used, limit };
        let all: Vec<_> = groups.memory().collect();
        assert_eq!(all, [memory(200, 500), memory(600, 1000)]);
        fs::write(root.join("pod/app/memory.current"), "500").unwrap();
        assert_eq!(groups.memory().next(), Some(memory(450, 500)));
    }

    #[test]
    fn groups_without_a_limit_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        group(dir.path(), "max", 9_000, 0);
        for own in ["0::/", "0::/../elsewhere", "4:memory:/v1", ""] {
            assert!(LimitedGroups::below(dir.path(), own).0.is_empty(), "{own}");
        }
    }
}
