//! A stand-in for the load balancers and CDNs that close a connection without data: a TCP forwarder with
//! an idle timeout, so that the demo's page shows within seconds what takes a minute or more elsewhere.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

/// Of nginx and ALB it is 60 s, of Cloudflare 100 s.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

const BUFFER: usize = 16 * 1024;
const MAX_CONNECTIONS: usize = 256;
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Forwards connections from a free port of the loopback interface to `target`; returns its address.
pub(super) async fn start(target: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, target));
    Ok(address)
}

async fn serve(listener: TcpListener, target: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((client, _)) => {
                connections.spawn(async move {
                    // How a connection ends is the client's to see.
                    if let Ok(upstream) = TcpStream::connect(target).await {
                        let _ = upstream.set_nodelay(true);
                        let _ = client.set_nodelay(true);
                        let _ = forward(client, upstream, IDLE_TIMEOUT).await;
                    }
                });
            }
            Err(error) => {
                warn!(%error, "demo: the load balancer cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Until one of them ends, or no byte has come from either for `idle`.
async fn forward<C, U>(mut client: C, mut upstream: U, idle: Duration) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut from_upstream) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let deadline = Instant::now() + idle;
        let next = async {
            tokio::select! {
                read = client.read(&mut from_client) => read.map(|length| (length, true)),
                read = upstream.read(&mut from_upstream) => read.map(|length| (length, false)),
            }
        };
        match timeout_at(deadline, next).await {
            Err(_) | Ok(Ok((0, _))) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok((length, true))) => upstream.write_all(&from_client[..length]).await?,
            Ok(Ok((length, false))) => client.write_all(&from_upstream[..length]).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test(start_paused = true)]
    async fn it_forwards_both_ways_and_closes_a_connection_without_data() {
        let ((mut client, inner), (outer, mut upstream)) = (duplex(64), duplex(64));
        let start = Instant::now();
        let hop = tokio::spawn(forward(inner, outer, Duration::from_secs(10)));
        let mut text = [0; 4];
        for _ in 0..3 {
            sleep(Duration::from_secs(9)).await;
            client.write_all(b"ping").await.unwrap();
            upstream.read_exact(&mut text).await.unwrap();
            upstream.write_all(b"pong").await.unwrap();
            client.read_exact(&mut text).await.unwrap();
            assert_eq!(&text, b"pong");
        }
        assert_eq!(client.read(&mut text).await.unwrap(), 0);
        assert_eq!(start.elapsed(), Duration::from_secs(3 * 9 + 10));
        hop.await.unwrap().unwrap();
    }
}
