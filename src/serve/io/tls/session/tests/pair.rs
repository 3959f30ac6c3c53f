//! A session whose transport is in memory.

use super::super::super::test_certificates::{NAME, name};
use super::super::*;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

/// A session, and its peer by rustls' own buffered implementation.
pub(super) struct Pair {
    pub(super) session: Session,
    pub(super) peer: rustls::Connection,
    pub(super) wire: Wire,
}

/// The records on their way. Both directions block when they are empty or full.
pub(super) struct Wire {
    pub(super) to_session: VecDeque<u8>,
    pub(super) to_peer: Vec<u8>,
    /// The transport delivers this much at once.
    pub(super) piece: usize,
    /// Bytes that the transport still takes.
    pub(super) room: usize,
}

impl Wire {
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.to_session.len().min(self.piece);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut front = self.to_session.drain(..len.min(buf.len()));
        Ok(buf
            .iter_mut()
            .zip(&mut front)
            .map(|(to, from)| *to = from)
            .count())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(self.room);
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room -= len;
        self.to_peer.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

pub(super) fn is_blocked<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl Pair {
    fn new(session: Connection, peer: rustls::Connection) -> Self {
        Self {
            session: Session::new(session),
            peer,
            wire: Wire {
                to_session: VecDeque::new(),
                to_peer: Vec::new(),
                piece: usize::MAX,
                room: usize::MAX,
            },
        }
    }

    pub(super) fn client((server, client): (ServerConfig, ClientConfig)) -> Self {
        let session = UnbufferedClientConnection::new(Arc::new(client), name(NAME)).unwrap();
        let peer = ServerConnection::new(Arc::new(server)).unwrap();
        Self::new(Connection::Client(session), peer.into())
    }

    pub(super) fn server((server, client): (ServerConfig, ClientConfig)) -> Self {
        let session = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
        let peer = ClientConnection::new(Arc::new(client), name(NAME)).unwrap();
        Self::new(Connection::Server(session), peer.into())
    }

    /// Exchanges records until nothing more is on its way. Returns what the session has read.
    pub(super) fn exchange(&mut self) -> io::Result<Vec<u8>> {
        let mut received = Vec::new();
        loop {
            let flushed = self.session.flush(|bytes| self.wire.write(bytes));
            assert!(flushed.is_ok() || is_blocked(&flushed), "{flushed:?}");
            let mut records = &self.wire.to_peer[..];
            while !records.is_empty() {
                self.peer.read_tls(&mut records)?;
                self.peer.process_new_packets().map_err(failed)?;
            }
            self.wire.to_peer.clear();
            while self.peer.wants_write() {
                self.peer.write_tls(&mut self.wire.to_session)?;
            }
            if self.wire.to_session.is_empty() {
                return Ok(received);
            }
            while !self.wire.to_session.is_empty() {
                let mut bytes = [0; 4096];
                let result = self.read(&mut bytes);
                if !is_blocked(&result) {
                    received.extend_from_slice(&bytes[..result?]);
                }
            }
            while let plain @ 1.. = self.session.plain.len() {
                let mut bytes = vec![0; plain];
                self.read(&mut bytes)?;
                received.extend(bytes);
            }
        }
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let wire = RefCell::new(&mut self.wire);
        let mut room = bytes;
        let mut take = |plain: &[u8]| {
            let mut plain = plain.take(room.len() as u64);
            let len = plain.read(room).unwrap();
            room = &mut std::mem::take(&mut room)[len..];
            len
        };
        self.session.read(
            &mut take,
            |buf| wire.borrow_mut().read(buf),
            |buf| wire.borrow_mut().write(buf),
        )
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.session
            .write(&[IoSlice::new(bytes)], |buf| self.wire.write(buf))
    }

    pub(super) fn peer_received(&mut self) -> Vec<u8> {
        let mut received = Vec::new();
        // It blocks at the end.
        let _ = self.peer.reader().read_to_end(&mut received);
        received
    }

    pub(super) fn connected(mut self) -> Self {
        self.exchange().unwrap();
        assert!(!self.session.is_handshaking() && !self.peer.is_handshaking());
        self
    }
}
