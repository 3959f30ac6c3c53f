//! Forwards TCP connections without a look at what they carry: the limit to compare with.
//!
//! One buffer per thread: a connection holds bytes only while its reader is slower.

use crate::listen;
use anyhow::Result;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Serves until the process is ended.
pub async fn serve(from: SocketAddrV4, to: SocketAddrV4) -> Result<()> {
    let listener = listen(from)?;
    println!("tcp-forward on {}", listener.local_addr()?);
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // An error is the end of the connection, and all there is to do about it.
        tokio::spawn(async move { pass(client, to.into()).await });
    }
}

async fn pass(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(to).await?;
    server.set_nodelay(true)?;
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let (mut up, mut down) = (Half::default(), Half::default());
    poll_fn(|cx| {
        let up = up.poll(cx, &mut client_read, &mut server_write)?;
        let down = down.poll(cx, &mut server_read, &mut client_write)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 << 10]);
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read, and not yet taken by the writing side.
    pending: Vec<u8>,
    eof: bool,
    done: bool,
}

impl Half {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.done {
            if !self.pending.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
                self.pending.drain(..n);
                if self.pending.is_empty() {
                    self.pending = Vec::new();
                }
            } else if self.eof {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
            } else {
                ready!(BUFFER.with_borrow_mut(|buffer| {
                    let mut buffer = ReadBuf::new(buffer);
                    ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                    let input = buffer.filled();
                    self.eof = input.is_empty();
                    let written = match Pin::new(&mut *to).poll_write(cx, input) {
                        Poll::Ready(n) => n?,
                        Poll::Pending => 0,
                    };
                    self.pending.extend_from_slice(&input[written..]);
                    Poll::Ready(io::Result::Ok(()))
                }))?;
            }
        }
        Poll::Ready(Ok(()))
    }
}
