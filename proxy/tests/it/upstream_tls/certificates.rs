//! Which certificates are accepted, and which are sent.

use super::*;
use crate::support::tls::mutual_config;

#[test]
fn self_signed_certificate_in_the_file_of_cas_is_trusted() {
    let setup = Setup::new();
    let pem = self_signed(NAMES, |_| {});
    // A file has several certificates.
    let text = format!("{}{}", setup.authority.pem(), pem.certificate);
    let ca = setup.files.write("both.pem", &text);
    for pem in [&pem, &setup.authority.issue(NAMES)] {
        let origin = TlsOrigin::start(server_config(pem, ALL_VERSIONS), plain);
        let url = format!("https://{}", origin.addr);
        let proxy = Proxy::with_flags(&["--upstream", &url, "--upstream-tls-ca", &ca]);
        assert_ok(&proxy, "/");
    }
}

#[test]
fn certificates_of_the_system_are_the_default() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let text = format!(
        "listen = '127.0.0.1:0'\nadmin.listen = 'off'\nupstream.url = 'https://{}'",
        origin.addr
    );
    let file = setup.files.write("guard.toml", &text);
    // OpenSSL's variable in place of the files of this system.
    let variables = [("SSL_CERT_FILE", setup.ca.as_str())];
    let proxy = Proxy::from_file_with(setup.files.path("guard.toml").as_path(), &variables);
    assert_ok(&proxy, "/");
    let empty = setup.files.write("empty.pem", "");
    let check = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .env_clear()
        .env("SSL_CERT_FILE", empty)
        .args(["check", "--config", &file])
        .output()
        .unwrap();
    let error = String::from_utf8(check.stderr).unwrap();
    assert!(
        error.contains("upstream.url: this system has no CA certificates"),
        "{error}"
    );
    assert!(error.contains("upstream.tls.ca"), "{error}");
}

#[test]
fn certificate_is_not_verified_with_insecure_skip_verify() {
    let pem = self_signed(&["elsewhere.test"], |_| {});
    let origin = TlsOrigin::start(server_config(&pem, ALL_VERSIONS), plain);
    let url = format!("https://{}", origin.addr);
    let proxy = Proxy::with_flags(&["--upstream", &url, "--upstream-tls-insecure-skip-verify"]);
    let line = proxy.wait_for_log("INSECURE");
    assert!(
        line.contains("\"WARN\"") && line.contains("upstream.tls.ca"),
        "{line}"
    );
    assert_ok(&proxy, "/");
}

#[test]
fn server_name_is_sent_and_verified_in_place_of_the_host() {
    let setup = Setup::new();
    let origin = setup.origin(plain);
    let proxy = setup.proxy(origin.addr, &["--upstream-tls-server-name=app.test"]);
    assert_ok(&proxy, "/");
    assert_eq!(origin.handshakes()[0].name.as_deref(), Some("app.test"));
    let proxy = setup.proxy(origin.addr, &["--upstream-tls-server-name=other.test"]);
    assert_fault(
        &proxy,
        "its certificate is not for other.test, but for 127.0.0.1, app.test",
        "upstream.tls.server_name",
    );
}

#[test]
fn client_certificate_is_sent_to_an_upstream_that_requires_it() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new();
        let pem = setup.authority.issue(NAMES);
        let origin = TlsOrigin::start(mutual_config(&pem, &[version], &setup.authority), plain);
        let with_client = |name: &str, authority: &Authority| {
            let client = authority.issue(&["client.test"]);
            let write = |kind: &str, pem: &str| setup.files.write(&format!("{name}.{kind}"), pem);
            let certificate = write("pem", &client.certificate);
            let key = write("key", &client.key);
            let [of_certificate, of_key] = ["--upstream-tls-certificate", "--upstream-tls-key"];
            setup.proxy(origin.addr, &[of_certificate, &certificate, of_key, &key])
        };
        let proxy = with_client("client", &setup.authority);
        assert_ok(&proxy, "/");
        assert!(origin.handshakes()[0].has_client_certificate);

        let without = setup.proxy(origin.addr, &[]);
        let (_, line) = fault(&without);
        let cause = "it requires a client certificate";
        assert!(line.contains(cause), "{version:?}: {line}");
        assert!(line.contains("upstream.tls.certificate"), "{line}");

        let (_, line) = fault(&with_client("foreign", &Authority::new("another CA")));
        let cause = "it rejected the client certificate";
        assert!(line.contains(cause), "{version:?}: {line}");
    }
}
