//! A client of HTTP/2.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use super::client::PATIENCE;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A client's connection, and the task that runs it.
pub struct Http2 {
    pub requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::with(addr, h2::client::Builder::new()).await
    }

    pub async fn with(addr: SocketAddr, builder: h2::client::Builder) -> Self {
        let socket = tokio::net::TcpStream::connect(addr).await.unwrap();
        Self::over(socket, builder).await
    }

    pub async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        builder: h2::client::Builder,
    ) -> Self {
        let (requests, connection) = builder.handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        Self {
            requests,
            connection,
        }
    }

    /// Drops the connection without a word.
    pub async fn vanish(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }

    pub async fn send(
        &mut self,
        request: Request<()>,
        body: &[Bytes],
    ) -> Result<Response<RecvStream>, h2::Error> {
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        let (response, mut send) = self.requests.send_request(request, body.is_empty())?;
        for (n, piece) in body.iter().enumerate() {
            let mut piece = piece.clone();
            while !piece.is_empty() {
                send.reserve_capacity(piece.len());
                let granted = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                let now = piece.split_to(granted.unwrap()?.min(piece.len()));
                let is_last = n + 1 == body.len() && piece.is_empty();
                send.send_data(now, is_last)?;
            }
        }
        timeout(PATIENCE, response).await.unwrap()
    }

    /// Ends the connection, and with it all streams.
    pub async fn end(self) {
        drop(self.requests);
        timeout(PATIENCE, self.connection)
            .await
            .unwrap()
            .unwrap()
            .ok();
    }

    /// Waits until the connection has ended.
    pub async fn closed(self) -> Result<(), h2::Error> {
        timeout(PATIENCE, self.connection).await.unwrap().unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Result<Response<RecvStream>, h2::Error> {
        let request = Request::get(format!("http://a.test{path}"));
        self.send(request.body(()).unwrap(), &[]).await
    }
}

/// The next DATA frame.
pub async fn frame(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = timeout(PATIENCE, body.data()).await.unwrap()?;
    let data = data.inspect(|data| {
        let _ = body.flow_control().release_capacity(data.len());
    });
    Some(data)
}

/// The data to the end of the stream, the number of its frames, and how it ends.
pub async fn rest(body: &mut RecvStream) -> (Vec<u8>, usize, Result<(), Option<Reason>>) {
    let (mut seen, mut frames) = (Vec::new(), 0);
    while let Some(data) = frame(body).await {
        match data {
            Ok(data) => seen.extend_from_slice(&data),
            Err(error) => return (seen, frames, Err(error.reason())),
        }
        frames += 1;
    }
    (seen, frames, Ok(()))
}
