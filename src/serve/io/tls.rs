//! TLS over a transport.

mod connection;
mod session;

use super::{Io, Transport};
use crate::lock::lock;
use connection::Connection;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, Error, HandshakeKind, ProtocolVersion, ServerConfig};
pub(super) use session::Session;
use socket2::SockRef;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// A TLS session and its transport. One task at a time may wait for it, as each direction may need the other one.
///
/// Dropped, it does not send a `close_notify`: what was cut off must not pass for a complete message.
#[derive(Debug)]
pub(super) struct TlsIo {
    pub(super) io: Io,
    session: Mutex<Session>,
}

impl TlsIo {
    pub(super) fn client(
        io: Io,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        refuse_tls(&io)?;
        let connection = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(io, Session::new(Connection::Client(connection))))
    }

    pub(super) fn server(io: Io, config: Arc<ServerConfig>) -> Result<Self, Error> {
        refuse_tls(&io)?;
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(io, Session::new(Connection::Server(connection))))
    }

    pub(super) fn new(io: Io, session: Session) -> Self {
        Self {
            io,
            session: Mutex::new(session),
        }
    }

    /// The transport and the session, which does not end with this.
    pub(super) fn into_parts(self) -> (Io, Session) {
        let session = self.session.into_inner();
        (self.io, session.unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.try_take(&mut copy_into(bytes))
    }

    /// Passes plaintext to `take`, which returns how much it has used of it.
    fn try_take(&self, take: &mut dyn FnMut(&[u8]) -> usize) -> io::Result<usize> {
        lock(&self.session).read(take, |buf| self.io.try_read(buf), |buf| self.send(buf))
    }

    /// Processes input until there is plaintext to read, or its end.
    fn try_fill(&self) -> io::Result<usize> {
        self.try_take(&mut |_| 0)
    }

    /// Reads past the runtime, which may have forgotten that there is input.
    pub(super) fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut session = lock(&self.session);
        session.read(
            &mut copy_into(bytes),
            |buf| self.io.read_now(buf),
            |buf| self.send(buf),
        )
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.io.try_write(&[IoSlice::new(bytes)])
    }

    pub(super) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        lock(&self.session).write(bufs, |buf| self.send(buf))
    }

    /// Ready when a read is worth a call. Continues what a read of the handshake has left to be sent.
    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut session = lock(&self.session);
        if session.has_input() {
            return Poll::Ready(Ok(()));
        }
        while session.has_own_output() && self.io.poll_write_ready(cx)?.is_ready() {
            match session.flush(|buf| self.send(buf)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The input may have the reason.
                _ => break,
            }
        }
        drop(session);
        self.io.poll_read_ready(cx)
    }

    /// Ready when a write is worth a call.
    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.is_handshaking() {
            true => self.poll_handshake(cx),
            false => self.io.poll_write_ready(cx),
        }
    }

    /// Ready when there is plaintext to read, its end, or an error.
    pub(super) fn poll_input(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            match self.try_fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        lock(&self.session).is_handshaking()
    }

    /// Returns true if there is neither plaintext to read nor its end.
    pub(super) fn is_quiet(&self) -> bool {
        is_quiet(&mut lock(&self.session), &self.io.socket())
    }

    /// Sends a `close_notify`, as far as the kernel has room for it, and ends the transport's output.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        close(&mut lock(&self.session), &self.io.socket());
        self.io.shutdown()
    }

    /// Ready when the handshake is over, and our part of it is sent.
    pub(super) fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let flushed = lock(&self.session).flush(|buf| self.send(buf));
            let blocks = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
            match flushed {
                Err(error) if !blocks(&error) => {
                    // The peer may have sent the reason before it closed the connection.
                    let reason = self.try_fill().err();
                    let reason =
                        reason.filter(|reason| reason.kind() == io::ErrorKind::InvalidData);
                    return Poll::Ready(Err(reason.unwrap_or(error)));
                }
                Err(_) if !self.is_handshaking() => ready!(self.io.poll_write_ready(cx))?,
                Ok(()) if !self.is_handshaking() => return Poll::Ready(Ok(())),
                _ => {
                    ready!(self.poll_read_ready(cx))?;
                    match self.try_fill() {
                        Ok(_) if self.is_handshaking() => {
                            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                        }
                        Err(error) if self.is_handshaking() && !blocks(&error) => {
                            return Poll::Ready(Err(error));
                        }
                        // What has come behind the handshake is for the first read, be it an error.
                        _ => {}
                    }
                }
            }
        }
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Not into initialized room, which would be filled with zeros first.
        let mut take = |bytes: &[u8]| {
            let len = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..len]);
            len
        };
        loop {
            // First, as the runtime ends a task's turn by it: a peer that sends at full speed has always more.
            ready!(self.poll_read_ready(cx))?;
            match self.try_take(&mut take) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_write(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match lock(&self.session).flush(|buf| self.send(buf)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(self.io.poll_write_ready(cx))?;
        }
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Poll::Ready(self.shutdown())
    }

    pub(super) fn has_selected(&self, protocol: &[u8]) -> bool {
        lock(&self.session).connection().alpn_protocol() == Some(protocol)
    }

    pub(super) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        let session = lock(&self.session);
        // Those of the resumed session, if it is one.
        session.connection().peer_certificates()?.first().cloned()
    }

    pub(super) fn info(&self) -> TlsInfo {
        let session = lock(&self.session);
        let connection = session.connection();
        TlsInfo {
            version: connection.protocol_version(),
            alpn: connection.alpn_protocol().map(Into::into),
            peer_certificates: connection
                .peer_certificates()
                .map_or_else(Vec::new, <[_]>::to_vec),
            is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// Fills the slice from its start, by one call after the other.
fn copy_into(mut room: &mut [u8]) -> impl FnMut(&[u8]) -> usize + '_ {
    move |bytes| {
        let len = bytes.len().min(room.len());
        let (filled, rest) = std::mem::take(&mut room).split_at_mut(len);
        filled.copy_from_slice(&bytes[..len]);
        room = rest;
        len
    }
}

/// The sessions of a thread share buffers, and read from the socket where the runtime's readiness does not count.
fn refuse_tls(io: &Io) -> Result<(), Error> {
    match io.0 {
        Transport::Tls(_) => Err(Error::General("TLS over TLS is not supported".to_owned())),
        _ => Ok(()),
    }
}

/// Returns true if there is neither plaintext to read nor its end, by reading from the socket.
pub(super) fn is_quiet(session: &mut Session, socket: &SockRef<'_>) -> bool {
    session.is_quiet(|buf| (&**socket).read(buf), |buf| (&**socket).write(buf))
}

/// Sends a `close_notify`, as far as the kernel has room for it.
pub(super) fn close(session: &mut Session, socket: &SockRef<'_>) {
    session.close(|buf| (&**socket).write(buf));
}

/// What the handshake of a TLS connection has negotiated. Empty until it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version of TLS.
    pub version: Option<ProtocolVersion>,
    /// The protocol that ALPN has selected, RFC 7301.
    pub alpn: Option<Box<[u8]>>,
    /// The certificates of the peer, its own first. None of a client that has not sent any.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// An earlier session was resumed.
    pub is_resumed: bool,
}

#[cfg(test)]
mod test_certificates;
#[cfg(test)]
mod tests;
