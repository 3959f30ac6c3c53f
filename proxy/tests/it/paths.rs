//! Spellings of request paths: one limit for all of them, and one place below the base path.

use super::target::{plain, put};
use crate::support::{Origin, Proxy};
use std::io::Write;
use tempfile::NamedTempFile;

/// In front of `origin`, with a route of its own limit beside the rest.
fn limited(origin: &Origin, base: &str, mode: &str) -> Proxy {
    let mut file = NamedTempFile::new().unwrap();
    write!(
        file,
        "upstream.url = 'http://{}{base}'\nlimit.rate = 'off'\npath.normalize = '{mode}'\n\
         [[route]]\npath = '/admin'\nlimit.per_ip = 1\n[[route]]\npath = '/caf\u{e9}'\nlimit.per_ip = 1\n\
         [[route]]\npath = '/v1/models:ask'\nlimit.per_ip = 1\n\
         [[route]]\npath = '/a|b'\nlimit.per_ip = 1\n\
         [[route]]\npath = '/v1/*/events'\nlimit.per_ip = 1\n",
        origin.addr
    )
    .unwrap();
    Proxy::with_flags(&["--config", file.path().to_str().unwrap()])
}

#[test]
fn path_has_one_limit_in_all_spellings() {
    let origin = Origin::held();
    for (mode, refused) in [("match", "400"), ("rewrite", "429")] {
        let proxy = limited(&origin, "", mode);
        let mut held = proxy.get("/admin");
        assert_eq!(&held.head()[9..12], "200");
        let status = |path: &str| proxy.get(path).head()[9..12].to_owned();
        for path in [
            "/admin",
            "/admin/",
            "/admin/x",
            "/%61dmin",
            "/%61%64%6D%69%6e?q",
            "http://b/admin",
        ] {
            assert_eq!(status(path), "429", "{mode} {path}");
        }
        // The escape is the one spelling of what no URI has raw.
        let mut of_bar = proxy.get("/a|b");
        assert_eq!(&of_bar.head()[9..12], "200");
        assert_eq!(status("/a|b"), "429", "{mode}");
        assert_eq!(status("/a%7cb/c"), "429", "{mode}");
        for path in [
            "//admin",
            "/./admin",
            "/%2e/admin",
            "/x/../admin",
            "/x/%2E%2e/admin",
            "///./admin",
        ] {
            assert_eq!(status(path), refused, "{mode} {path}");
        }
        for path in [
            "/admin;x",
            "/admin%2Fx",
            "/admin%5cx",
            "/%2fadmin",
            "/x/..;/admin",
            "/x/..%2fadmin",
            "/../admin",
            "/admin%00",
            "/admin%3bx",
            "/v1/models%3Aask",
            "/v1/models%3aask/x",
            "/v1/%6Dodels%3aask",
            "/v1/a%3bx/..%2fmodels:ask",
        ] {
            assert_eq!(status(path), "400", "{mode} {path}");
        }
        for path in [
            "/ADMIN",
            "/admin%2e",
            "/administer",
            "/a%2Fb",
            "/a;b",
            "/a//b",
        ] {
            assert_eq!(status(path), "200", "{mode} {path}");
        }
        // A URL parser takes these for a host and `/admin`.
        for path in [
            "//x.test/admin",
            "///x.test/admin",
            "//u@h:1/admin",
            "//[::1]/admin/x",
            "http://b//x.test/admin",
        ] {
            let expected = if mode == "match" { "400" } else { "200" };
            assert_eq!(status(path), expected, "{mode} {path}");
        }
        let mut held = proxy.get("/caf%C3%A9");
        assert_eq!(&held.head()[9..12], "200");
        assert_eq!(status("/caf%c3%a9"), "429");
        let mut held = proxy.get("/v1/models:ask");
        assert_eq!(&held.head()[9..12], "200");
        assert_eq!(status("/v1/models:ask/"), "429");
        let mut held = proxy.get("/v1/a/events");
        assert_eq!(&held.head()[9..12], "200");
        for path in ["/v1/a/events/", "/v1/b/events//", "/v1/a/event%73/"] {
            assert_eq!(status(path), "429", "{mode} {path}");
        }
        assert_eq!(status("/v1/a/events%2f"), "400", "{mode}");
    }
}

#[test]
fn path_spelling_to_the_upstream_follows_the_mode() {
    let origin = plain();
    for (mode, cases) in [
        (
            "match",
            [
                ("/a/./b//c/../d?x=/../y", "/a/./b//c/../d?x=/../y"),
                ("/%7eb%3a?%61", "/%7eb%3a?%61"),
                ("/%61dmin/%3a?%61", "/admin/%3A?%61"),
                ("/a%2fb", "/a%2fb"),
            ],
        ),
        (
            "rewrite",
            [
                ("/a/./b//c/../d?x=/../y", "/a/b/d?x=/../y"),
                ("/%7eb%3a?%61", "/~b%3A?%61"),
                ("/%61dmin/%3a?%61", "/admin/%3A?%61"),
                ("/a%2fb", "/a%2Fb"),
            ],
        ),
        (
            "off",
            [
                ("/a/./b//c/../d?x=/../y", "/a/./b//c/../d?x=/../y"),
                ("//admin", "//admin"),
                ("/x/../admin", "/x/../admin"),
                ("/admin%2fb", "/admin%2fb"),
            ],
        ),
    ] {
        let proxy = limited(&origin, "/base", mode);
        for (path, forwarded) in cases {
            let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(put(&proxy, bytes.as_bytes()).0, "200", "{mode} {path}");
            assert_eq!(origin.last_request().path, format!("/base{forwarded}"));
        }
    }
}

#[test]
fn paths_stay_below_the_base_path() {
    let origin = plain();
    for mode in ["match", "rewrite", "off"] {
        let proxy = limited(&origin, "/base", mode);
        for path in [
            "/..",
            "/../secret",
            "/%2e%2e/secret",
            "/%2E./secret",
            "/..%2fsecret",
            "/..%5Csecret",
            "/..;/secret",
            "/..;a=b/secret",
            "/a/../../secret",
            "//../secret",
            "/a//../../secret",
            "/a%2fb/../../secret",
            "http://b/../secret",
        ] {
            let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(put(&proxy, bytes.as_bytes()).0, "400", "{mode} {path}");
        }
    }
    assert_eq!(origin.served(), 0);
}

#[test]
fn long_path_is_handled_in_linear_time() {
    let origin = plain();
    let proxy = Proxy::start(origin.addr, &[]);
    for (part, status) in [("/ab", "200"), ("/a;", "414"), ("%41", "414")] {
        let path = format!("/x{}", part.repeat(4096));
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(put(&proxy, bytes.as_bytes()).0, status, "{part}");
    }
}
