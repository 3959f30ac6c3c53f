//! How the kernel finds out that the other side is gone without a word.

use super::transport::Io;
use socket2::TcpKeepalive;
use std::io;
use std::time::Duration;

/// Linux counts in whole seconds, and fails for none or for more than its `MAX_TCP_KEEPIDLE`.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32767));
/// It counts in milliseconds, takes none for its own choice, and fails for what is no `int`.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: (Duration, Duration) = (
    Duration::from_millis(1),
    Duration::from_millis(i32::MAX as u64),
);

/// Options that detect a dead peer. `None`: the kernel's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Liveness {
    /// Idle time before the first TCP keepalive probe.
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Option<Duration>,
}

impl Liveness {
    /// Sets the options of a TCP socket. The kernel closes a Unix socket with its peer's process.
    pub fn watch(&self, io: &Io) -> io::Result<()> {
        let Some(socket) = io.tcp() else {
            return Ok(());
        };
        if let Some(after) = self.keepalive {
            let (least, most) = KEEPALIVE;
            let after = after.clamp(least, most);
            let interval = (after / 4).max(least);
            let keepalive = TcpKeepalive::new().with_time(after).with_interval(interval);
            socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
        }
        match self.user_timeout {
            Some(timeout) => Self::set_user_timeout(io, Some(timeout)),
            None => Ok(()),
        }
    }

    /// Sets it where the system has it; `None` is the kernel's choice.
    pub(crate) fn set_user_timeout(io: &Io, timeout: Option<Duration>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(socket) = io.tcp() {
            let (least, most) = USER_TIMEOUT;
            let timeout = timeout.map(|timeout| timeout.clamp(least, most));
            socket.set_tcp_user_timeout(timeout)?;
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (io, timeout);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn any_time_is_one_that_the_kernel_takes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap());
        let socket = Io::from(socket.await.unwrap());
        for time in [
            Duration::from_nanos(1),
            Duration::from_millis(999),
            Duration::from_secs(60),
            Duration::from_secs(32768),
            Duration::from_secs(u64::from(u32::MAX)),
            Duration::MAX,
        ] {
            let liveness = Liveness {
                keepalive: Some(time),
                user_timeout: Some(time),
            };
            liveness.watch(&socket).unwrap();
            let socket = socket.socket();
            assert!(socket.keepalive().unwrap(), "{time:?}");
            #[cfg(target_os = "linux")]
            assert!(socket.tcp_user_timeout().unwrap().is_some(), "{time:?}");
        }
    }
}
