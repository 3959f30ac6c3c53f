//! `listener.redirect_https`: plain HTTP to HTTPS.

use super::super::super::given::Scope;
use super::super::super::mistake::Mistake;
use super::super::super::value::{FromValue, Value};
use super::{ROUTES, tls};

pub(super) const KEY: &str = "listener.redirect_https";

/// Where requests are redirected to: `https` at the host that each names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// The port there.
    pub port: u16,
}

/// That of a URL without one.
const DEFAULT_PORT: u16 = 443;

/// What the key may be set to.
struct Setting(Option<HttpsRedirect>);

impl FromValue for Setting {
    fn from_value(value: &Value) -> Option<Self> {
        let port = match value {
            Value::Bool(false) => None,
            Value::Bool(true) => Some(DEFAULT_PORT),
            Value::Port(port) => Some(port.get()),
            _ => return None,
        };
        Some(Self(port.map(|port| HttpsRedirect { port })))
    }
}

impl HttpsRedirect {
    /// The URL of a request for this host and port, which are valid, and target.
    pub(crate) fn location(self, host: &str, target: &str) -> String {
        let name = match host.rfind(':') {
            // That of an IPv6 address is within its brackets.
            Some(at) if !host[at..].contains(']') => &host[..at],
            _ => host,
        };
        // RFC 9112 section 3.2.4: OPTIONS * has the URL without a path.
        let path = if target == "*" { "" } else { target };
        match self.port {
            DEFAULT_PORT => format!("https://{name}{path}"),
            port => format!("https://{name}:{port}{path}"),
        }
    }
}

/// The redirect of a listener, which has neither TLS nor routes.
pub(super) fn read(
    scope: Scope<'_>,
    problems: &mut Vec<Mistake>,
) -> Result<Option<HttpsRedirect>, Mistake> {
    let Some(Setting(Some(redirect))) = scope.get_if_set(KEY)? else {
        return Ok(None);
    };
    let problem = match () {
        () if tls::is_set(scope) => {
            "cannot be combined with listener.tls, as its clients use https already: \
                                     write a [[listener]] of its own for plain HTTP"
        }
        () if scope.given(ROUTES).is_some() => {
            "cannot be combined with listener.routes, as each request is \
                                                redirected: leave one of them out"
        }
        () => return Ok(Some(redirect)),
    };
    problems.push(scope.mistake(KEY, problem));
    Ok(Some(redirect))
}

#[cfg(test)]
mod tests {
    use super::HttpsRedirect;
    use crate::config::ListenerConfig;
    use crate::config::source::tests::{config, problems, warnings};

    fn text(keys: &str) -> String {
        format!("upstream.url = 'http://app'\n[[listener]]\naddress = ':80'\n{keys}\n")
    }

    fn listener(keys: &str) -> ListenerConfig {
        config(&text(keys)).listeners.remove(0)
    }

    #[test]
    fn redirect_has_a_port() {
        let port = |keys: &str| listener(keys).redirect.map(|redirect| redirect.port);
        assert_eq!(port(""), None);
        assert_eq!(port("redirect_https = false\nroutes = ['/']"), None);
        assert_eq!(port("redirect_https = true"), Some(443));
        assert_eq!(port("redirect_https = 8443"), Some(8443));
    }

    #[test]
    fn location_has_the_host_of_the_request_and_the_port_of_https() {
        for (port, host, target, location) in [
            (443, "a.test", "/x?y=1", "https://a.test/x?y=1"),
            (443, "a.test:80", "/", "https://a.test/"),
            (443, "a.test:", "/", "https://a.test/"),
            (8443, "a.test:8080", "/", "https://a.test:8443/"),
            (443, "[2001:db8::1]", "/", "https://[2001:db8::1]/"),
            (
                8443,
                "[2001:db8::1]:80",
                "//b.test",
                "https://[2001:db8::1]:8443//b.test",
            ),
            (443, "a.test", "*", "https://a.test"),
        ] {
            let found = HttpsRedirect { port }.location(host, target);
            assert_eq!(found, location);
        }
    }

    #[test]
    fn redirect_beside_tls_or_routes_is_a_mistake() {
        for (keys, problem) in [
            (
                "redirect_https = true\nroutes = ['/']",
                "4: listener.redirect_https: cannot be combined with listener.routes",
            ),
            (
                "redirect_https = 443\ntls.certificate = '/x.pem'",
                "4: listener.redirect_https: cannot be combined with listener.tls",
            ),
            (
                "redirect_https = 0",
                "4: listener.redirect_https: \"0\" is neither a port",
            ),
        ] {
            let found = problems(&text(keys)).join("\n");
            assert!(
                found.contains(&format!("sse-guard.toml:{problem}")),
                "{found}"
            );
        }
    }

    #[test]
    fn redirect_serves_no_route() {
        let alone = "[[listener]]\naddress = ':80'\nredirect_https = true";
        let problem = "no listener serves the route /: add a [[listener]] without redirect_https";
        assert_eq!(warnings(alone), [problem]);
        let beside = format!("{alone}\n[[listener]]\naddress = ':81'");
        assert_eq!(warnings(&beside), [""; 0]);
    }
}
