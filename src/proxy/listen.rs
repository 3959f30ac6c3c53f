//! The sockets that clients connect to.

use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Clients that the kernel completes connections for ahead of us, or as many as it allows
/// (`net.core.somaxconn`). When a load balancer comes back all of its clients do, within
/// milliseconds; those beyond this try again a second later, as their kernels decide.
const BACKLOG: u32 = 65_535;

/// Why an address can not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{key} = \"{address}\": {error}{hint}")]
pub(super) struct ListenError {
    key: &'static str,
    address: SocketAddr,
    error: io::Error,
    hint: String,
}

/// Listens on the address that this key of the config names.
pub(super) fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|error| ListenError {
        key,
        address,
        hint: hint(key, error.kind()),
        error,
    })
}

fn hint(key: &str, kind: io::ErrorKind) -> String {
    let flag = key.replace(['.', '_'], "-");
    match kind {
        io::ErrorKind::AddrInUse => format!(
            "; another process listens there: stop it, or choose another address with --{flag}"
        ),
        io::ErrorKind::PermissionDenied => {
            format!("; ports below 1024 need privileges: choose another with --{flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has it: 0.0.0.0 and [::] stand for all".into()
        }
        _ => String::new(),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart does not have to wait for the last connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::time::Duration;

    #[tokio::test]
    async fn a_burst_of_clients_finds_room() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        let most: usize = most.map_or(128, |most| most.trim().parse().unwrap());
        let listener = listen("listen", ([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // Beyond its room the kernel answers nobody.
        let clients: Vec<_> = (0..most.min(300))
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(30)).unwrap())
            .collect();
        for _ in &clients {
            listener.accept().await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_error_names_the_key_and_what_to_do() {
        let listener = listen("listen", ([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let error = listen("listen", address).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("listen = \"{address}\": ")),
            "{error}"
        );
        assert!(error.contains("another process listens there"), "{error}");
        let error = listen("listen", ([192, 0, 2, 1], 1024).into()).unwrap_err();
        assert!(error.to_string().contains("no interface"), "{error}");
    }
}
