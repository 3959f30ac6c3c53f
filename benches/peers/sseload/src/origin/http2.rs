//! The origin's event streams by HTTP/2, many on one connection.

use super::{Counters, Request, Up, param, tick_phase};
use crate::clock::now_ns;
use crate::event::{self, Stamp};
use anyhow::Result;
use bytes::Bytes;
use h2::server::SendResponse;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// More than any run opens.
const MAX_STREAMS: u32 = 100_000;

/// Serves a connection to its end.
pub async fn serve(counters: &Arc<Counters>, stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(MAX_STREAMS).handshake(stream).await?;
    let mut number = 0;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let request = Request {
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            close: false,
        };
        let counters = counters.clone();
        number += 1;
        // An error is the client's cancelling.
        tokio::spawn(async move { answer(&counters, &request, respond, number).await });
    }
    Ok(())
}

async fn answer(counters: &Counters, request: &Request, mut respond: SendResponse<Bytes>, number: u64) -> Result<()> {
    if !matches!(request.path.as_str(), "/idle" | "/tick") {
        let not_found = http::Response::builder().status(404).body(())?;
        respond.send_response(not_found, true)?;
        return Ok(());
    }
    let _open = Up::new(&counters.open_streams);
    let head =
        http::Response::builder().header("content-type", "text/event-stream").header("cache-control", "no-cache");
    let mut body = respond.send_response(head.body(())?, false)?;
    let mut send = |seq, size| {
        let mut event = Vec::new();
        event::encode(&mut event, Stamp { seq, t: now_ns() }, size);
        counters.events.fetch_add(1, Relaxed);
        counters.bytes.fetch_add(event.len() as u64, Relaxed);
        body.send_data(event.into(), false)
    };
    if request.path == "/idle" {
        send(0, 0)?;
        poll_fn(|cx| body.poll_reset(cx)).await?;
        return Ok(());
    }
    let size = param(request, "size", 200);
    let every = Duration::from_secs_f64(param(request, "interval_ms", 1000.0_f64).clamp(0.1, 1e9) / 1e3);
    let mut clock = interval_at(Instant::now() + tick_phase(every, number), every);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    send(0, size)?;
    for seq in 1.. {
        clock.tick().await;
        // It fails once the client has gone.
        send(seq, size)?;
    }
    Ok(())
}
