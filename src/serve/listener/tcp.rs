//! Clients that connect over TCP.

use super::Listener;
use crate::client_key::PeerAddr;
use std::io;
use tokio::net::{TcpListener, TcpStream};

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, PeerAddr)> {
        let (socket, peer) = Self::accept(self).await?;
        Ok((socket, peer.into()))
    }
}
