//! The subject of a client's certificate: each request of the connection has it, and no other one.

use super::*;
use crate::support::free_address;
use rcgen::{DistinguishedName, DnType};
use serde_json::Value;

const FIELD: &str = "x-client-subject";
const KEYS: &str = "upstream.client_subject_header = 'X-Client-Subject'\nlog.requests = 'all'\n";

/// A proxy that requests certificates of this CA.
struct Clients {
    setup: Setup,
    authority: Authority,
}

impl Clients {
    fn new(keys: &str) -> Self {
        let authority = Authority::new("CA of clients");
        let tls = "certificate = 'DIR/app.pem'\nkey = 'DIR/app.key'\n\
                   client_ca = 'DIR/clients.pem'\nclient_auth = 'optional'";
        let setup = Setup::with(&format!("{KEYS}{keys}"), tls, |_, files| {
            files.write("clients.pem", &authority.pem());
        });
        Self { setup, authority }
    }

    /// A client with a certificate of this common name.
    fn client(
        &self,
        name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let pem = self.authority.issue_with(&[], |params| {
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, name);
        });
        client_with(&self.setup.authority, versions, Some(&pem))
    }

    fn connect(&self, client: &Arc<ClientConfig>) -> Tls {
        connect(self.setup.proxy.addr, client, "app.test")
    }

    /// What the upstream got, of this request.
    fn subject(&self, tls: &mut Tls) -> Option<String> {
        assert_ok(tls);
        self.last_subject()
    }

    fn last_subject(&self) -> Option<String> {
        let request = self.setup.origin.last_request();
        request.field(FIELD).map(str::to_owned)
    }
}

fn subject(name: &str) -> Option<String> {
    Some(format!("CN={name},O=Example"))
}

#[test]
fn subject_is_that_of_the_connection_for_each_of_its_requests() {
    let clients = Clients::new("");
    for version in [&TLS12, &TLS13] {
        let (ann, bob) = (
            clients.client("ann", &[version]),
            clients.client("bob", &[version]),
        );
        let mut of_ann = clients.connect(&ann);
        let mut of_bob = clients.connect(&bob);
        let mut of_none = clients.connect(&clients.setup.client);
        // In turns.
        for _ in 0..2 {
            assert_eq!(clients.subject(&mut of_ann), subject("ann"), "{version:?}");
            assert_eq!(clients.subject(&mut of_none), None, "{version:?}");
            assert_eq!(clients.subject(&mut of_bob), subject("bob"), "{version:?}");
        }
        // Behind a stream the connection is that of another part of the server.
        send(&mut of_ann, FEED);
        read_until(&mut of_ann, "data: 1\n");
        assert_eq!(clients.last_subject(), subject("ann"));
    }
}

#[test]
fn resumed_session_has_the_subject_of_its_client() {
    let clients = Clients::new("");
    for version in [&TLS12, &TLS13] {
        for name in ["ann", "bob"] {
            let client = clients.client(name, &[version]);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let mut tls = clients.connect(&client);
                assert_eq!(clients.subject(&mut tls), subject(name), "{version:?}");
                assert_eq!(
                    tls.get_ref().conn.handshake_kind(),
                    Some(kind),
                    "{version:?}"
                );
            }
        }
        let mut tls = clients.connect(&clients.setup.client);
        assert_eq!(clients.subject(&mut tls), None);
    }
}

#[test]
fn requests_over_http2_have_the_subject() {
    let clients = Clients::new("");
    let mut client = (*clients.client("ann", &[&TLS13])).clone();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let mut tls = clients.connect(&Arc::new(client));
    assert_eq!(http2_get(&mut tls).unwrap().1, b"ok");
    assert_eq!(clients.last_subject(), subject("ann"));
}

#[test]
fn subject_that_a_client_writes_itself_does_not_reach_the_upstream() {
    let clients = Clients::new("trusted_proxies = ['127.0.0.0/8']");
    let ann = clients.client("ann", &[&TLS13]);
    for (client, expected) in [(&ann, subject("ann")), (&clients.setup.client, None)] {
        for field in [
            "X-Client-Subject",
            "x-client-subject",
            "X_Client_Subject",
            "HTTP_X_CLIENT_SUBJECT",
        ] {
            let mut tls = clients.connect(client);
            send(
                &mut tls,
                &format!(
                    "GET /a HTTP/1.1\r\nHost: app.test\r\nConnection: {FIELD}\r\n{field}: CN=root\r\n\r\n"
                ),
            );
            read_until(&mut tls, "\r\n\r\n");
            let request = clients.setup.origin.last_request();
            assert_eq!(request.field(FIELD).map(str::to_owned), expected, "{field}");
            assert!(!request.head.contains("CN=root"), "{}", request.head);
        }
    }
}

