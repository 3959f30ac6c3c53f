//! Options with which the kernel detects a dead peer.

use super::io::Io;
use socket2::TcpKeepalive;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Idle times that Linux accepts: whole seconds, at most `MAX_TCP_KEEPIDLE`.
const IDLE_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32767);
/// User timeouts that Linux accepts: milliseconds in an `int`, where zero is the kernel's default.
#[cfg(target_os = "linux")]
const USER_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);

const PROBES: u32 = 3;

/// Options that detect a dead peer. `None`: the kernel's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepaliveOptions {
    /// Idle time before the first TCP keepalive probe.
    pub idle_time: Option<Duration>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Option<Duration>,
}

impl KeepaliveOptions {
    /// Sets the options of a TCP socket. The kernel closes a Unix socket with its peer's process.
    pub fn apply(&self, io: &Io) -> io::Result<()> {
        let Some(socket) = io.tcp() else {
            return Ok(());
        };
        if let Some(idle_time) = self.idle_time {
            let idle_time = clamp(idle_time, &IDLE_TIMES);
            let interval = (idle_time / 4).max(*IDLE_TIMES.start());
            let keepalive = TcpKeepalive::new().with_time(idle_time);
            let keepalive = keepalive.with_interval(interval).with_retries(PROBES);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        match self.user_timeout {
            Some(timeout) => Self::set_user_timeout(io, Some(timeout)),
            None => Ok(()),
        }
    }

    /// Sets `TCP_USER_TIMEOUT` where the system has it; `None`: the kernel's default.
    pub(crate) fn set_user_timeout(io: &Io, timeout: Option<Duration>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(socket) = io.tcp() {
            let timeout = timeout.map(|timeout| clamp(timeout, &USER_TIMEOUTS));
            socket.set_tcp_user_timeout(timeout)?;
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (io, timeout);
        Ok(())
    }
}

fn clamp(time: Duration, range: &RangeInclusive<Duration>) -> Duration {
    time.clamp(*range.start(), *range.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn keepalive_options_of_any_length_are_accepted_by_the_kernel() {
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
            let options = KeepaliveOptions {
                idle_time: Some(time),
                user_timeout: Some(time),
            };
            options.apply(&socket).unwrap();
            let socket = socket.socket();
            assert!(socket.keepalive().unwrap(), "{time:?}");
            #[cfg(target_os = "linux")]
            assert!(socket.tcp_user_timeout().unwrap().is_some(), "{time:?}");
        }
    }
}
