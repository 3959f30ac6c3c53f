//! The kinds of values.

/// A KiB in bytes.
pub(super) const KIB: u64 = 1 << 10;
/// A MiB in bytes.
pub(super) const MIB: u64 = 1 << 20;
/// A GiB in bytes.
pub(super) const GIB: u64 = 1 << 30;

/// The kind of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What a value looks like.
    pub shape: Shape,
    /// Whether `off` is a value, too.
    pub off: bool,
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A length of time above zero: `15s`.
    Duration,
    /// A length of time, zero included: `0s`.
    DurationOrZero,
    /// A length of time above zero, or `auto`.
    DurationOrAuto,
    /// A whole number above zero.
    Count,
    /// A count per second, minute or hour: `50/s`.
    Rate,
    /// A number of bytes from the first to the second: `64KiB`.
    Size(u64, u64),
    /// A number from 0 to 1.
    Fraction,
    /// `true` or `false`.
    Bool,
    /// `true`, `false` or `auto`.
    BoolOrAuto,
    /// `true`, `false` or the number of a port.
    BoolOrPort,
    /// One line of text, which may be empty.
    Text,
    /// One line of text that is not empty.
    Filled,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path with perhaps a query, as a request has it.
    Path,
    /// The name of a header.
    Header,
    /// `auto`, `pass`, `upstream`, or a host with perhaps a port: `app.example:8080`.
    UpstreamHost,
    /// The path of a file.
    File,
    /// One of these, or a list of them.
    Files,
    /// The path of a folder.
    Folder,
    /// The name or the address of a server, without a port.
    ServerName,
    /// A secret of 16 visible characters or more.
    Secret,
    /// An IP address and a port: `127.0.0.1:8080`; `:8080` for all addresses, `localhost:8080` for loopback.
    Address,
    /// The same, or the path of a Unix socket: `unix:/run/sse-guard.sock`.
    Listen,
    /// One of these, or a list of them.
    ListenAll,
    /// The permissions of a file: `660`.
    Mode,
    /// An `http://` or `https://` URL without credentials, query and fragment, or `unix:/run/app.sock`.
    Url,
    /// A list of networks: `10.0.0.0/8`.
    Networks,
    /// The same, and `unix` for peers on Unix sockets.
    Proxies,
    /// A list of words.
    Words,
    /// A list of HTTP methods, with at least one.
    Methods,
    /// `upstream`, `*`, or a list of web origins: `https://app.example`.
    Origins,
    /// `any`, `all`, or a list of routes by their paths: `/v1`.
    ReadyWhen,
    /// The length of an IPv6 prefix, 1 to 128.
    Prefix,
}

impl Kind {
    /// Whether the value is a list: an array in the file, comma-separated elsewhere.
    #[must_use]
    pub fn is_list(self) -> bool {
        matches!(
            self.shape,
            Shape::Networks | Shape::Proxies | Shape::Words | Shape::Methods
        )
    }
}

impl From<Shape> for Kind {
    fn from(shape: Shape) -> Self {
        Self { shape, off: false }
    }
}

#[cfg(test)]
impl Shape {
    /// The kind of this shape that `off` is a value of, too.
    pub(super) fn or_off(self) -> Kind {
        Kind {
            shape: self,
            off: true,
        }
    }
}
