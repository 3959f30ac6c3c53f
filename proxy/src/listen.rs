//! Listening sockets, and the handover of their addresses to the next process.
//!
//! An address belongs to one process, so that a second copy that is started by mistake fails. Once this
//! process drains, it shares the address (`SO_REUSEPORT`): the next one listens while this one still
//! serves. `takeover` changes this.
//!
//! On Linux the port stays exclusive until the flag is set on the listening socket; a process of another
//! user never gets it. But in a port that was shared once, the kernel skips that check while any
//! connection of it lives. So there is a lock as well: an abstract Unix socket named by the address, which
//! lives in the same network namespace as the port, and goes with its process.

mod clients;
mod handshakes;
mod lock;
mod passed;
mod plan;
mod unix;
mod unspecified;

pub(super) use clients::ClientListener;
pub(super) use passed::{PassedError, assign};
pub(super) use plan::{Bound, Step, plan};

use super::config::Takeover;
use handshakes::drop_handshakes;
use lock::Lock;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, sleep};
use unspecified::{is_unspecified, with_fallback};

/// Clients that the kernel completes connections for ahead of us, or as many as it allows
/// (`net.core.somaxconn`). When a load balancer comes back all of its clients do, within
/// milliseconds; those beyond this try again a second later, as their kernels decide.
const BACKLOG: u32 = 65_535;

/// How long a start waits for the process before it to take its signal.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries in that time.
const HANDOVER_RETRY: Duration = Duration::from_millis(20);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{key} = \"{address}\": {error}{hint}")]
pub(super) struct ListenError {
    key: &'static str,
    address: String,
    error: io::Error,
    hint: String,
    /// Another sse-guard listens there, which may be about to stop.
    is_ours: bool,
}

/// A listening socket, and what is needed to hand its address over.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) handover: Handover,
}

/// Lets another process listen on the address of a [`Listener`].
#[derive(Debug, Default)]
pub(super) struct Handover {
    /// The same socket.
    socket: Option<socket2::Socket>,
    lock: Option<Lock>,
}

impl Listener {
    fn new(socket: TcpListener, lock: Option<Lock>) -> io::Result<Self> {
        let same = SockRef::from(&socket).try_clone()?;
        let handover = Handover {
            socket: Some(same),
            lock,
        };
        Ok(Self { socket, handover })
    }

    /// A socket of the service manager's, which keeps it open for the next process.
    pub(super) fn inherited(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            handover: Handover::default(),
        })
    }

    /// Whether another process serves the address too, as far as it can be detected.
    pub(super) fn is_taken_over(&self, takeover: Takeover) -> bool {
        let address = self.socket.local_addr();
        match takeover {
            _ if self.is_inherited() => false,
            Takeover::Off => false,
            Takeover::Drain => address.is_ok_and(|address| Lock::take(address).is_err()),
            // It leaves no trace.
            Takeover::Always => true,
        }
    }

    /// Whether the service manager keeps the socket, with the connections that wait in it.
    pub(super) fn is_inherited(&self) -> bool {
        self.handover.socket.is_none()
    }

    /// The kernel completes no new connections. Clients try again after a second, when the socket of the
    /// next process is the only one; those whose connection is half-open get through. Without this, a
    /// close resets what is half-open (`net.ipv4.tcp_migrate_req` is off by default).
    pub(super) fn refuse_handshakes(&self) {
        if let Err(error) = drop_handshakes(&self.socket) {
            tracing::debug!(%error, "a connection that is half-open may be reset");
        }
    }
}

impl Handover {
    /// From now on another process of this user may listen there, too.
    pub(super) fn begin(&mut self) {
        self.lock = None;
        if let Some(socket) = &self.socket
            && let Err(error) = socket.set_reuse_port(true)
        {
            tracing::warn!(%error, "the next process cannot take over the address");
        }
    }
}

/// Listens on the address that this key of the config names.
pub(super) fn listen(
    key: &'static str,
    address: SocketAddr,
    takeover: Takeover,
) -> Result<Listener, ListenError> {
    let (address, result) = with_fallback(address, |address| bind(address, takeover));
    result.map_err(|error| ListenError {
        key,
        address: address.to_string(),
        hint: hint(key, error.kind()),
        is_ours: takeover == Takeover::Drain
            && error.kind() == io::ErrorKind::AddrInUse
            && Lock::take(address).is_err(),
        error,
    })
}

/// Listens on it at a start, which may be the moment at which the process before gets its signal.
pub(super) async fn listen_at_start(
    key: &'static str,
    address: SocketAddr,
    takeover: Takeover,
) -> Result<Listener, ListenError> {
    let until = Instant::now() + HANDOVER_TIMEOUT;
    loop {
        match listen(key, address, takeover) {
            Err(error) if error.is_ours && Instant::now() < until => sleep(HANDOVER_RETRY).await,
            result => return result,
        }
    }
}

