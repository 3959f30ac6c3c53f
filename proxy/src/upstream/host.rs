//! The `Host` of requests to an upstream.

use crate::config::{self, UpstreamHost, unix_socket};
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Uri};

/// The `Host` of a route's requests.
#[derive(Debug)]
pub(super) enum HostField {
    /// The client's, and this in requests without one.
    Pass(Option<HeaderValue>),
    Replace(HeaderValue),
}

impl HostField {
    pub(super) fn of(config: &config::Upstream) -> Self {
        let own = own_host(&config.url);
        let is_own = match &config.host {
            UpstreamHost::Name(name) => return Self::Replace(name.clone()),
            UpstreamHost::Auto => config.tls.is_some(),
            UpstreamHost::Upstream => true,
            UpstreamHost::Pass => false,
        };
        match own {
            Some(own) if is_own => Self::Replace(own),
            own => Self::Pass(own),
        }
    }

    pub(super) fn set(&self, headers: &mut HeaderMap) {
        match self {
            Self::Pass(_) if headers.contains_key(HOST) => {}
            Self::Pass(None) => {}
            Self::Pass(Some(host)) | Self::Replace(host) => {
                headers.insert(HOST, host.clone());
            }
        }
    }

    /// That of requests of the proxy itself.
    pub(super) fn without_client(self) -> Option<HeaderValue> {
        match self {
            Self::Pass(host) => host,
            Self::Replace(host) => Some(host),
        }
    }
}

/// The upstream's own name. One on a Unix socket has none.
fn own_host(url: &Uri) -> Option<HeaderValue> {
    if unix_socket(url).is_some() {
        return Some(HeaderValue::from_static("localhost"));
    }
    HeaderValue::from_str(url.authority()?.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_file;

    #[test]
    fn host_is_that_of_the_client_of_the_upstream_or_of_the_config() {
        let tcp = "http://app:81/base";
        let unix = "unix:/run/app.sock";
        let tls = "https://api.test/v1";
        for (url, host, client, sent) in [
            (tcp, "pass", Some("site.test"), "site.test"),
            (tcp, "pass", None, "app:81"),
            (unix, "pass", Some("site.test"), "site.test"),
            (unix, "pass", None, "localhost"),
            (tcp, "upstream", Some("site.test"), "app:81"),
            (unix, "upstream", Some("site.test"), "localhost"),
            (
                tcp,
                "app.example:8080",
                Some("site.test"),
                "app.example:8080",
            ),
            (unix, "app.example", None, "app.example"),
            (tcp, "auto", Some("site.test"), "site.test"),
            (unix, "auto", Some("site.test"), "site.test"),
            (tls, "auto", Some("site.test"), "api.test"),
            (tls, "auto", None, "api.test"),
            (tls, "pass", Some("site.test"), "site.test"),
        ] {
            // Else this depends on the CAs of the machine.
            let insecure = "upstream.tls.insecure_skip_verify = true";
            let text = format!("upstream.url = '{url}'\nupstream.host = '{host}'\n{insecure}");
            let config = from_file(&text).unwrap().config;
            let host = HostField::of(&config.routes[0].settings.upstream);
            let mut headers = HeaderMap::new();
            let client = client.map(HeaderValue::from_static);
            headers.extend(client.map(|client| (HOST, client)));
            host.set(&mut headers);
            assert_eq!(headers[HOST], sent, "{text}");
        }
    }
}
