//! `[[listener]]`: where clients connect, if there are several addresses or one needs settings of its own.

mod acme_names;
mod redirect;
mod tls;

use std::sync::Arc;

use super::super::given::{AllValues, Scope};
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::listen_address::ListenAddress;
use super::super::mistake::{Mistake, ValueSource};
use super::super::unix::{FileMode, TrustedProxies};
use super::super::value::{Choice, choice};
use super::client;
use super::top::{LISTEN, trusted_proxies};
use crate::tls::ServerTls;
pub(super) use acme_names::KEY as ACME_NAMES;
pub use redirect::HttpsRedirect;

const ADDRESS: &str = "listener.address";
const NAME: &str = "listener.name";
const ROUTES: &str = "listener.routes";
const HTTP2: &str = "listener.http2";
const PROXY_PROTOCOL: &str = "listener.proxy_protocol";

/// The keys of a `[[listener]]`. They have neither a flag nor a variable.
pub const LISTENER: Table = Table {
    name: "listener",
    about: "Addresses to accept clients on, each with settings of its own, in place of listen.",
    reference: "Addresses to accept clients on, each with settings of its own, in place of `listen`; see \
                [listeners](#listeners). The keys have neither a flag nor an environment variable.",
    keys: &[
        Key::proxy(ADDRESS, Shape::Listen)
            .example("\":8080\"")
            .help("Address of the listener, spelled as one of listen"),
        Key::proxy(NAME, Shape::Filled)
            .example("\"public\"")
            .help("Name in logs and metrics; default: the address"),
        Key::proxy(ROUTES, Shape::Words).example("[\"/v1\"]").help(
            "Routes that are served here, by their paths; a request for another route gets a \
                 404; default: all",
        ),
        Key::proxy(redirect::KEY, Shape::BoolOrPort)
            .example("true")
            .help(
                "Redirect each request to https at the host that it names, on port 443 (true) or another \
                 port; no route is served; default: false",
            ),
        Key::proxy("listener.mode", Shape::Mode)
            .example("\"660\"")
            .help("Permissions of the socket file of a Unix socket; default: listen_mode"),
        Key::proxy("listener.owner", Shape::Filled)
            .or_off()
            .example("\":www-data\"")
            .help("Owner of the socket file of a Unix socket; default: listen_owner"),
        Key::proxy(PROXY_PROTOCOL, Shape::Choice(ProxyProtocol::WORDS))
            .example("\"required\"")
            .help(
                "Header of the PROXY protocol (version 1 or 2) that names the client, from \
                 trusted_proxies; required: a connection without it is closed; default: off",
            ),
        Key::proxy(HTTP2, Shape::Bool).example("true").help(
            "Accept HTTP/2: with TLS by ALPN, without TLS by prior knowledge; default: true with \
                 TLS, else client.http2",
        ),
        Key::proxy(tls::CERTIFICATE, Shape::Files)
            .example("\"/etc/sse-guard/app.pem\"")
            .help(
                "Clients connect over TLS: PEM file with the certificate and its intermediate \
                 certificates, or a list of files, of which the client's SNI selects one",
            ),
        Key::proxy(tls::KEY, Shape::Files)
            .example("\"/etc/sse-guard/app.key\"")
            .help(
                "PEM file with the private key of listener.tls.certificate, not encrypted; for a \
                 list, that of each in their order",
            ),
        Key::proxy(ACME_NAMES, Shape::Words)
            .example("[\"app.example\"]")
            .help(
                "In place of listener.tls.certificate: names whose certificates are ordered and renewed at a CA by \
                 ACME; see the table acme",
            ),
        Key::proxy(tls::CLIENT_CA, Shape::File)
            .example("\"/etc/sse-guard/clients.pem\"")
            .help(
                "Clients need a certificate: PEM file with the certificates of the CAs that may \
                 issue it",
            ),
        Key::proxy(tls::CLIENT_AUTH, Shape::Choice(tls::CLIENT_AUTH_WORDS))
            .example("\"required\"")
            .help(
                "Whether each client needs a certificate of listener.tls.client_ca; optional: one \
                 without it is served, too; default: required",
            ),
    ],
};