fn hint(key: &str, kind: io::ErrorKind) -> String {
    let by = match key {
        // It has no flag.
        "listener.address" => String::new(),
        key => format!(" with --{}", key.replace(['.', '_'], "-")),
    };
    match kind {
        io::ErrorKind::AddrInUse => {
            format!("; another process listens there: stop it, or choose another address{by}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("; ports below 1024 need privileges: choose another{by}")
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has this address: leave it out, as in :8080, for all of them".into()
        }
        _ => String::new(),
    }
}

fn bind(address: SocketAddr, takeover: Takeover) -> io::Result<Listener> {
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let socket = match open(address, false) {
        Err(error) if is_taken(&error) && takeover != Takeover::Off => {
            let lock = match takeover {
                Takeover::Drain => Some(Lock::take(address)?),
                _ => None,
            };
            let socket = open(address, true)?;
            if takeover == Takeover::Drain {
                // Exclusive again. The kernel prefers it to the one that drains.
                SockRef::from(&socket).set_reuse_port(false)?;
                tracing::info!("taking over {address} from a process that is stopping");
            } else {
                tracing::warn!("another process also listens on {address} (takeover = \"always\")");
            }
            return Listener::new(socket, lock);
        }
        result => result?,
    };
    let mut lock = None;
    match takeover {
        Takeover::Off => {}
        // The process that holds it does not listen.
        Takeover::Drain => lock = Lock::take(socket.local_addr()?).ok(),
        Takeover::Always => SockRef::from(&socket).set_reuse_port(true)?,
    }
    Listener::new(socket, lock)
}

fn open(address: SocketAddr, is_shared: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart does not have to wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if is_unspecified(address) {
        // `net.ipv6.bindv6only` selects otherwise.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    if is_shared {
        SockRef::from(&socket).set_reuse_port(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    fn local(takeover: Takeover) -> (Listener, SocketAddr) {
        let listener = listen("listen", LOCAL.into(), takeover).unwrap();
        let address = listener.socket.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn listener_has_room_for_a_burst_of_clients() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        let most: usize = most.map_or(128, |most| most.trim().parse().unwrap());
        let (listener, address) = local(Takeover::Drain);
        // Beyond its room the kernel does not respond.
        let clients: Vec<_> = (0..most.min(300))
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(30)).unwrap())
            .collect();
        for _ in &clients {
            listener.socket.accept().await.unwrap();
        }
    }

    #[tokio::test]
    async fn listen_error_names_the_key_and_a_remedy() {
        for takeover in [Takeover::Off, Takeover::Drain] {
            let (_held, address) = local(takeover);
            for again in [Takeover::Off, Takeover::Drain, Takeover::Always] {
                let error = listen("listen", address, again).err().unwrap().to_string();
                let start = format!("listen = \"{address}\": ");
                assert!(error.starts_with(&start), "{error}");
                assert!(error.contains("another process listens there"), "{error}");
            }
        }
        let elsewhere = listen("listen", ([192, 0, 2, 1], 1024).into(), Takeover::Drain);
        let error = elsewhere.err().unwrap().to_string();
        assert!(error.contains("no interface"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn unspecified_address_takes_clients_of_both_families() {
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = listen("listen", all, Takeover::Drain).unwrap();
        let address = listener.socket.local_addr().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
        if address.is_ipv6() {
            assert!(!SockRef::from(&listener.socket).only_v6().unwrap());
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn unspecified_address_is_handed_over_in_either_spelling() {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut first = listen("listen", v4, Takeover::Drain).unwrap();
        let port = first.socket.local_addr().unwrap().port();
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // The start of the next process waits for it.
        let error = listen("listen", all, Takeover::Drain).unwrap_err();
        assert!(error.is_ours, "{error}");
        first.handover.begin();
        let _second = listen("listen", all, Takeover::Drain).unwrap();
        assert!(first.is_taken_over(Takeover::Drain));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn address_is_shared_from_the_drain_on_and_with_one_process() {
        let (mut first, address) = local(Takeover::Drain);
        // Open connections of the port make no difference.
        let _client = TcpStream::connect(address).unwrap();
        let _accepted = first.socket.accept().await.unwrap();
        for _ in 0..3 {
            first.handover.begin();
            let second = listen("listen", address, Takeover::Drain).unwrap();
            for takeover in [Takeover::Off, Takeover::Drain] {
                assert!(listen("listen", address, takeover).is_err());
            }
            drop(std::mem::replace(&mut first, second));
            assert!(listen("listen", address, Takeover::Drain).is_err());
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn address_is_shared_at_any_time_if_each_process_has_takeover_always() {
        let (_first, address) = local(Takeover::Always);
        let _second = listen("listen", address, Takeover::Always).unwrap();
        assert!(listen("listen", address, Takeover::Off).is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn listener_that_refuses_handshakes_completes_no_new_connection() {
        let (listener, address) = local(Takeover::Drain);
        let _before = TcpStream::connect(address).unwrap();
        listener.refuse_handshakes();
        listener.socket.accept().await.unwrap();
        let moment = Duration::from_millis(50);
        let error = TcpStream::connect_timeout(&address, moment).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
