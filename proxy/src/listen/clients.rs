//! Where clients come from.

use super::unix::{FileOptions, UnixListenError, UnixSocket};
use super::{HANDOVER_RETRY, HANDOVER_TIMEOUT, ListenError, Listener, listen, listen_at_start};
use crate::config::{Config, ListenAddress, Takeover};
use sse_guard::client_key::PeerAddr;
use sse_guard::serve::Io;
use std::io;
use std::path::Path;
use tokio::time::{Instant, sleep};

const LISTEN_KEY: &str = "listen";

/// A listener for clients.
#[derive(Debug)]
pub(crate) enum ClientListener {
    Tcp(Listener),
    Unix(UnixSocket),
}

impl sse_guard::serve::Listener for ClientListener {
    type Io = Io;

    async fn accept(&self) -> io::Result<(Io, PeerAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (io, peer) = listener.socket.accept().await?;
                Ok((io.into(), peer.into()))
            }
            Self::Unix(socket) => {
                let (io, _) = socket.listener.accept().await?;
                Ok((io.into(), PeerAddr::unix()))
            }
        }
    }
}

impl ClientListener {
    /// Listens at `listen` of the config.
    pub(crate) fn open(config: &Config) -> Result<Self, ListenError> {
        match &config.listen {
            ListenAddress::Tcp(address) => {
                listen(LISTEN_KEY, *address, config.takeover).map(Self::Tcp)
            }
            ListenAddress::Unix(path) => open_unix(path, config).map(Self::Unix),
        }
    }

    /// Listens there at a start, which may be the moment at which the process before gets its signal.
    pub(crate) async fn open_at_start(config: &Config) -> Result<Self, ListenError> {
        let path = match &config.listen {
            ListenAddress::Tcp(address) => {
                let listener = listen_at_start(LISTEN_KEY, *address, config.takeover).await;
                return listener.map(Self::Tcp);
            }
            ListenAddress::Unix(path) => path,
        };
        let until = Instant::now() + HANDOVER_TIMEOUT;
        loop {
            match open_unix(path, config) {
                Err(error) if error.is_ours && Instant::now() < until => {
                    sleep(HANDOVER_RETRY).await;
                }
                result => return result.map(Self::Unix),
            }
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

fn open_unix(path: &Path, config: &Config) -> Result<UnixSocket, ListenError> {
    let options = FileOptions {
        mode: config.listen_mode,
        owner: config.listen_owner.as_deref(),
    };
    UnixSocket::open(path, options, config.takeover).map_err(|error| ListenError {
        key: LISTEN_KEY,
        address: format!("unix:{}", path.display()),
        is_ours: matches!(error, UnixListenError::InUse { is_ours: true }),
        error: io::Error::other(error),
        hint: String::new(),
    })
}
