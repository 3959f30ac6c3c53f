//! The byte stream of a connection, independent of its transport.

#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use tls::TlsInfo;

#[cfg(feature = "tls")]
use rustls::pki_types::{CertificateDer, ServerName};
#[cfg(feature = "tls")]
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use std::io::{self, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
#[cfg(feature = "tls")]
use std::{future::poll_fn, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connection's byte stream: TCP or a Unix socket, and TLS over it with the feature `tls`.
#[derive(Debug)]
pub struct Io(Transport);

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    /// A box, so that the enum is not larger than a TCP socket.
    #[cfg(unix)]
    Unix(Box<UnixStream>),
    /// A box, because it is larger than a TCP socket by far.
    #[cfg(feature = "tls")]
    Tls(Box<tls::TlsIo>),
}

/// An [`Io`] that is not registered with a runtime, and so can move to another thread.
#[derive(Debug)]
pub struct DetachedIo(DetachedTransport);

#[derive(Debug)]
enum DetachedTransport {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<(DetachedIo, tls::Session)>),
}

/// Evaluates an expression with the socket of each transport, or another one with the TLS session.
macro_rules! with_transport {
    ($self:expr, $socket:ident => $call:expr, $tls:ident => $tls_call:expr) => {
        match $self {
            Transport::Tcp($socket) => $call,
            #[cfg(unix)]
            Transport::Unix($socket) => $call,
            #[cfg(feature = "tls")]
            Transport::Tls($tls) => $tls_call,
        }
    };
}

impl From<TcpStream> for Io {
    fn from(socket: TcpStream) -> Self {
        Self(Transport::Tcp(socket))
    }
}

#[cfg(unix)]
impl From<UnixStream> for Io {
    fn from(socket: UnixStream) -> Self {
        Self(Transport::Unix(Box::new(socket)))
    }
}

#[cfg(feature = "tls")]
impl Io {
    /// The server's side of a TLS connection. The handshake takes place with the first reads.
    ///
    /// # Errors
    ///
    /// Those of rustls for this config, and one if this is a TLS connection already.
    pub fn accept_tls(self, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self(Transport::Tls(Box::new(tls::TlsIo::server(
            self, config,
        )?))))
    }

    /// The client's side of a TLS connection, after its handshake with the server of this name. Without a time
    /// limit.
    ///
    /// # Errors
    ///
    /// An error that wraps a [`rustls::Error`] if the handshake fails, or that of the transport.
    pub async fn connect_tls(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tls = tls::TlsIo::client(self, config, name).map_err(io::Error::other)?;
        let tls = Box::new(tls);
        poll_fn(|cx| tls.poll_handshake(cx)).await?;
        Ok(Self(Transport::Tls(tls)))
    }

    /// Returns true if the handshake is complete, and ALPN has selected this protocol.
    pub(super) fn has_selected(&self, protocol: &[u8]) -> bool {
        match &self.0 {
            Transport::Tls(tls) => tls.has_selected(protocol),
            _ => false,
        }
    }

    /// The certificate of the peer, if it has sent one in the handshake and a verifier of the config has accepted it.
    pub(super) fn peer_certificate(&self) -> Option<CertificateDer<'static>> {
        match &self.0 {
            Transport::Tls(tls) => tls.peer_certificate(),
            _ => None,
        }
    }

    /// What the handshake has negotiated, if this is a TLS connection.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        match &self.0 {
            Transport::Tls(tls) => Some(tls.info()),
            _ => None,
        }
    }
}