/// An address to accept clients on, and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The key that sets the address.
    pub key: &'static str,
    /// The name in logs and metrics, unique among all listeners.
    pub name: Arc<str>,
    /// The address, which overlaps that of no other listener.
    pub address: ListenAddress,
    /// The permissions of its socket file.
    pub file_mode: FileMode,
    /// User and group of its socket file, as `user:group`.
    pub file_owner: Option<String>,
    /// The paths of the routes that are served, each of which exists; all routes if `None`.
    pub routes: Option<Vec<String>>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Whether HTTP/2 is accepted: over TLS by ALPN, without TLS by prior knowledge.
    pub http2: bool,
    /// TLS, if clients connect over it.
    pub tls: Option<ServerTls>,
    /// Where requests are redirected to, in place of being served; never together with TLS or routes.
    pub redirect: Option<HttpsRedirect>,
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// They begin with a request.
    Off,
    /// Each does, from a trusted proxy.
    Required,
}

choice! { ProxyProtocol {
    "off" => Off,
    "required" => Required,
} }

impl ListenerConfig {
    /// The name in log lines; none for the addresses of `listen`.
    pub(crate) fn log_name(&self) -> Option<&Arc<str>> {
        Some(&self.name).filter(|_| self.key == ADDRESS)
    }

    /// The scheme of its requests.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https",
            None => "http",
        }
    }

    /// Keeps the TLS settings of the listener before if these are equal: they have the keys of its session tickets.
    pub(crate) fn keep_tls_of(&mut self, before: &Self) {
        if self.tls == before.tls {
            self.tls.clone_from(&before.tls);
        }
    }

    /// Whether the route of this path is served.
    pub(crate) fn serves(&self, route: &str) -> bool {
        let routes = self.routes.as_deref();
        self.redirect.is_none()
            && routes.is_none_or(|routes| routes.iter().any(|path| path == route))
    }
}

/// The keys of the socket file, of `listen` and of a listener.
const MODE: [&str; 2] = ["listen_mode", "listener.mode"];
const OWNER: [&str; 2] = ["listen_owner", "listener.owner"];

impl ListenerConfig {
    /// The key in which the socket file differs from that of the same listener before.
    pub(crate) fn changed_file_key(&self, before: &Self) -> Option<&'static str> {
        let of_table = usize::from(self.key == ADDRESS);
        match self.address {
            ListenAddress::Tcp(_) | ListenAddress::Passed(_) => None,
            _ if self.file_mode != before.file_mode => Some(MODE[of_table]),
            _ if self.file_owner != before.file_owner => Some(OWNER[of_table]),
            _ => None,
        }
    }
}

/// A listener, and where its address was set.
#[derive(Clone, Debug)]
pub(in super::super) struct Placed {
    pub(in super::super) config: ListenerConfig,
    pub(in super::super) source: ValueSource,
    name_source: ValueSource,
}

