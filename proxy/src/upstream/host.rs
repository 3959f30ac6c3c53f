//! The `Host` of requests to an upstream.

use crate::config::unix_socket;
use http::{HeaderValue, Uri};

/// The upstream's own name, as `Host` has it. One on a Unix socket has none.
pub(super) fn own_host(url: &Uri) -> Option<HeaderValue> {
    if unix_socket(url).is_some() {
        return Some(HeaderValue::from_static("localhost"));
    }
    HeaderValue::from_str(url.authority()?.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_host_is_the_authority_of_the_url_or_localhost() {
        for (url, host) in [
            ("http://app:81/base", "app:81"),
            ("http://unix:/run/app.sock", "localhost"),
        ] {
            assert_eq!(own_host(&url.parse().unwrap()).unwrap(), host);
        }
    }
}
