//! Routes, reloads, health checks, and what `check` reports.

use super::*;
use crate::support::wait_until;

#[test]
fn health_check_runs_over_tls() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let flags = &[
        "--health-check-interval=1s",
        "--health-check-path=/up",
        "--admin-listen=127.0.0.1:0",
        "--ready-when=all",
    ];
    let status = |proxy: &Proxy| {
        let mut client = Client::connect(proxy.admin());
        client.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.head()[9..12].to_owned()
    };
    let proxy = setup.proxy(origin.addr, flags);
    wait_until("a check", || !origin.handshakes().is_empty());
    assert_eq!(status(&proxy), "200");

    let foreign = Authority::new("another CA").issue(NAMES);
    let origin = TlsOrigin::start(server_config(&foreign, ALL_VERSIONS), plain);
    let proxy = setup.proxy(origin.addr, flags);
    let line = proxy.wait_for_log("checks in a row");
    assert!(line.contains("issued by an unknown CA"), "{line}");
    assert_eq!(status(&proxy), "503");
}

#[test]
fn routes_with_other_tls_settings_share_no_connection() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let client = setup.authority.issue(&["client.test"]);
    let pem = setup
        .files
        .write("client.pem", &(client.certificate + &client.key));
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = 'off'\n[upstream]\nurl = 'https://{}'\n\
         tls.ca = '{}'\n[[route]]\npath = '/client'\nupstream.tls.certificate = '{pem}'\n\
         upstream.tls.key = '{pem}'\n[[route]]\npath = '/name'\n\
         upstream.tls.server_name = 'app.test'\n[[route]]\npath = '/equal'\nidle.timeout = '7s'\n",
        origin.addr, setup.ca
    );
    setup.files.write("guard.toml", &text);
    let proxy = Proxy::from_file(&setup.files.path("guard.toml"));
    for path in ["/client", "/name", "/other", "/equal"] {
        for _ in 0..2 {
            assert_ok(&proxy, path);
        }
    }
    let names: Vec<_> = origin.handshakes().into_iter().map(|it| it.name).collect();
    assert_eq!(names, [None, Some("app.test".to_owned()), None]);
}

#[test]
fn reload_reads_the_files_again_and_keeps_the_config_if_one_is_bad() {
    let setup = Setup::new();
    let foreign = Authority::new("another CA");
    let origin = TlsOrigin::start(server_config(&foreign.issue(NAMES), ALL_VERSIONS), plain);
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = 'off'\n[upstream]\nurl = 'https://{}'\n\
         tls.ca = '{}'\n",
        origin.addr, setup.ca
    );
    setup.files.write("guard.toml", &text);
    let proxy = Proxy::from_file(&setup.files.path("guard.toml"));
    fault(&proxy);
    setup.files.write("ca.pem", &foreign.pem());
    proxy.signal("-HUP");
    proxy.wait_for_log("config reloaded");
    assert_ok(&proxy, "/");
    setup.files.write("ca.pem", "no certificate");
    proxy.signal("-HUP");
    let line = proxy.wait_for_log("reload failed");
    assert!(line.contains("upstream.tls.ca"), "{line}");
    assert!(line.contains(&setup.ca), "{line}");
    assert!(line.contains("contains no certificate"), "{line}");
    assert_ok(&proxy, "/");
    // The connection outlives reloads that do not change its settings.
    setup.files.write("ca.pem", &foreign.pem());
    proxy.signal("-HUP");
    proxy.wait_for_log_lines("config reloaded", 2);
    assert_ok(&proxy, "/");
    assert_eq!(origin.handshakes().len(), 1);
}

#[test]
fn check_reports_every_file_that_cannot_be_used() {
    let setup = Setup::new();
    let one = setup.authority.issue(NAMES);
    let key = setup
        .files
        .write("key.pem", &setup.authority.issue(NAMES).key);
    let certificate = setup.files.write("cert.pem", &one.certificate);
    for (keys, expected) in [
        (
            format!("ca = '/gone.pem'\ncertificate = '{key}'\nkey = '{certificate}'"),
            &[
                "upstream.tls.ca: cannot read /gone.pem: No such file",
                "cert.pem contains no private key, but a certificate",
                "key.pem contains no certificate, but a private key",
            ][..],
        ),
        (
            format!("certificate = '{certificate}'\nkey = '{key}'"),
            &["upstream.tls.key: the key does not belong to the certificate"],
        ),
        (
            format!("certificate = '{certificate}'"),
            &["upstream.tls.certificate: requires upstream.tls.key, which is not set"],
        ),
        (
            "server_name = 'a b'".to_owned(),
            &["upstream.tls.server_name: \"a b\" is not a name or an address"],
        ),
    ] {
        let text = format!("[upstream]\nurl = 'https://app.test'\n[upstream.tls]\n{keys}\n");
        let file = setup.files.write("guard.toml", &text);
        let check = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
            .env_clear()
            .args(["check", "--config", &file])
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(2), "{text}");
        let error = String::from_utf8(check.stderr).unwrap();
        for line in expected {
            assert!(error.contains(line), "{line:?} is not in {error}");
        }
    }
}

#[test]
fn check_warns_of_keys_without_a_use() {
    let setup = Setup::new();
    let check = |url: &str| {
        let args = ["check", "--upstream", url, "--upstream-tls-ca", &setup.ca];
        let check = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
            .env_clear()
            .args(args)
            .output()
            .unwrap();
        assert!(check.status.success());
        String::from_utf8(check.stderr).unwrap()
    };
    let warning = "upstream.tls.ca has no effect: no upstream.url begins with https://";
    assert!(check("http://app.test").contains(warning));
    assert!(!check("https://app.test").contains(warning));
}
