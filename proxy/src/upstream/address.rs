//! Where an upstream listens.

use crate::config::{port_of, unix_socket};
use crate::tls::ClientTls;
use http::Uri;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The address of an upstream: scheme, host and port with the settings of TLS, or the path of a Unix socket. The path
/// that requests go below is not part of it.
#[derive(Clone, Debug)]
pub(super) struct Address {
    name: Arc<str>,
    transport: Transport,
}

/// How the address is reached.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    /// The host and the port of this URL, and TLS if it is one of `https`.
    Tcp(Uri, Option<ClientTls>),
    Unix(Arc<Path>),
}

impl Address {
    /// Of a URL as the config has it, with its settings of TLS.
    pub(super) fn of(url: &Uri, tls: Option<&ClientTls>) -> Self {
        if let Some(unix) = unix_socket(url) {
            return Self {
                name: format!("unix:{}", unix.socket).into(),
                transport: Transport::Unix(Path::new(unix.socket).into()),
            };
        }
        let scheme = url.scheme_str().unwrap_or("http");
        let host = url.host().unwrap_or_default();
        let port = port_of(url);
        let name = format!("{scheme}://{host}:{port}").to_ascii_lowercase();
        Self {
            name: name.into(),
            transport: Transport::Tcp(url.clone(), tls.cloned()),
        }
    }

    /// Without the settings of TLS.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn tls(&self) -> Option<&ClientTls> {
        match &self.transport {
            Transport::Tcp(_, tls) => tls.as_ref(),
            Transport::Unix(_) => None,
        }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.tls() == other.tls()
    }
}

impl Eq for Address {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_scheme_host_and_port_or_a_socket() {
        for (url, name) in [
            ("http://app", "http://app:80"),
            ("https://App/base", "https://app:443"),
            ("https://app:80", "https://app:80"),
            ("http://APP:80/base", "http://app:80"),
            ("http://app:8080/", "http://app:8080"),
            ("http://[2001:DB8::1]/", "http://[2001:db8::1]:80"),
            ("http://unix:/run/App.sock", "unix:/run/App.sock"),
            ("http://unix:/run/App.sock:/base", "unix:/run/App.sock"),
        ] {
            assert_eq!(Address::of(&url.parse().unwrap(), None).to_string(), name);
        }
    }
}
