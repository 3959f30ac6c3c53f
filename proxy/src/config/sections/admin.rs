//! `[admin]`: metrics, health, API and dashboard.

use std::fmt;
use std::net::SocketAddr;

use http::HeaderName;

use super::super::given::Scope;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::listen_address::ListenAddress;
use super::super::mistake::{Mistake, ValueSource};
use super::listener::{ListenerConfig, Placed};

pub(super) const TABLE: Table = Table {
    name: "admin",
    about: "The admin address. `admin = false` in place of this table switches it off.",
    reference: "Metrics, health, API and dashboard; see [admin \
                address](operations.md#admin-address).",
    keys: &[
        Key::proxy("admin.listen", Shape::Address)
            .or_off()
            .default("127.0.0.1:9090")
            .help(
                "Address of metrics, health, stream table and dashboard; any address other than \
                 loopback requires admin.token",
            )
            .advice("For Prometheus on another machine set 0.0.0.0:9090 and a token."),
        Key::proxy("admin.token", Shape::Secret)
            .or_off()
            .default("off")
            .help("Bearer token that the admin address requires; best set by SSE_GUARD_ADMIN_TOKEN")
            .advice("The environment keeps it out of files that are copied."),
        Key::proxy("admin.user_header", Shape::Header)
            .or_off()
            .default("off")
            .help(
                "Header, set by trusted proxies, that identifies the user; shown with the stream \
                 and usable as a target of /api/send; removed from requests of other peers",
            )
            .advice(
                "Your gateway must set or remove it in every request; otherwise clients choose its \
                 value.",
            ),
    ],
};

/// The admin address.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address; no admin address if `None`. Any address other than loopback implies a token.
    pub listen: Option<SocketAddr>,
    /// Bearer token that requests must contain; none if `None`.
    pub token: Option<String>,
    /// The header that names a stream's user.
    pub user_header: Option<HeaderName>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("listen", &self.listen)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("user_header", &self.user_header)
            .finish()
    }
}

const ADMIN_LISTEN: &str = "admin.listen";
const ADMIN_TOKEN: &str = "admin.token";
/// The keys of [`access`].
pub(in super::super) const ACCESS: [&str; 2] = [ADMIN_LISTEN, ADMIN_TOKEN];

/// The admin address and its token; none where the value is missing.
pub(in super::super) fn access(proxy: Scope<'_>) -> (Option<SocketAddr>, Option<String>) {
    let listen: Result<Option<_>, _> = proxy.get(ADMIN_LISTEN);
    let token: Result<Option<_>, _> = proxy.get(ADMIN_TOKEN);
    (listen.unwrap_or_default(), token.unwrap_or_default())
}

impl Admin {
    pub(in super::super) fn read(
        proxy: Scope<'_>,
        clients: &[Placed],
        problems: &mut Vec<Mistake>,
    ) -> Result<Self, Mistake> {
        let header: Option<String> = proxy.get("admin.user_header")?;
        let given = proxy.given(ADMIN_LISTEN);
        let admin = Self {
            listen: proxy.get(ADMIN_LISTEN)?,
            token: proxy.get(ADMIN_TOKEN)?,
            user_header: header.and_then(|name| name.parse().ok()),
        };
        if let Some(address) = admin.listen {
            let same = |clients: &&Placed| {
                clients
                    .config
                    .address
                    .overlaps(&ListenAddress::Tcp(address))
            };
            let same = clients.iter().find(same);
            problems.extend(same.map(|clients| overlapping(proxy, address, clients)));
        }
        if let Some(address) = admin.listen
            && !address.ip().is_loopback()
            && admin.token.is_none()
        {
            let problem = "is reachable from other machines: set admin.token, by \
                           SSE_GUARD_ADMIN_TOKEN or in the file, or listen on 127.0.0.1";
            let given = given.map(|given| given.source.clone());
            problems.extend(given.map(|source| Mistake::new(source, ADMIN_LISTEN, problem)));
        }
        Ok(admin)
    }

    /// A header that no peer may set.
    pub(in super::super) fn warning(&self, has_trusted_proxies: bool) -> Option<String> {
        (self.user_header.is_some() && !has_trusted_proxies).then(|| {
            "admin.user_header is accepted only from trusted_proxies, which is empty: add the \
             gateway that sets the header"
                .to_owned()
        })
    }
}

/// The mistake of two addresses that no process can listen on at once, at a key that is not a default.
fn overlapping(proxy: Scope<'_>, admin: SocketAddr, clients: &Placed) -> Mistake {
    let ListenerConfig { key, address, .. } = &clients.config;
    let given = proxy.given(ADMIN_LISTEN);
    let given = given.filter(|given| !matches!(given.source, ValueSource::Default));
    let (key, source, other) = match given {
        Some(given) => (
            ADMIN_LISTEN,
            &given.source,
            format!("{key} = \"{address}\""),
        ),
        None => {
            let other = format!("{ADMIN_LISTEN} = \"{admin}\", the default");
            (*key, &clients.source, other)
        }
    };
    let problem = format!(
        "overlaps {other}: clients and operators need different addresses; choose another port, or \
         admin.listen = \"off\""
    );
    Mistake::new(source.clone(), key, problem)
}

#[cfg(test)]
mod tests {
    use crate::config::source::tests::{from_file, problems};

    #[test]
    fn admin_address_within_that_of_clients_is_a_mistake() {
        let cases = [
            (":9090", "127.0.0.1:9090", true),
            ("0.0.0.0:9090", "127.0.0.1:9090", true),
            ("[::]:9090", "[::1]:9090", true),
            ("[::]:9090", "0.0.0.0:9090", true),
            ("127.0.0.1:9090", "[::]:9090", true),
            ("127.0.0.1:9090", "127.0.0.1:9090", true),
            ("[::ffff:127.0.0.1]:9090", "127.0.0.1:9090", true),
            ("0.0.0.0:9090", "[::1]:9090", false),
            (":9090", "127.0.0.1:9091", false),
            (":0", "127.0.0.1:0", false),
            ("127.0.0.2:9090", "127.0.0.1:9090", false),
            (":9090", "off", false),
        ];
        for (listen, admin, refused) in cases {
            let text = format!(
                "listen = '{listen}'\nupstream.url = 'http://app'\n[admin]\nlisten = '{admin}'\n\
                 token = 'a-long-token-for-a-test-0123456789'"
            );
            match from_file(&text) {
                Ok(_) => assert!(!refused, "{listen} {admin}"),
                Err(error) => {
                    assert!(refused, "{error}");
                    assert_eq!(error.mistakes.len(), 1, "{error}");
                    let text = error.to_string();
                    let start = "sse-guard.toml:4: admin.listen: overlaps listen = \"";
                    assert!(text.starts_with(start), "{text}");
                }
            }
        }
        // The default of one of them.
        let found = problems("upstream.url = 'http://app'\nlisten = ':9090'");
        let start =
            "sse-guard.toml:2: listen: overlaps admin.listen = \"127.0.0.1:9090\", the default";
        assert!(found.len() == 1 && found[0].starts_with(start), "{found:?}");
        let found = problems("upstream.url = 'http://app'\nadmin.listen = '127.0.0.1:8080'");
        assert!(
            found.len() == 1 && found[0].contains("admin.listen: overlaps listen"),
            "{found:?}"
        );
    }
}
