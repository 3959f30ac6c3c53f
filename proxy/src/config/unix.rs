//! Unix sockets as values: the path of one, the mode of its file, and an upstream on one.

use http::Uri;
use ipnet::IpNet;
use sse_guard::client_key::ForwardedIp;
use std::fmt;
use std::path::PathBuf;

/// Bytes of a path that fit into a socket's address on every system.
const MAX_PATH: usize = 103;

/// The permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

/// In octal, as in the config.
impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:o}", self.0)
    }
}

/// Peers whose forwarding headers are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Those in these networks.
    pub networks: Vec<IpNet>,
    /// Those on Unix sockets.
    pub unix: bool,
}

impl TrustedProxies {
    /// Which peers are trusted, by their `X-Forwarded-For` unless another header is set.
    pub(crate) fn clients(&self) -> ForwardedIp {
        ForwardedIp::new(self.networks.iter().copied()).unix(self.unix)
    }
}

/// Reads the permissions of a file: three octal digits.
pub(super) fn file_mode(text: &str) -> Result<FileMode, String> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3);
    let digits = digits.unwrap_or(text);
    let is_octal = digits.len() == 3 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| is_octal);
    mode.map(FileMode).ok_or_else(|| {
        "is not the mode of a file; write three octal digits, such as \"660\"".to_owned()
    })
}

/// An upstream on a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnixUpstream<'a> {
    /// The path of the socket file.
    pub(crate) socket: &'a str,
    /// The path that requests go below; empty if there is none.
    pub(crate) base: &'a str,
}

/// The socket of an upstream's URL as [`upstream_url`] returns it, if it has one.
pub(crate) fn unix_socket(url: &Uri) -> Option<UnixUpstream<'_>> {
    // No other URL has an empty port.
    if url.authority()?.as_str() != "unix:" {
        return None;
    }
    let (socket, base) = url.path().split_once(':').unwrap_or((url.path(), ""));
    Some(UnixUpstream { socket, base })
}

/// Reads `unix:/run/app.sock`, with a path behind a second colon or without, as nginx spells it; a scheme
/// before it is optional. `None` for any other text.
pub(super) fn upstream_url(text: &str) -> Option<Result<Uri, String>> {
    const RIGHT: &str = "write one such as \"unix:/run/app.sock\", or \"unix:/run/app.sock:/base\" for \
                         requests below a path";
    let rest = match text.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => &text[7..],
        _ => text,
    };
    let rest = rest.strip_prefix("unix:")?;
    let (socket, base) = rest.split_once(':').unwrap_or((rest, ""));
    let is_base = base.is_empty() || base.starts_with('/');
    if !is_base || base.contains(':') {
        return Some(Err(format!(
            "has a path that does not begin with a slash; {RIGHT}"
        )));
    }
    if let Err(problem) = socket_path(socket) {
        return Some(Err(problem));
    }
    let base = base.trim_end_matches('/');
    let colon = if base.is_empty() { "" } else { ":" };
    let url = format!("http://unix:{socket}{colon}{base}").parse();
    Some(url.map_err(|_| format!("has a character that no URL can contain; {RIGHT}")))
}

/// Reads the path of a socket file.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') || text.ends_with('/') {
        return Err(
            "has no absolute path of a socket file; write one such as \"unix:/run/sse-guard.sock\""
                .to_owned(),
        );
    }
    if text.len() > MAX_PATH {
        return Err(format!(
            "has a socket path of {} bytes; the system takes {MAX_PATH} at most",
            text.len()
        ));
    }
    if text.contains(['\0', '\n', '\r']) {
        return Err("has a control character in the path of its socket file".to_owned());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_url_of_a_unix_socket_has_a_path_behind_a_second_colon() {
        for (text, socket, base) in [
            ("unix:/run/app.sock", "/run/app.sock", ""),
            ("unix:/run/app.sock:/", "/run/app.sock", ""),
            ("unix:/run/app.sock:/base/", "/run/app.sock", "/base"),
            ("http://unix:/run/app.sock", "/run/app.sock", ""),
            ("HTTP://unix:/run/app.sock:/a/b", "/run/app.sock", "/a/b"),
        ] {
            let url = upstream_url(text).unwrap().unwrap();
            assert_eq!(
                unix_socket(&url),
                Some(UnixUpstream { socket, base }),
                "{text}"
            );
            assert_eq!(upstream_url(&url.to_string()), Some(Ok(url)));
        }
        for text in [
            "unix:",
            "unix:app.sock",
            "unix:/run/",
            "unix:/run/app.sock:base",
            "unix:/run/app.sock:/a:b",
            "unix:/run/a b.sock",
            &format!("unix:/{}", "x".repeat(200)),
        ] {
            assert!(upstream_url(text).unwrap().is_err(), "{text}");
        }
        assert_eq!(upstream_url("http://unix/app"), None);
        assert_eq!(unix_socket(&"http://unix/app".parse().unwrap()), None);
        assert_eq!(unix_socket(&"http://unix:80/app".parse().unwrap()), None);
    }

    #[test]
    fn file_mode_is_octal() {
        for (text, mode) in [("660", 0o660), ("0600", 0o600), ("777", 0o777)] {
            assert_eq!(file_mode(text), Ok(FileMode(mode)));
        }
        for text in ["", "66", "0o660", "668", "rw-rw----", "01777", "+66"] {
            assert!(file_mode(text).is_err(), "{text}");
        }
    }
}
