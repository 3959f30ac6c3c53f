//! A socket that clients connect to.

use super::unix::{FileOptions, UnixListenError, UnixSocket};
use super::{HANDOVER_RETRY, HANDOVER_TIMEOUT, ListenError, Listener, listen, listen_at_start};
use crate::activation::StreamSocket;
use crate::config::{ListenAddress, ListenerConfig, Takeover};
use sse_guard::client_key::PeerAddr;
use sse_guard::serve::Io;
use std::io;
use std::path::Path;
use std::task::{Context, Poll, ready};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep};

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) enum ClientListener {
    Tcp(Listener),
    Unix(UnixSocket),
    /// Of the service manager, with its file.
    PassedUnix(UnixListener),
}

impl ClientListener {
    /// A socket of the service manager's, which keeps it open for the next process.
    pub(crate) fn passed(socket: StreamSocket) -> io::Result<Self> {
        Ok(match socket {
            StreamSocket::Tcp(socket) => Self::Tcp(Listener::inherited(socket)?),
            StreamSocket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Self::PassedUnix(UnixListener::from_std(socket)?)
            }
        })
    }

    /// Accepts the next connection. Wakes the last task alone that has polled.
    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Io, PeerAddr)>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => {
                let (io, peer) = ready!(listener.socket.poll_accept(cx))?;
                Ok((io.into(), peer.into()))
            }
            Self::Unix(socket) => {
                let (io, _) = ready!(socket.listener.poll_accept(cx))?;
                Ok((io.into(), PeerAddr::unix()))
            }
            Self::PassedUnix(socket) => {
                let (io, _) = ready!(socket.poll_accept(cx))?;
                Ok((io.into(), PeerAddr::unix()))
            }
        })
    }

    /// Listens at the address of a listener.
    pub(crate) fn open(config: &ListenerConfig, takeover: Takeover) -> Result<Self, ListenError> {
        match &config.address {
            ListenAddress::Tcp(address) => listen(config.key, *address, takeover).map(Self::Tcp),
            ListenAddress::Unix(path) => open_unix(path, config, takeover).map(Self::Unix),
            ListenAddress::Passed(_) => Err(ListenError {
                key: config.key,
                address: config.address.to_string(),
                error: io::Error::other("the service manager passes sockets at the start: restart"),
                hint: String::new(),
                is_ours: false,
            }),
        }
    }

    /// Listens there at a start, which may be the moment at which the process before gets its signal.
    pub(crate) async fn open_at_start(
        config: &ListenerConfig,
        takeover: Takeover,
    ) -> Result<Self, ListenError> {
        let path = match &config.address {
            ListenAddress::Tcp(address) => {
                let listener = listen_at_start(config.key, *address, takeover).await;
                return listener.map(Self::Tcp);
            }
            ListenAddress::Unix(path) => path,
            ListenAddress::Passed(_) => return Self::open(config, takeover),
        };
        let until = Instant::now() + HANDOVER_TIMEOUT;
        loop {
            match open_unix(path, config, takeover) {
                Err(error) if error.is_ours && Instant::now() < until => {
                    sleep(HANDOVER_RETRY).await;
                }
                result => return result.map(Self::Unix),
            }
        }
    }

    /// The socket, if it is one of TCP.
    pub(crate) fn tcp(&self) -> Option<&Listener> {
        match self {
            Self::Tcp(listener) => Some(listener),
            Self::Unix(_) | Self::PassedUnix(_) => None,
        }
    }

    /// As logs name it, with the scheme of this listener.
    pub(crate) fn url(&self, config: &ListenerConfig) -> String {
        match self {
            Self::Tcp(listener) => match listener.socket.local_addr() {
                Ok(address) => format!("{}://{address}", config.scheme()),
                Err(_) => String::new(),
            },
            Self::Unix(socket) => format!("unix:{}", socket.path().display()),
            Self::PassedUnix(socket) => match socket.local_addr() {
                Ok(address) => format!(
                    "unix:{}",
                    address.as_pathname().unwrap_or(Path::new("")).display()
                ),
                Err(_) => String::new(),
            },
        }
    }

    /// From now on another process may listen there, too.
    pub(crate) fn begin_handover(&mut self) {
        match self {
            Self::Tcp(listener) => listener.handover.begin(),
            Self::Unix(socket) => socket.begin_handover(),
            Self::PassedUnix(_) => {}
        }
    }

    /// Whether another process serves the address too, as far as it can be detected.
    pub(crate) fn is_taken_over(&self, takeover: Takeover) -> bool {
        match self {
            Self::Tcp(listener) => listener.is_taken_over(takeover),
            Self::Unix(socket) => socket.is_taken_over(),
            Self::PassedUnix(_) => false,
        }
    }

    /// Whether the service manager keeps the socket, with the connections that wait in it.
    pub(crate) fn is_inherited(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.is_inherited(),
            Self::Unix(_) => false,
            Self::PassedUnix(_) => true,
        }
    }

    /// No new connection comes. Those that wait are still to be accepted.
    pub(crate) fn refuse_handshakes(&self) {
        match self {
            Self::Tcp(listener) => listener.refuse_handshakes(),
            Self::Unix(socket) => socket.remove_file(),
            Self::PassedUnix(_) => {}
        }
    }
}

fn open_unix(
    path: &Path,
    config: &ListenerConfig,
    takeover: Takeover,
) -> Result<UnixSocket, ListenError> {
    let options = FileOptions {
        mode: config.file_mode,
        owner: config.file_owner.as_deref(),
    };
    UnixSocket::open(path, options, takeover).map_err(|error| ListenError {
        key: config.key,
        address: format!("unix:{}", path.display()),
        is_ours: matches!(error, UnixListenError::InUse { is_ours: true }),
        error: io::Error::other(error),
        hint: String::new(),
    })
}
