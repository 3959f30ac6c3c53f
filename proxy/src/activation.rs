//! Sockets that the service manager has opened, by the protocol of systemd's
//! [`sd_listen_fds`](https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html).
//!
//! The manager keeps them open while one process ends and the next one starts, so that no connection is
//! refused. `LISTEN_FDNAMES` distinguishes them: `admin` is the admin socket, any other name is for
//! clients.

use listenfd::ListenFd;
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

/// The name of the operator's socket (`FileDescriptorName=` of the socket unit).
const ADMIN: &str = "admin";
/// The number of the first socket.
const FIRST: usize = 3;

/// The sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) clients: Vec<PassedSocket>,
    pub(super) admin: Option<TcpListener>,
}

/// A socket for clients.
#[derive(Debug)]
pub(super) struct PassedSocket {
    /// `FileDescriptorName=` of the socket unit.
    pub(super) name: String,
    /// Of its file descriptor.
    pub(super) number: usize,
    pub(super) socket: StreamSocket,
}

/// A listening socket for streams.
#[derive(Debug)]
pub(super) enum StreamSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl PassedSocket {
    /// Whether it has this name or number.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.number.to_string() == name
    }
}

/// As messages name it.
impl fmt::Display for PassedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" (fd {})", self.name, self.number)
    }
}

/// Why the sockets of the service manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActivationError {
    #[error(
        "socket {number} of the service manager (LISTEN_FDS, named \"{name}\"): {error}; it must be \
         a ListenStream= with an IP address and a port, or with the path of a Unix socket for clients"
    )]
    Socket {
        number: usize,
        name: String,
        error: io::Error,
    },
    #[error("the service manager passes two sockets named \"admin\" (LISTEN_FDS): keep one")]
    TwoAdmin,
    #[error(
        "the service manager's admin socket listens on {0}, which is reachable from other \
         machines: set admin.token, or let it listen on 127.0.0.1"
    )]
    Open(std::net::SocketAddr),
}

/// Takes the sockets that are meant for this process.
pub(super) fn sockets() -> Result<Sockets, ActivationError> {
    let mut passed = ListenFd::from_env();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Sockets::default();
    for index in 0..passed.len() {
        let (name, number) = (names.next().unwrap_or_default().to_owned(), FIRST + index);
        let socket = passed.take_tcp_listener(index);
        if name == ADMIN {
            let socket = socket.map_err(|error| ActivationError::Socket {
                number,
                name,
                error,
            })?;
            if sockets.admin.is_some() && socket.is_some() {
                return Err(ActivationError::TwoAdmin);
            }
            sockets.admin = sockets.admin.or(socket);
            continue;
        }
        // One that is not of TCP is left where it is.
        let socket = match socket {
            Ok(socket) => socket.map(StreamSocket::Tcp),
            Err(_) => {
                let socket = passed.take_unix_listener(index);
                let socket = socket.map_err(|error| ActivationError::Socket {
                    number,
                    name: name.clone(),
                    error,
                })?;
                socket.map(StreamSocket::Unix)
            }
        };
        sockets.clients.extend(socket.map(|socket| PassedSocket {
            name,
            number,
            socket,
        }));
    }
    Ok(sockets)
}