/// The listeners of the tables, or else those of `listen`.
pub(in super::super) fn listeners(
    values: &AllValues,
    problems: &mut Vec<Mistake>,
) -> Result<Vec<Placed>, Mistake> {
    let proxy = values.proxy();
    if values.listeners.is_empty() {
        return of_listen(proxy, problems);
    }
    let mut all = Vec::new();
    for table in &values.listeners {
        let scope = values.listener(table);
        let Some(given) = scope.given(ADDRESS) else {
            let problem = "missing; write one such as address = \":8080\"";
            problems.push(Mistake::new(table.source.clone(), ADDRESS, problem));
            continue;
        };
        let address: ListenAddress = scope.get(ADDRESS)?;
        let name: Option<String> = scope.get_if_set(NAME)?;
        let http2 = match scope.get_if_set(HTTP2)? {
            Some(http2) => http2,
            None => tls::is_set(scope) || client::http2(proxy)?,
        };
        let config = ListenerConfig {
            key: ADDRESS,
            name: name.unwrap_or_else(|| address.to_string()).into(),
            address,
            file_mode: match scope.get_if_set("listener.mode")? {
                Some(mode) => mode,
                None => proxy.get("listen_mode")?,
            },
            file_owner: match scope.get_if_set("listener.owner")? {
                Some(owner) => owner,
                None => proxy.get("listen_owner")?,
            },
            routes: scope.get_if_set(ROUTES)?,
            proxy_protocol: scope
                .get_if_set(PROXY_PROTOCOL)?
                .unwrap_or(ProxyProtocol::Off),
            http2,
            tls: tls::read(scope, http2, problems)?,
            redirect: redirect::read(scope, problems)?,
        };
        problems.extend(untrusted_header(&config, scope)?);
        if let (Some(routes), Some(given)) = (&config.routes, scope.given(ROUTES)) {
            check_routes(routes, &given.source, values, problems);
        }
        all.push(Placed {
            config,
            source: given.source.clone(),
            name_source: scope.given(NAME).unwrap_or(given).source.clone(),
        });
    }
    check_apart(&all, problems);
    check_names(&all, problems);
    Ok(all)
}

fn of_listen(proxy: Scope<'_>, problems: &mut Vec<Mistake>) -> Result<Vec<Placed>, Mistake> {
    let addresses: Vec<ListenAddress> = proxy.get(LISTEN)?;
    let (mode, owner): (FileMode, Option<String>) =
        (proxy.get("listen_mode")?, proxy.get("listen_owner")?);
    let http2 = client::http2(proxy)?;
    let source = proxy.given(LISTEN).map(|given| given.source.clone());
    let source = source.unwrap_or(ValueSource::Default);
    let all = addresses.into_iter().map(|address| Placed {
        config: ListenerConfig {
            key: LISTEN,
            name: address.to_string().into(),
            address,
            file_mode: mode,
            file_owner: owner.clone(),
            routes: None,
            proxy_protocol: ProxyProtocol::Off,
            http2,
            tls: None,
            redirect: None,
        },
        source: source.clone(),
        name_source: source.clone(),
    });
    let all: Vec<_> = all.collect();
    check_apart(&all, problems);
    Ok(all)
}

fn check_routes(
    named: &[String],
    source: &ValueSource,
    values: &AllValues,
    problems: &mut Vec<Mistake>,
) {
    if named.is_empty() {
        let problem = "lists no route; leave it out to serve all of them";
        problems.push(Mistake::new(source.clone(), ROUTES, problem));
    }
    problems.extend(values.unknown_routes(ROUTES, source, named));
}

/// A header counts from trusted peers alone, so that a listener without them would close each connection.
fn untrusted_header(config: &ListenerConfig, scope: Scope<'_>) -> Result<Option<Mistake>, Mistake> {
    let trusted = trusted_proxies(scope)?;
    let is_useless = match &config.address {
        ListenAddress::Tcp(_) => trusted.networks.is_empty(),
        ListenAddress::Unix(_) => !trusted.unix,
        // Of either kind.
        ListenAddress::Passed(_) => trusted == TrustedProxies::default(),
    };
    let is_required = config.proxy_protocol == ProxyProtocol::Required;
    let given = scope
        .given(PROXY_PROTOCOL)
        .filter(|_| is_required && is_useless);
    Ok(given.map(|given| {
        let problem = "is accepted from trusted_proxies alone, which names none for this address: \
                       add the load balancer's network";
        Mistake::new(given.source.clone(), PROXY_PROTOCOL, problem)
    }))
}

fn check_apart(all: &[Placed], problems: &mut Vec<Mistake>) {
    for (index, later) in all.iter().enumerate() {
        let address = &later.config.address;
        let mut earlier = all[..index].iter();
        if let Some(first) = earlier.find(|first| first.config.address.overlaps(address)) {
            let problem = format!(
                "\"{address}\" overlaps \"{}\" ({}): each listener needs an address of its own",
                first.config.address, first.source
            );
            problems.push(Mistake::new(
                later.source.clone(),
                later.config.key,
                problem,
            ));
        }
    }
}