/// Also for the proxy's upstream connections.
#[doc(hidden)]
impl Io {
    /// The TCP socket: only TCP has options that detect a dead peer and bound unsent data.
    pub fn tcp(&self) -> Option<SockRef<'_>> {
        match &self.0 {
            Transport::Tcp(socket) => Some(SockRef::from(socket)),
            #[cfg(unix)]
            Transport::Unix(_) => None,
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.io.tcp(),
        }
    }

    /// The socket, for options of every transport.
    pub fn socket(&self) -> SockRef<'_> {
        match &self.0 {
            Transport::Tcp(socket) => SockRef::from(socket),
            #[cfg(unix)]
            Transport::Unix(socket) => SockRef::from(&**socket),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => tls.io.socket(),
        }
    }

    /// Deregisters the socket from its runtime.
    pub fn detach(self) -> io::Result<DetachedIo> {
        Ok(DetachedIo(match self.0 {
            Transport::Tcp(socket) => DetachedTransport::Tcp(socket.into_std()?),
            #[cfg(unix)]
            Transport::Unix(socket) => DetachedTransport::Unix(socket.into_std()?),
            #[cfg(feature = "tls")]
            Transport::Tls(tls) => {
                let (io, session) = tls.into_parts();
                DetachedTransport::Tls(Box::new((io.detach()?, session)))
            }
        }))
    }

    /// Ready on input, on its end, and on an error.
    pub fn poll_input(&self, cx: &mut Context<'_>) -> Poll<()> {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = &self.0 {
            return tls.poll_input(cx);
        }
        loop {
            if ready!(self.poll_read_ready(cx)).is_err() {
                return Poll::Ready(());
            }
            let peeked = self.try_io(Interest::READABLE, || peek(&self.socket()));
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Returns true if there is neither input nor its end.
    pub fn is_quiet(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = &self.0 {
            return tls.is_quiet();
        }
        is_quiet(&self.socket())
    }

    /// Ready when a read may succeed.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_transport!(&self.0,
            socket => socket.poll_read_ready(cx),
            tls => tls.poll_read_ready(cx))
    }

    /// Ready when the socket has input, whether or not a read would return some of it.
    pub(super) fn poll_socket_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_transport!(&self.0,
            socket => socket.poll_read_ready(cx),
            tls => tls.io.poll_socket_readable(cx))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_transport!(&self.0,
            socket => socket.poll_write_ready(cx),
            tls => tls.poll_write_ready(cx))
    }

    /// Waits for the socket.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        with_transport!(&self.0,
            socket => socket.ready(interest).await,
            // A box, as a future cannot contain itself.
            tls => Box::pin(tls.io.ready(interest)).await)
    }

    pub(super) fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        with_transport!(&self.0, socket => socket.try_io(interest, call), tls => tls.io.try_io(interest, call))
    }

    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        with_transport!(&self.0, socket => socket.try_read(bytes), tls => tls.try_read(bytes))
    }

    /// Reads without regard to the readiness that the runtime has recorded.
    pub(super) fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = &self.0 {
            return tls.read_now(bytes);
        }
        (&*self.socket()).read(bytes)
    }

    /// Writes the beginning of `bufs`. Over TLS, a write that would block must be repeated with the same
    /// beginning.
    pub(super) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        with_transport!(&self.0,
            socket => match bufs {
                // A cheaper system call.
                [all] => socket.try_write(all),
                _ => socket.try_write_vectored(bufs),
            },
            tls => tls.try_write(bufs))
    }

    /// Ends the output.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Transport::Tls(tls) = &self.0 {
            return tls.shutdown();
        }
        match self.socket().shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_transport!(&mut self.0, socket => Pin::new(socket).poll_read(cx, buf), tls => tls.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_transport!(&mut self.0, socket => Pin::new(socket).poll_write(cx, buf), tls => tls.poll_write(cx, &[IoSlice::new(buf)]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            // Which is a cheaper call.
            [all] => self.poll_write(cx, all),
            _ => {
                with_transport!(&mut self.0, socket => Pin::new(socket).poll_write_vectored(cx, bufs), tls => tls.poll_write(cx, bufs))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_transport!(&mut self.0, socket => Pin::new(socket).poll_flush(cx), tls => tls.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_transport!(&mut self.0, socket => Pin::new(socket).poll_shutdown(cx), tls => tls.poll_shutdown(cx))
    }
}

#[doc(hidden)]
impl DetachedIo {
    /// Registers the socket with the runtime of this thread.
    pub fn attach(self) -> io::Result<Io> {
        match self.0 {
            DetachedTransport::Tcp(socket) => Ok(TcpStream::from_std(socket)?.into()),
            #[cfg(unix)]
            DetachedTransport::Unix(socket) => Ok(UnixStream::from_std(socket)?.into()),
            #[cfg(feature = "tls")]
            DetachedTransport::Tls(tls) => {
                let (io, session) = *tls;
                let tls = tls::TlsIo::new(io.attach()?, session);
                Ok(Io(Transport::Tls(Box::new(tls))))
            }
        }
    }

    /// Closes the connection behind a complete message: over TLS, with a `close_notify`.
    pub fn close(self) {
        #[cfg(feature = "tls")]
        if let DetachedTransport::Tls(mut tls) = self.0 {
            let (io, session) = &mut *tls;
            tls::close(session, &io.socket());
        }
    }

    /// Returns true if there is neither input nor its end.
    pub fn is_quiet(&mut self) -> bool {
        #[cfg(feature = "tls")]
        if let DetachedTransport::Tls(tls) = &mut self.0 {
            let (io, session) = &mut **tls;
            return tls::is_quiet(session, &io.socket());
        }
        is_quiet(&self.socket())
    }

    fn socket(&self) -> SockRef<'_> {
        match &self.0 {
            DetachedTransport::Tcp(socket) => SockRef::from(socket),
            #[cfg(unix)]
            DetachedTransport::Unix(socket) => SockRef::from(socket),
            #[cfg(feature = "tls")]
            DetachedTransport::Tls(tls) => tls.0.socket(),
        }
    }
}

fn peek(socket: &SockRef<'_>) -> io::Result<usize> {
    socket.peek(&mut [MaybeUninit::uninit()])
}

fn is_quiet(socket: &SockRef<'_>) -> bool {
    matches!(peek(socket), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn io_has_the_size_of_a_tcp_socket() {
        assert_eq!(size_of::<Io>(), size_of::<TcpStream>());
    }

    #[tokio::test]
    async fn unix_io_reports_input_and_its_end_on_every_runtime() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut io = Io::from(theirs).detach().unwrap();
        assert!(io.is_quiet());
        let io = io.attach().unwrap();
        assert!(io.is_quiet() && io.tcp().is_none());
        let mut ours = Io::from(ours);
        ours.write_all(b"x").await.unwrap();
        poll_fn(|cx| io.poll_input(cx)).await;
        assert!(!io.is_quiet());
        assert_eq!(io.try_read(&mut [0; 2]).unwrap(), 1);
        drop(ours);
        poll_fn(|cx| io.poll_input(cx)).await;
        assert_eq!(io.try_read(&mut [0; 2]).unwrap(), 0);
        assert!(!io.detach().unwrap().is_quiet());
    }
}
