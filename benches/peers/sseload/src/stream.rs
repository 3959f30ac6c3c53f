//! One event stream as its client reads it.

use crate::client::Failure;
use crate::clock::now_ns;
use crate::transport::Transport;
use crate::wire::{Response, Scanner, Seen};
use h2::RecvStream;
use h2::client::ResponseFuture;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

thread_local! {
    /// Connections read into one buffer per thread, so that thousands of them stay cheap.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 << 10]);
}

/// One event stream that is being read.
pub struct Stream {
    source: Source,
    scanner: Scanner,
    /// Bytes of the body so far.
    pub body_bytes: u64,
}

/// Where the bytes come from.
enum Source {
    Http1(Transport, Response),
    /// Before and after the response's head.
    Http2Head(ResponseFuture),
    Http2Body(RecvStream),
}

impl Stream {
    /// Sends `request` on an open connection.
    pub async fn start(mut transport: Transport, request: &[u8]) -> Result<Self, Failure> {
        transport.write_all(request).await.map_err(Failure::Io)?;
        transport.flush().await.map_err(Failure::Io)?;
        Ok(Self::from(Source::Http1(transport, Response::default())))
    }

    /// A stream of HTTP/2 whose request was sent.
    pub fn of_http2(response: ResponseFuture) -> Self {
        Self::from(Source::Http2Head(response))
    }

    /// Reads once. `on` gets what came, with the time of the read. False at the proper end.
    pub async fn read(&mut self, on: &mut (dyn FnMut(Seen, u64) + Send)) -> Result<bool, Failure> {
        poll_fn(|cx| match &mut self.source {
            Source::Http1(..) => self.poll_http1(cx, on),
            _ => self.poll_http2(cx, on),
        })
        .await
    }

    fn poll_http1(
        &mut self,
        cx: &mut Context<'_>,
        on: &mut (dyn FnMut(Seen, u64) + Send),
    ) -> Poll<Result<bool, Failure>> {
        let Self { source, scanner, body_bytes } = self;
        let Source::Http1(transport, response) = source else { unreachable!("called for HTTP/1.1") };
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(transport).poll_read(cx, &mut buffer)).map_err(Failure::Io)?;
            let now = now_ns();
            let input = buffer.filled();
            if input.is_empty() {
                response.at_eof()?;
                return Poll::Ready(Ok(false));
            }
            response.feed(input, &mut |body| {
                *body_bytes += body.len() as u64;
                scanner.feed(body, &mut |seen| on(seen, now))
            })?;
            Poll::Ready(match response.status() {
                None => Ok(true),
                Some(200) if response.is_event_stream() => Ok(!response.done()),
                Some(200) => Err(Failure::NotEvents(response.content_type().to_owned())),
                Some(other) => Err(Failure::Status(other)),
            })
        })
    }

    fn poll_http2(
        &mut self,
        cx: &mut Context<'_>,
        on: &mut (dyn FnMut(Seen, u64) + Send),
    ) -> Poll<Result<bool, Failure>> {
        if let Source::Http2Head(response) = &mut self.source {
            let response = ready!(Pin::new(response).poll(cx)).map_err(Failure::Http2)?;
            if response.status() != 200 {
                return Poll::Ready(Err(Failure::Status(response.status().as_u16())));
            }
            let kind = response.headers().get("content-type");
            let kind = kind.map_or("", |kind| kind.to_str().unwrap_or("not text"));
            if !kind.starts_with("text/event-stream") {
                return Poll::Ready(Err(Failure::NotEvents(kind.to_owned())));
            }
            self.source = Source::Http2Body(response.into_body());
        }
        let Self { source, scanner, body_bytes } = self;
        let Source::Http2Body(body) = source else { unreachable!("called for HTTP/2") };
        let Some(data) = ready!(body.poll_data(cx)) else { return Poll::Ready(Ok(false)) };
        let (data, now) = (data.map_err(Failure::Http2)?, now_ns());
        body.flow_control().release_capacity(data.len()).map_err(Failure::Http2)?;
        *body_bytes += data.len() as u64;
        scanner.feed(&data, &mut |seen| on(seen, now))?;
        Poll::Ready(Ok(true))
    }

    /// Reads up to the first event, which makes the stream count as open.
    pub async fn ready(&mut self, on: &mut (dyn FnMut(Seen, u64) + Send)) -> Result<(), Failure> {
        let mut events = 0_u64;
        loop {
            let more = self
                .read(&mut |seen, now| {
                    events += u64::from(matches!(seen, Seen::Event(_)));
                    on(seen, now);
                })
                .await?;
            if events > 0 {
                return Ok(());
            }
            if !more {
                return Err(Failure::Ended);
            }
        }
    }

    /// The connection itself, if it is the stream's own.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.source {
            Source::Http1(transport, _) => Some(transport.tcp()),
            Source::Http2Head(_) | Source::Http2Body(_) => None,
        }
    }
}

impl From<Source> for Stream {
    fn from(source: Source) -> Self {
        Self { source, scanner: Scanner::default(), body_bytes: 0 }
    }
}
