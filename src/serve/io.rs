//! The byte stream of a connection, independent of its transport.

use socket2::SockRef;
use std::io::{self, IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connection's byte stream: TCP, or a Unix socket.
#[derive(Debug)]
pub struct Io(Transport);

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    /// A box, so that the enum is not larger than a TCP socket.
    #[cfg(unix)]
    Unix(Box<UnixStream>),
}

/// An [`Io`] that is not registered with a runtime, and so can move to another thread.
#[derive(Debug)]
pub struct DetachedIo(DetachedTransport);

#[derive(Debug)]
enum DetachedTransport {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

/// Evaluates an expression with the socket of each transport.
macro_rules! with_socket {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Transport::Tcp($socket) => $call,
            #[cfg(unix)]
            Transport::Unix($socket) => $call,
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

/// Also for the proxy's upstream connections.
#[doc(hidden)]
impl Io {
    /// The TCP socket: only TCP has options that detect a dead peer and bound unsent data.
    pub fn tcp(&self) -> Option<SockRef<'_>> {
        match &self.0 {
            Transport::Tcp(socket) => Some(SockRef::from(socket)),
            #[cfg(unix)]
            Transport::Unix(_) => None,
        }
    }

    /// The socket, for options of every transport.
    pub fn socket(&self) -> SockRef<'_> {
        match &self.0 {
            Transport::Tcp(socket) => SockRef::from(socket),
            #[cfg(unix)]
            Transport::Unix(socket) => SockRef::from(&**socket),
        }
    }

    /// Deregisters the socket from its runtime.
    pub fn detach(self) -> io::Result<DetachedIo> {
        Ok(DetachedIo(match self.0 {
            Transport::Tcp(socket) => DetachedTransport::Tcp(socket.into_std()?),
            #[cfg(unix)]
            Transport::Unix(socket) => DetachedTransport::Unix(socket.into_std()?),
        }))
    }

    /// Ready on input, on its end, and on an error.
    pub fn poll_input(&self, cx: &mut Context<'_>) -> Poll<()> {
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
        is_quiet(&self.socket())
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(&self.0, socket => socket.poll_read_ready(cx))
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(&self.0, socket => socket.poll_write_ready(cx))
    }

    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        with_socket!(&self.0, socket => socket.ready(interest).await)
    }

    pub(super) fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        with_socket!(&self.0, socket => socket.try_io(interest, call))
    }

    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        with_socket!(&self.0, socket => socket.try_read(bytes))
    }

    /// Reads without regard to the readiness that the runtime has recorded.
    pub(super) fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self.socket()).read(bytes)
    }

    pub(super) fn try_write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match bufs {
            // A cheaper system call.
            [all] => with_socket!(&self.0, socket => socket.try_write(all)),
            _ => with_socket!(&self.0, socket => socket.try_write_vectored(bufs)),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_socket!(&mut self.0, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_socket!(&mut self.0, socket => Pin::new(socket).poll_write(cx, buf))
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
                with_socket!(&mut self.0, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(&mut self.0, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_socket!(&mut self.0, socket => Pin::new(socket).poll_shutdown(cx))
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
        }
    }

    /// Returns true if there is neither input nor its end.
    pub fn is_quiet(&self) -> bool {
        match &self.0 {
            DetachedTransport::Tcp(socket) => is_quiet(&SockRef::from(socket)),
            #[cfg(unix)]
            DetachedTransport::Unix(socket) => is_quiet(&SockRef::from(socket)),
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
        let io = Io::from(theirs).detach().unwrap();
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
