//! A socket that clients connect to.

use super::unix::{FileOptions, UnixListenError, UnixSocket};
use super::{HANDOVER_RETRY, HANDOVER_TIMEOUT, ListenError, Listener, listen, listen_at_start};
use crate::config::{ListenAddress, ListenerConfig, Takeover};
use sse_guard::client_key::PeerAddr;
use sse_guard::serve::Io;
use std::io;
use std::path::Path;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, sleep};

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) enum ClientListener {
    Tcp(Listener),
    Unix(UnixSocket),
}

impl ClientListener {
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
        })
    }

    /// Listens at the address of a listener.
    pub(crate) fn open(config: &ListenerConfig, takeover: Takeover) -> Result<Self, ListenError> {
        match &config.address {
            ListenAddress::Tcp(address) => listen(config.key, *address, takeover).map(Self::Tcp),
            ListenAddress::Unix(path) => open_unix(path, config, takeover).map(Self::Unix),
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
            Self::Unix(_) => None,
        }
    }

    /// As logs name it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.socket.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(_) => String::new(),
            },
            Self::Unix(socket) => format!("unix:{}", socket.path().display()),
        }
    }

    /// From now on another process may listen there, too.
    pub(crate) fn begin_handover(&mut self) {
        match self {
            Self::Tcp(listener) => listener.handover.begin(),
            Self::Unix(socket) => socket.begin_handover(),
        }
    }

    /// Whether another process serves the address too, as far as it can be detected.
    pub(crate) fn is_taken_over(&self, takeover: Takeover) -> bool {
        match self {
            Self::Tcp(listener) => listener.is_taken_over(takeover),
            Self::Unix(socket) => socket.is_taken_over(),
        }
    }

    /// Whether the service manager keeps the socket, with the connections that wait in it.
    pub(crate) fn is_inherited(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.is_inherited(),
            Self::Unix(_) => false,
        }
    }

    /// No new connection comes. Those that wait are still to be accepted.
    pub(crate) fn refuse_handshakes(&self) {
        match self {
            Self::Tcp(listener) => listener.refuse_handshakes(),
            Self::Unix(socket) => socket.remove_file(),
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
