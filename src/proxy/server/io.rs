//! A client's socket, driven by hyper and watched by us.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

/// Bytes that one read takes at the most; hyper's own buffer starts at as much.
const READ: usize = 8 * 1024;

/// The half that hyper drives.
pub(super) struct ClientIo(Arc<TcpStream>);

/// The half that sees the client go.
pub(super) struct Watch(Arc<TcpStream>);

/// Two handles to one socket.
pub(super) fn watched(stream: TcpStream) -> (ClientIo, Watch) {
    let stream = Arc::new(stream);
    (ClientIo(stream.clone()), Watch(stream))
}

impl Watch {
    /// Until the client has closed its side. hyper looks for that only while it has read nothing
    /// ahead: a client that had sent the start of another request would go unnoticed.
    pub(super) async fn gone(&self) {
        #[cfg(target_os = "linux")]
        // The readiness of priority data is told together with that of the end, unlike that of
        // data, which there may be for long.
        if let Ok(ready) = self.0.ready(tokio::io::Interest::PRIORITY).await
            && !ready.is_read_closed()
        {
            // Urgent data, which nobody sends here: no more is to be learnt.
            std::future::pending::<()>().await;
        }
        #[cfg(not(target_os = "linux"))]
        std::future::pending::<()>().await;
    }
}

impl Read for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ];
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let room = buf.remaining().min(READ);
            match self.0.try_read(&mut bytes[..room]) {
                Ok(read) => {
                    buf.put_slice(&bytes[..read]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl ClientIo {
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl Write for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = socket2::SockRef::from(&*self.0);
        match socket.shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }
}
