//! Sockets that the service manager has opened, by the protocol of systemd's
//! [`sd_listen_fds`](https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html).
//!
//! The manager keeps them open while one process ends and the next one starts, so that no connection is
//! refused. `LISTEN_FDNAMES` distinguishes them: `admin` is the admin socket, any other name is for
//! clients.

use listenfd::ListenFd;
use std::io;
use std::net::TcpListener;

/// The name of the operator's socket (`FileDescriptorName=` of the socket unit).
const ADMIN: &str = "admin";

/// Sockets in place of those that the config names.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) clients: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

/// Why the sockets of the service manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActivationError {
    #[error(
        "socket {index} of the service manager (LISTEN_FDS, named \"{name}\"): {error}; it must be \
         a ListenStream= with an IP address and a port"
    )]
    Socket {
        index: usize,
        name: String,
        error: io::Error,
    },
    #[error(
        "the service manager passes two sockets for {0} (LISTEN_FDS): each name other than \
         \"admin\" is for clients; keep one in the socket unit"
    )]
    Twice(&'static str),
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
        let name = names.next().unwrap_or_default();
        let socket = passed.take_tcp_listener(index);
        let Some(socket) = socket.map_err(|error| ActivationError::Socket {
            index,
            name: name.to_owned(),
            error,
        })?
        else {
            continue;
        };
        let (slot, whose) = match name {
            ADMIN => (&mut sockets.admin, "the operator"),
            _ => (&mut sockets.clients, "clients"),
        };
        if slot.replace(socket).is_some() {
            return Err(ActivationError::Twice(whose));
        }
    }
    Ok(sockets)
}
