//! Options of a server, and those of its sockets.

use super::client_io::ClientIo;
use super::http1::FieldCase;
use super::io::Io;
use super::keepalive::KeepaliveOptions;
use super::proxy_protocol::ProxyProtocol;
use super::registry::{ConnectionEntry, PerClientLimit};
use super::stall::StallTimeouts;
use crate::client_key::IPV6_PREFIX;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// See the methods of [`Server`](super::Server).
#[derive(Clone, Debug)]
pub(super) struct ServerOptions {
    pub(super) head_timeout: Duration,
    pub(super) max_head: usize,
    pub(super) title_case_headers: bool,
    pub(super) write_stall: Option<Duration>,
    pub(super) response_stall: Option<Duration>,
    pub(super) notsent_lowat: Option<u32>,
    pub(super) send_buffer: Option<usize>,
    pub(super) keepalive: KeepaliveOptions,
    pub(super) per_client: PerClientLimit,
    #[cfg(feature = "http2")]
    pub(super) http2: super::http2::Http2Options,
    pub(super) has_free_file: fn() -> bool,
    /// `None` if connections begin with a request.
    pub(super) proxy_protocol: Option<ProxyProtocol>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(75),
            max_head: 64 * 1024,
            title_case_headers: false,
            write_stall: Some(Duration::from_secs(30)),
            response_stall: None,
            notsent_lowat: Some(16 * 1024),
            send_buffer: None,
            keepalive: KeepaliveOptions {
                idle_time: Some(Duration::from_secs(60)),
                user_timeout: Some(Duration::from_secs(60)),
            },
            per_client: PerClientLimit {
                max: None,
                ipv6_prefix: IPV6_PREFIX,
                exempt: Arc::new([]),
            },
            #[cfg(feature = "http2")]
            http2: super::http2::Http2Options::default(),
            has_free_file: || true,
            proxy_protocol: None,
        }
    }
}

impl ServerOptions {
    fn field_case(&self) -> FieldCase {
        match self.title_case_headers {
            true => FieldCase::Title,
            false => FieldCase::Lower,
        }
    }

    fn stall_timeouts(&self) -> StallTimeouts {
        StallTimeouts {
            stream: self.write_stall,
            response: self.response_stall,
            keepalive: self.keepalive,
        }
    }

    /// Sets the options of a client's socket. Fails if the client has disconnected.
    pub(super) fn client_io(&self, io: Io, entry: ConnectionEntry) -> io::Result<ClientIo> {
        self.apply(&io)?;
        let (timeouts, field_case) = (self.stall_timeouts(), self.field_case());
        Ok(ClientIo::new(io, timeouts, field_case, entry))
    }

    fn apply(&self, io: &Io) -> io::Result<()> {
        self.keepalive.apply(io)?;
        if let Some(bytes) = self.send_buffer {
            io.socket().set_send_buffer_size(bytes)?;
        }
        // A Unix socket sends at once, and counts data that its peer has not read as its send buffer.
        let Some(socket) = io.tcp() else {
            return Ok(());
        };
        // Events are small and must not wait for each other.
        socket.set_tcp_nodelay(true)?;
        #[cfg(target_os = "linux")]
        if let Some(bytes) = self.notsent_lowat {
            socket.set_tcp_notsent_lowat(bytes)?;
        }
        Ok(())
    }
}
