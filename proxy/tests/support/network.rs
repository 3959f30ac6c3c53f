//! Three hosts of a network of their own: a client's, an upstream's, and the proxy's between them,
//! each link with a switch, so that the proxy sees no more of a death than it would in a rack.
//!
//! The kernel takes it all away with the last process in it, however that ends.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use super::support::tls::Authority;
use super::support::ways::Ways;
use super::support::{PATIENCE, Proxy, skipped};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Of a process that is in the network, not before it.
const INSIDE: &str = "SSE_GUARD_TEST_NETWORK";

/// Without privileges the first alone may do, in a container of root's the second.
const WAYS: [&[&str]; 2] = [&["--user", "--map-root-user", "--net"], &["--net"]];

/// All that a network takes, to see whether the kernel has it and allows it.
const TRIAL: &str = "ip link add trial type bridge && ip link add one type veth peer name other \
                     && unshare --net true && nsenter --net=/proc/$$/ns/net true";

/// Runs a closure of a test, again by a process of its own, in a network of its own; or says why it
/// cannot.
pub fn in_a_network<T: FnOnce(&Network)>(test: T) {
    if std::env::var_os(INSIDE).is_some() {
        return test(&Network::new());
    }
    // The harness knows the test by the same name, without the crate's.
    let name = std::any::type_name::<T>().trim_end_matches("::{{closure}}");
    let (_, name) = name.split_once("::").unwrap();
    let mut why = String::new();
    for way in WAYS {
        let tried = Command::new("unshare")
            .args(way)
            .args(["sh", "-c", TRIAL])
            .output();
        match tried {
            Ok(tried) if tried.status.success() => {
                let test = Command::new("unshare")
                    .args(way)
                    .arg(std::env::current_exe().unwrap())
                    .args(["--exact", name, "--nocapture"])
                    .env(INSIDE, "")
                    .output();
                return report(&test.unwrap());
            }
            Ok(tried) => why += &String::from_utf8_lossy(&tried.stderr),
            Err(error) => why += &format!("unshare: {error}\n"),
        }
    }
    skipped(&format!(
        "{name}: no network namespaces here: {}",
        why.trim()
    ));
}

fn report(test: &Output) {
    let out = String::from_utf8_lossy(&test.stdout);
    let err = String::from_utf8_lossy(&test.stderr);
    // A name that no test has would pass as well.
    assert!(
        test.status.success() && out.contains("1 passed"),
        "{out}\n{err}"
    );
}

/// One of the two links of the proxy.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Client,
    Upstream,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }

    /// Addresses that are kept for documents: nothing here is to reach anything else.
    fn subnet(self) -> &'static str {
        match self {
            Self::Client => "192.0.2",
            Self::Upstream => "198.51.100",
        }
    }
}

/// Where nobody is but what is sent there.
struct Host(Child);

impl Host {
    fn new() -> Self {
        let mut cat = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cat.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        // What comes back has been where it was to go.
        let mut echo = [0];
        cat.stdout.as_mut().unwrap().read_exact(&mut echo).unwrap();
        Self(cat)
    }

    /// The file that stands for its network.
    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The client and the upstream are both of this process, on different links.
pub struct Network {
    proxy: Host,
    switch: Host,
}

impl Network {
    fn new() -> Self {
        let network = Self {
            proxy: Host::new(),
            switch: Host::new(),
        };
        for side in [Side::Client, Side::Upstream] {
            let (name, subnet) = (side.name(), side.subnet());
            let (proxy, switch) = (network.proxy.0.id(), network.switch.0.id());
            run(&format!(
                "ip link add {name} type veth peer name peer-{name} netns {switch}
                 at_proxy='nsenter --net=/proc/{proxy}/ns/net ip'
                 at_switch='nsenter --net=/proc/{switch}/ns/net ip'
                 $at_switch link add proxy-{name} type veth peer name {name} netns {proxy}
                 $at_switch link add {name} type bridge
                 for link in {name} peer-{name} proxy-{name}; do
                     $at_switch link set $link up
                 done
                 $at_switch link set peer-{name} master {name}
                 $at_switch link set proxy-{name} master {name}
                 $at_proxy addr add {subnet}.1/24 dev {name}
                 $at_proxy link set {name} up
                 ip addr add {subnet}.2/24 dev {name}
                 ip link set {name} up",
            ));
        }
        network
    }

    /// From now on nothing comes from this side and nothing gets there, and no host is told.
    pub fn cut(&self, side: Side) {
        self.wire(side, "nomaster");
    }

    pub fn mend(&self, side: Side) {
        self.wire(side, &format!("master {}", side.name()));
    }

    fn wire(&self, side: Side, how: &str) {
        let (switch, name) = (self.switch.file(), side.name());
        run(&format!(
            "nsenter --net={switch} ip link set peer-{name} {how}"
        ));
    }

    pub fn upstream(&self) -> String {
        format!("{}.2:0", Side::Upstream.subnet())
    }

    pub fn proxy(&self, origin: SocketAddr, flags: &[&str]) -> Proxy {
        self.proxy_to(&format!("http://{origin}"), flags)
    }

    /// A proxy with a listener for each way to connect.
    pub fn ways(&self, origin: SocketAddr, flags: &[&str]) -> Ways {
        let address = format!("{}.1:0", Side::Client.subnet());
        let (authority, url) = (Authority::new("test CA"), format!("http://{origin}"));
        Ways::with(authority, &address, &url, flags, |arguments| {
            Proxy::in_network_with(&self.proxy.file(), arguments)
        })
    }

    pub fn proxy_to(&self, url: &str, flags: &[&str]) -> Proxy {
        let upstream = format!("--upstream-url={url}");
        let address = format!("{}.1:0", Side::Client.subnet());
        let flags = [&[upstream.as_str()], flags].concat();
        Proxy::in_network(&self.proxy.file(), &address, &flags)
    }
}

fn run(script: &str) {
    let ran = Command::new("sh").args(["-ec", script]).output().unwrap();
    let err = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{script}\n{err}");
}

/// What the kernel of a process does about a connection of which it has heard nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unheard {
    /// Bytes that were sent and not acknowledged.
    pub unacknowledged: u32,
    /// Times that the same bytes were sent again.
    pub repeats: u32,
    /// Questions that got no answer.
    pub questions: u32,
}

impl Unheard {
    /// Of the one connection to `to` on the host of this process.
    pub fn of(process: u32, to: SocketAddr) -> Self {
        let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
        let SocketAddr::V4(to) = to else {
            panic!("{to} is not of a network of ours")
        };
        // In the order of the machine's bytes, which those of the network are read as.
        let address = u32::from_ne_bytes(to.ip().octets());
        let to = format!("{address:08X}:{:04X}", to.port());
        let mut rows = table
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row[2] == to);
        let row = rows.next().unwrap();
        assert!(rows.next().is_none(), "two connections to {to}");
        let (unacknowledged, _) = row[4].split_once(':').unwrap();
        Self {
            unacknowledged: u32::from_str_radix(unacknowledged, 16).unwrap(),
            repeats: u32::from_str_radix(row[6], 16).unwrap(),
            questions: row[8].parse().unwrap(),
        }
    }

    #[track_caller]
    pub fn wait(process: u32, to: SocketAddr, what: &str, holds: impl Fn(Self) -> bool) {
        let start = Instant::now();
        while !holds(Self::of(process, to)) {
            assert!(start.elapsed() < PATIENCE, "never came: {what}");
            // The kernel looks through all that it could have for each answer.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
