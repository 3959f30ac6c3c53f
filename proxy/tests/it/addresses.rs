//! The addresses that the real binary listens on, by the spellings of `listen` and `admin.listen`.

use crate::support::{Client, Origin, Proxy, skipped};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

/// The status line of the response to a request with the token.
fn status(addr: SocketAddr, target: &str) -> String {
    let mut client = Client::connect(addr);
    client.send(&format!(
        "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    ));
    let head = client.head();
    head.lines().next().unwrap().to_owned()
}

const TOKEN: &str = "0123456789abcdef";
const ADMIN_TOKEN: &str = "--admin-token=0123456789abcdef";

fn has_ipv6() -> bool {
    let bound = TcpListener::bind("[::1]:0");
    if let Err(error) = &bound {
        skipped(&format!("[::1] cannot be listened on here: {error}"));
    }
    bound.is_ok()
}

fn plain() -> Origin {
    Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    })
}

#[test]
fn listen_address_without_a_host_accepts_both_ip_families() {
    let origin = plain();
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let flags = [upstream.as_str(), "--admin-listen=:0", ADMIN_TOKEN];
    let proxy = Proxy::listening(":0", &flags);
    let (clients, admin) = (proxy.addr.port(), proxy.admin().port());
    let mut addresses = vec![std::net::IpAddr::from(Ipv4Addr::LOCALHOST)];
    if has_ipv6() {
        assert_eq!(proxy.addr.ip(), Ipv6Addr::UNSPECIFIED);
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    for address in addresses {
        let of_client = status((address, clients).into(), "/");
        assert_eq!(of_client, "http/1.1 200 ok");
        // Not in the form of an IPv6 socket.
        let client = address.to_string();
        assert_eq!(
            origin.last_request().field("x-forwarded-for"),
            Some(&*client)
        );
        let of_admin = status((address, admin).into(), "/metrics");
        assert_eq!(of_admin, "http/1.1 200 ok");
    }
}

#[test]
fn localhost_is_loopback_and_requires_no_token() {
    let origin = plain();
    let upstream = format!("--upstream-url=http://{}", origin.addr);
    let flags = [upstream.as_str(), "--admin-listen=localhost:0"];
    let proxy = Proxy::listening("localhost:0", &flags);
    for (address, target) in [(proxy.addr, "/"), (proxy.admin(), "/metrics")] {
        assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(status(address, target), "http/1.1 200 ok");
    }
}

#[test]
fn image_default_yields_to_a_mounted_file() {
    let origin = plain();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mounted.toml");
    let image = [("SSE_GUARD_DEFAULT_LISTEN", ":0")];
    let upstream = format!(
        "upstream.url = 'http://{}'\nadmin.listen = 'off'\n",
        origin.addr
    );

    fs::write(&path, format!("listen = '127.0.0.1:0'\n{upstream}")).unwrap();
    let proxy = Proxy::from_file_with(&path, &image);
    assert_eq!(proxy.addr.ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(status(proxy.addr, "/"), "http/1.1 200 ok");

    fs::write(&path, upstream).unwrap();
    let proxy = Proxy::from_file_with(&path, &image);
    assert!(proxy.addr.ip().is_unspecified());
    TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.addr.port())).unwrap();
}