#[test]
fn session_of_one_listener_is_not_resumed_by_another() {
    let other = free_address();
    let keys = "[[listener]]\nname = 'first'";
    let authority = Authority::new("CA of clients");
    let tls = format!(
        "certificate = 'DIR/app.pem'\nkey = 'DIR/app.key'\nclient_ca = 'DIR/clients.pem'\nclient_auth = 'optional'\n\
         [[listener]]\naddress = '{other}'\n[listener.tls]\ncertificate = 'DIR/app.pem'\nkey = 'DIR/app.key'\n\
         client_ca = 'DIR/others.pem'\nclient_auth = 'optional'"
    );
    let setup = Setup::with(&format!("{KEYS}{keys}"), &tls, |_, files| {
        files.write("clients.pem", &authority.pem());
        files.write("others.pem", &Authority::new("another CA").pem());
    });
    let clients = Clients { setup, authority };
    let ann = clients.client("ann", &[&TLS13]);
    for _ in 0..2 {
        let mut tls = clients.connect(&ann);
        assert_eq!(clients.subject(&mut tls), subject("ann"));
    }
    // It gets the whole certificate once more, which is not of its CA.
    let mut tls = connect(other, &ann, "app.test");
    let sent = tls.get_mut().write_all(PLAIN.as_bytes());
    let mut line = String::new();
    let read = sent.and_then(|()| tls.read_line(&mut line));
    assert!(read.is_err() || line.is_empty(), "{line}");
}

#[test]
fn certificate_of_a_trusted_proxy_is_not_the_user_of_its_clients() {
    let keys = "limit = { key = 'user', per_ip = 1 }\ntrusted_proxies = ['127.0.0.0/8']\n\
                admin.user_header = 'x-user'";
    let clients = Clients::new(keys);
    let proxy = clients.client("proxy", &[&TLS13]);
    let open = |fields: &str| {
        let mut tls = clients.connect(&proxy);
        let head = FEED.trim_end();
        send(&mut tls, &format!("{head}\r\n{fields}\r\n\r\n"));
        let head = read_until(&mut tls, "\r\n\r\n");
        (head[9..12].parse::<u16>().unwrap(), tls)
    };
    let mut streams = Vec::new();
    for (fields, status) in [
        ("X-Forwarded-For: 192.0.2.1", 200),
        ("X-Forwarded-For: 192.0.2.2", 200),
        ("X-Forwarded-For: 192.0.2.2", 429),
        ("X-Forwarded-For: 192.0.2.2\r\nX-User: ann", 200),
        ("X-Forwarded-For: 192.0.2.3\r\nX-User: ann", 429),
    ] {
        let (found, tls) = open(fields);
        assert_eq!(found, status, "{fields}");
        streams.push(tls);
    }
}

#[test]
fn limits_count_users_by_option_and_logs_and_streams_name_them() {
    let clients = Clients::new("limit = { key = 'user', per_ip = 1 }");
    let (ann, bob) = (
        clients.client("ann", &[&TLS13]),
        clients.client("bob", &[&TLS13]),
    );
    let open = |client: &Arc<ClientConfig>| {
        let mut tls = clients.connect(client);
        send(&mut tls, FEED);
        let head = read_until(&mut tls, "\r\n\r\n");
        (head[9..12].parse::<u16>().unwrap(), tls)
    };
    let (status, _first) = open(&ann);
    assert_eq!(status, 200);
    assert_eq!(open(&ann).0, 429);
    let (status, _second) = open(&bob);
    assert_eq!(status, 200);
    // By its address.
    let (status, _third) = open(&clients.setup.client);
    assert_eq!(status, 200);
    assert_eq!(open(&clients.setup.client).0, 429);
    let line = clients.setup.proxy.wait_for_log("request rejected");
    assert!(line.contains("\"user\":\"CN=ann,O=Example\""), "{line}");
    assert_ok(&mut clients.connect(&ann));
    let line = clients.setup.proxy.wait_for_log("\"request\"");
    assert!(line.contains("\"user\":\"CN=ann,O=Example\""), "{line}");
    let mut admin = Client::connect(clients.setup.proxy.admin());
    admin.send("GET /api/streams HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    admin.head();
    let streams: Value = serde_json::from_slice(&admin.raw()).unwrap();
    let streams = streams["streams"].as_array().unwrap();
    let mut users: Vec<_> = streams
        .iter()
        .map(|stream| stream["user"].as_str())
        .collect();
    users.sort_unstable();
    let expected = [None, Some("CN=ann,O=Example"), Some("CN=bob,O=Example")];
    assert_eq!(users, expected);
}