/// Names distinguish listeners in metrics.
fn check_names(all: &[Placed], problems: &mut Vec<Mistake>) {
    for (index, later) in all.iter().enumerate() {
        let name = &later.config.name;
        if all[..index].iter().any(|first| first.config.name == *name) {
            let problem =
                format!("{name:?} is the name of another listener, too: choose one for each");
            problems.push(Mistake::new(later.name_source.clone(), NAME, problem));
        }
    }
}

/// Routes that no client reaches, and certificates that clients reject.
pub(in super::super) fn warnings<'a>(
    listeners: &[ListenerConfig],
    routes: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let unserved = routes.filter(|route| listeners.iter().all(|listener| !listener.serves(route)));
    let remedy = match listeners.iter().all(|it| it.redirect.is_some()) {
        true => "add a [[listener]] without redirect_https",
        false => "add it to listener.routes",
    };
    unserved
        .map(|route| format!("no listener serves the route {route}: {remedy}"))
        .chain(tls::warnings(listeners))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::config::source::tests::{config, from_file, problems, warnings};
    use crate::config::{FileMode, ListenerConfig};

    const UPSTREAM: &str = "upstream.url = 'http://app'\n";

    fn listeners(text: &str) -> Vec<ListenerConfig> {
        config(&format!("{UPSTREAM}{text}")).listeners
    }

    #[test]
    fn listeners_of_listen_are_its_addresses() {
        let names = |text: &str| -> Vec<String> {
            let listeners = listeners(text).into_iter();
            listeners
                .map(|listener| listener.name.to_string())
                .collect()
        };
        assert_eq!(names(""), ["127.0.0.1:8080"]);
        assert_eq!(names("listen = ':80'"), ["[::]:80"]);
        let two = "listen = ['127.0.0.1:80', 'unix:/run/a.sock']\nlisten_mode = '600'";
        assert_eq!(names(two), ["127.0.0.1:80", "unix:/run/a.sock"]);
        assert_eq!(listeners(two)[1].file_mode, FileMode(0o600));
        for (text, problem) in [
            ("listen = []", "lists no address; write \"127.0.0.1:8080\""),
            ("listen = ['80']", "\"80\" is not an IP address and port"),
            (
                "listen = [':80', '127.0.0.1:80']",
                "\"127.0.0.1:80\" overlaps \"[::]:80\"",
            ),
        ] {
            let found = problems(&format!("{UPSTREAM}{text}"));
            let start = format!("sse-guard.toml:2: listen: {problem}");
            assert!(
                found.len() == 1 && found[0].starts_with(&start),
                "{found:?}"
            );
        }
    }

    #[test]
    fn listener_has_settings_of_its_own_and_defaults_of_the_top_level() {
        let listeners = listeners(
            "listen_owner = ':www'\n\
             [[listener]]\naddress = ':80'\nname = 'public'\nroutes = ['/v1', '/']\n\
             [[listener]]\naddress = 'unix:/run/a.sock'\nmode = '600'\n\
             [[route]]\npath = '/v1'",
        );
        let [public, unix] = &listeners[..] else {
            panic!("{listeners:?}")
        };
        assert_eq!(&*public.name, "public");
        assert!(public.serves("/v1") && public.serves("/") && !public.serves("/v2"));
        assert_eq!(&*unix.name, "unix:/run/a.sock");
        assert!(unix.serves("/v2"));
        assert_eq!(unix.file_mode, FileMode(0o600));
        assert_eq!(unix.file_owner.as_deref(), Some(":www"));
    }

    #[test]
    fn listeners_that_cannot_work_are_mistakes() {
        for (text, problem) in [
            (
                "[[listener]]\nname = 'a'",
                "2: listener.address: missing; write one such as",
            ),
            (
                "[[listener]]\naddress = '80'",
                "3: listener.address: \"80\" is not an IP address",
            ),
            (
                "[[listener]]\naddress = ':80'\n[[listener]]\naddress = '0.0.0.0:80'",
                "5: listener.address: \"0.0.0.0:80\" overlaps \"[::]:80\" (sse-guard.toml:3)",
            ),
            (
                "[[listener]]\naddress = ':80'\nname = 'a'\n[[listener]]\naddress = ':81'\nname = 'a'",
                "7: listener.name: \"a\" is the name of another listener, too",
            ),
            (
                "[[listener]]\naddress = ':80'\nroutes = ['/v']\n[[route]]\npath = '/v1'",
                "4: listener.routes: no route has the path \"/v\"; did you mean \"/v1\"?",
            ),
            (
                "[[listener]]\naddress = ':80'\nroutes = []",
                "4: listener.routes: lists no route; leave it out",
            ),
            (
                "[[listener]]\nadress = ':80'",
                "3: listener.adress: unknown key; did you mean address?",
            ),
            (
                "[[listener]]\naddress = ':9090'",
                "3: listener.address: overlaps admin.listen = \"127.0.0.1:9090\", the default",
            ),
            (
                "[[listener]]\naddress = ':80'\n[[route]]\npath = '/a'\nupstream.url = 'http://localhost'",
                "6: upstream.url: is this proxy's own address (listener.address)",
            ),
            (
                "listen = ':80'\n[[listener]]\naddress = ':81'",
                "2: listen: is set beside [[listener]]: write each address as a [[listener]]",
            ),
            (
                "[[listener]]\naddress = ':80'\nproxy_protocol = 'required'",
                "4: listener.proxy_protocol: is accepted from trusted_proxies alone",
            ),
            (
                "[[listener]]\naddress = ':80'\nproxy_protocol = 'on'",
                "4: listener.proxy_protocol: \"on\" is not one of off, required",
            ),
            (
                "listener = { address = ':80' }",
                "2: listener: is a list of tables; write [[listener]]",
            ),
            (
                "[[listeners]]\naddress = ':80'",
                "2: listeners: unknown; did you mean [[listener]]?",
            ),
        ] {
            let found = problems(&format!("{UPSTREAM}{text}"));
            let start = format!("sse-guard.toml:{problem}");
            assert!(
                found.iter().any(|line| line.starts_with(&start)),
                "{found:#?}"
            );
        }
    }

    #[test]
    fn listeners_replace_the_default_of_listen_and_of_an_image() {
        use crate::config::source::{ConfigInputs, FileText, read, tests::pairs};
        let text = format!("{UPSTREAM}[[listener]]\naddress = ':81'");
        let read_with = |name: &str| {
            read(ConfigInputs {
                env: pairs(&[(name, ":80")]),
                file: Some(Ok(FileText {
                    name: "a.toml".to_owned(),
                    text: text.clone(),
                })),
                ..ConfigInputs::default()
            })
        };
        let loaded = read_with("SSE_GUARD_DEFAULT_LISTEN").unwrap();
        assert_eq!(loaded.config.listeners.len(), 1);
        let error = read_with("SSE_GUARD_LISTEN").unwrap_err().to_string();
        assert!(
            error.starts_with("SSE_GUARD_LISTEN: is set beside"),
            "{error}"
        );
    }

    #[test]
    fn listeners_that_are_printed_read_back_as_they_were() {
        let text = format!(
            "{UPSTREAM}[[listener]]\naddress = ':80'\nroutes = ['/']\n[[listener]]\n\
             name = 'b'\naddress = 'unix:/run/a.sock'\nowner = 'off'\nmode = '600'"
        );
        let loaded = from_file(&text).unwrap();
        let printed = loaded.to_toml(&crate::config::SystemLimits::default());
        let again = from_file(&printed).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.config.listeners, loaded.config.listeners);
        assert!(
            printed.contains("# listen is replaced by [[listener]]"),
            "{printed}"
        );
    }

    #[test]
    fn route_that_no_listener_serves_has_a_warning() {
        let text = "[[listener]]\naddress = ':80'\nroutes = ['/']\n[[route]]\npath = '/v1'";
        assert_eq!(
            warnings(text),
            ["no listener serves the route /v1: add it to listener.routes"]
        );
    }
}
