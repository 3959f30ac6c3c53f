//! Which server a run is aimed at.

use anyhow::{Context, Result, ensure};
use std::net::SocketAddrV4;
use std::str::FromStr;

/// A server under load, and the process to account for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name in reports.
    pub name: String,
    /// Where it listens: on loopback always, since times are compared across processes.
    pub addr: SocketAddrV4,
    /// Root of the process tree whose memory and CPU time are measured.
    pub pid: u32,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = || {
            let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty())?;
            let (addr, pid) = rest.split_once('@')?;
            Some(Self { name: name.to_owned(), addr: addr.parse().ok()?, pid: pid.parse().ok()? })
        };
        let target = parts().with_context(|| format!("{text}: want NAME=IP:PORT@PID"))?;
        ensure!(target.addr.ip().is_loopback(), "{text}: only loopback addresses (times are compared in one machine)");
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_a_name_an_address_and_a_process() {
        let target: Target = "a=127.0.0.1:80@77".parse().unwrap();
        assert_eq!((target.name.as_str(), target.addr.port(), target.pid), ("a", 80, 77));
        for bad in ["127.0.0.1:1@1", "=127.0.0.1:1@1", "a=127.0.0.1:1", "a=127.0.0.1@1", "a=192.0.2.1:80@1", "a=b@c"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
