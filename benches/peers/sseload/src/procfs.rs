//! What `/proc` tells about the process under load and about its sockets.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Sub;

/// Ticks per second of the times in `/proc/PID/stat`: fixed at 100 for user space on Linux.
const TICKS: f64 = 100.0;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Parent process.
    pub ppid: u32,
    /// User and system time, of the process itself and of children it has waited for, in ticks.
    pub ticks: u64,
}

/// Parses `/proc/PID/stat`. The second field is the command's name in parentheses, with any bytes.
pub fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let field: Vec<&str> = rest.split_ascii_whitespace().collect();
    // `field[0]` is field 3 of proc(5).
    let ticks = [11, 12, 13, 14].iter().map(|i| field.get(*i)?.parse::<u64>().ok()).sum::<Option<u64>>()?;
    Some(Stat { ppid: field.get(1)?.parse().ok()?, ticks })
}

/// Memory of a process tree in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident, pages shared between processes counted in each.
    pub rss: i64,
    /// Resident, shared pages divided among the processes that share them.
    pub pss: i64,
}

impl Sub for Memory {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { rss: self.rss - other.rss, pss: self.pss - other.pss }
    }
}

/// Parses `/proc/PID/smaps_rollup`.
pub fn parse_smaps_rollup(text: &str) -> Option<Memory> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()
    };
    Some(Memory { rss: kib("Rss:")? << 10, pss: kib("Pss:")? << 10 })
}

/// A process and all its descendants, looked up anew at every question.
#[derive(Debug, Clone, Copy)]
pub struct Tree(pub u32);

impl Tree {
    fn stats(self) -> Result<HashMap<u32, Stat>> {
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc").context("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            // A process may end between the listing and the reading.
            if let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|t| parse_stat(&t)) {
                all.insert(pid, stat);
            }
        }
        let mut tree = HashMap::new();
        let mut queue = vec![self.0];
        while let Some(pid) = queue.pop() {
            if let Some(stat) = all.get(&pid)
                && tree.insert(pid, *stat).is_none()
            {
                queue.extend(all.iter().filter(|(_, s)| s.ppid == pid).map(|(p, _)| *p));
            }
        }
        anyhow::ensure!(!tree.is_empty(), "no process {}", self.0);
        Ok(tree)
    }

    /// CPU time used so far in seconds, to 10 ms per process.
    pub fn cpu(self) -> Result<f64> {
        Ok(self.stats()?.values().map(|s| s.ticks).sum::<u64>() as f64 / TICKS)
    }

    /// Memory now.
    pub fn memory(self) -> Result<Memory> {
        let mut sum = Memory::default();
        for pid in self.stats()?.keys() {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
            if let Some(m) = text.ok().and_then(|t| parse_smaps_rollup(&t)) {
                sum.rss += m.rss;
                sum.pss += m.pss;
            }
        }
        Ok(sum)
    }

    /// Open files now.
    pub fn fds(self) -> Result<usize> {
        Ok(self
            .stats()?
            .keys()
            .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
            .map(Iterator::count)
            .sum())
    }
}

/// CPU time of the whole machine so far that was not idle, in seconds, from the first line of
/// `/proc/stat`; time that the host took away counts, since it was lacking here.
pub fn parse_busy(text: &str) -> Option<f64> {
    let mut field = text.lines().next()?.split_ascii_whitespace();
    (field.next()? == "cpu").then_some(())?;
    let ticks: Vec<u64> = field.map_while(|f| f.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().map(|i| ticks.get(*i)).sum::<Option<u64>>()?;
    Some(busy as f64 / TICKS)
}

/// [`parse_busy`] now.
pub fn machine_busy() -> Result<f64> {
    parse_busy(&fs::read_to_string("/proc/stat").context("/proc/stat")?).context("/proc/stat")
}

/// State number of an established connection in `/proc/net/tcp`.
pub const ESTABLISHED: u8 = 1;

/// One socket of `/proc/net/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Own address.
    pub local: SocketAddrV4,
    /// The peer's address.
    pub remote: SocketAddrV4,
    /// State by the kernel's numbers.
    pub state: u8,
    /// Bytes sent or waiting to be sent that the peer has not acknowledged.
    pub send_queue: u64,
    /// Bytes received that the process has not read.
    pub receive_queue: u64,
}

/// Parses one line of `/proc/net/tcp`; `None` for the heading.
pub fn parse_socket(line: &str) -> Option<Socket> {
    fn addr(text: &str) -> Option<SocketAddrV4> {
        let (ip, port) = text.split_once(':')?;
        // The address is in memory order, printed as a number of the machine's own byte order.
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
        Some(SocketAddrV4::new(ip, u16::from_str_radix(port, 16).ok()?))
    }
    let mut field = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (addr(field.next()?)?, addr(field.next()?)?);
    let state = u8::from_str_radix(field.next()?, 16).ok()?;
    let (send_queue, receive_queue) = field.next()?.split_once(':')?;
    let queue = |text| u64::from_str_radix(text, 16).ok();
    Some(Socket { local, remote, state, send_queue: queue(send_queue)?, receive_queue: queue(receive_queue)? })
}

/// All IPv4 TCP sockets of this network namespace.
pub fn sockets() -> Result<Vec<Socket>> {
    let text = fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    Ok(text.lines().filter_map(parse_socket).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name() {
        let text = "12 (a) b) (c) S 7 12 12 0 -1 4194304 100 200 0 0 11 22 33 44 20 0 1 0 99 1 1";
        assert_eq!(parse_stat(text), Some(Stat { ppid: 7, ticks: 110 }));
        assert_eq!(parse_stat("12 (x) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn smaps_rollup() {
        let text = "5600-7ff0 ---p 00000000 00:00 0    [rollup]\nRss:       1740 kB\nPss:        304 kB\nPss_Dirty:   112 kB\n";
        assert_eq!(parse_smaps_rollup(text), Some(Memory { rss: 1740 << 10, pss: 304 << 10 }));
        assert_eq!(parse_smaps_rollup(""), None);
    }

    #[test]
    fn tcp_table() {
        let line = "   3: 0100007F:1F90 0200007F:C001 04 00001000:00000010 01:00000019 00000000     0        0 12345 2";
        let socket = parse_socket(line).unwrap();
        assert_eq!(socket.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(socket.remote, "127.0.0.2:49153".parse().unwrap());
        assert_eq!((socket.state, socket.send_queue, socket.receive_queue), (4, 4096, 16));
        assert_eq!(parse_socket("  sl  local_address rem_address   st tx_queue"), None);
    }

    #[test]
    fn busy_time() {
        assert_eq!(parse_busy("cpu  100 20 30 4000 500 6 7 8 90 1\ncpu0 1 1 1 1 1 1 1 1 1 1\n"), Some(1.71));
        assert_eq!(parse_busy("cpu 1 2 3"), None);
        assert_eq!(parse_busy(""), None);
        assert!(machine_busy().unwrap() > 0.0);
    }

    #[test]
    fn this_process_has_memory_files_and_time() {
        let me = Tree(std::process::id());
        assert!(me.memory().unwrap().rss > 0);
        assert!(me.fds().unwrap() > 2);
        assert!(me.cpu().unwrap() >= 0.0);
        assert!(Tree(u32::MAX).cpu().is_err());
    }
}
