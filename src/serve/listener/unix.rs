//! Clients that connect to a Unix socket: processes of this machine, such as a reverse proxy.

use super::Listener;
use crate::client_key::PeerAddr;
use std::io;
use tokio::net::{UnixListener, UnixStream};

impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, PeerAddr)> {
        let (socket, _) = Self::accept(self).await?;
        Ok((socket, PeerAddr::unix()))
    }
}
