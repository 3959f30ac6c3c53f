//! `sse-guard health` beside a running proxy: exit codes and the line that is printed.

use crate::support::{Client, Origin, Proxy, wait_until};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

const TOKEN: &str = "0123456789abcdef";

/// A run of `sse-guard health`: its exit code, and the only line that it prints.
fn health(variables: &[(&str, &str)], flags: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .env_clear()
        .envs(variables.iter().copied())
        .arg("health")
        .args(flags)
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    let (out, err) = (output.stdout, output.stderr);
    let (printed, other) = if code == 0 { (out, err) } else { (err, out) };
    assert_eq!(String::from_utf8(other).unwrap(), "");
    let text = String::from_utf8(printed).unwrap();
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{text}");
    (code, line.to_owned())
}

fn origin() -> Origin {
    Origin::start(|_, to| {
        to.raw(b"HTTP/1.1 204 No Content\r\n\r\n");
    })
}

fn of_flag(admin: SocketAddr) -> String {
    format!("--admin-listen={admin}")
}

#[test]
fn health_address_comes_from_flag_environment_and_file() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--admin-listen=127.0.0.1:0"]);
    let admin = proxy.admin();
    let ready = (0, format!("ready: http://{admin}/readyz: status 200"));
    let alive = (0, format!("alive: http://{admin}/healthz: status 200"));
    let (flag, text) = (of_flag(admin), admin.to_string());
    assert_eq!(health(&[], &[&flag]), ready);
    assert_eq!(health(&[], &[&flag, "--live"]), alive);
    assert_eq!(health(&[("SSE_GUARD_ADMIN_LISTEN", &text)], &[]), ready);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    fs::write(&file, format!("admin.listen = '{admin}'\n")).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(health(&[], &["--config", file]), ready);
    assert_eq!(health(&[("SSE_GUARD_CONFIG", file)], &["--live"]), alive);
}

#[test]
fn health_ignores_mistakes_elsewhere_in_the_config() {
    let origin = origin();
    let proxy = Proxy::start(origin.addr, &["--admin-listen=127.0.0.1:0"]);
    let admin = proxy.admin();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    fs::write(&file, format!("admin.listen = '{admin}'\nno.key = 1\n")).unwrap();
    let flags = ["--config", file.to_str().unwrap()];
    let ready = (0, format!("ready: http://{admin}/readyz: status 200"));
    assert_eq!(health(&[], &flags), ready);
    // Of a file that is no TOML nothing is known.
    fs::write(&file, "admin.listen = \n").unwrap();
    let (code, line) = health(&[], &[&flags[..], &[&of_flag(admin)]].concat());
    assert_eq!(code, 0, "{line}");
    assert!(
        line.contains("guard.toml:1: ") && line.ends_with("status 200"),
        "{line}"
    );
}

#[test]
fn health_checks_a_wildcard_address_by_loopback_and_shows_the_reason_with_a_token() {
    let origin = origin();
    let token = format!("--admin-token={TOKEN}");
    let flags = ["--admin-listen=:0", &token, "--drain-delay=1h"];
    let proxy = Proxy::start(origin.addr, &flags);
    let port = proxy.admin().port();
    let all = format!("--admin-listen=:{port}");
    let url = format!("http://127.0.0.1:{port}");
    let ready = (0, format!("ready: {url}/readyz: status 200"));
    assert_eq!(health(&[("SSE_GUARD_ADMIN_TOKEN", TOKEN)], &[&all]), ready);
    // It needs no token, except for reasons.
    assert_eq!(health(&[], &[&all]), ready);

    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.send(&format!(
        "POST /api/drain HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: 0\r\n\r\n"
    ));
    assert!(client.head().starts_with("http/1.1 202 "));
    wait_until("it is not ready", || health(&[], &[&all]).0 == 1);
    let not_ready = format!("not ready: {url}/readyz: status 503");
    assert_eq!(health(&[], &[&all]), (1, not_ready.clone()));
    let (code, line) = health(&[], &[&all, &token]);
    assert_eq!(code, 1);
    assert!(
        line.starts_with(&format!("{not_ready}; listener: ")),
        "{line}"
    );
    // It drains, and is alive.
    assert_eq!(health(&[], &[&all, "--live"]).0, 0);
}

#[test]
fn health_without_a_response_is_unhealthy() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let (code, line) = health(&[], &[&of_flag(address), "--timeout=2s"]);
    let expected = format!("unhealthy: http://{address}/readyz: no response within 2s");
    assert_eq!((code, line), (1, expected));
    drop(silent);
    let (code, line) = health(&[], &[&of_flag(address)]);
    assert_eq!(code, 1);
    let expected = format!("unhealthy: http://{address}/readyz: cannot connect: ");
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn health_of_another_server_is_unhealthy() {
    for (response, expected) in [
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "status 404",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", "status 204"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no valid HTTP response: "),
        ("", "no valid HTTP response: "),
    ] {
        let other = Origin::start(move |_, to| {
            to.raw(response.as_bytes());
            to.reset();
        });
        let (code, line) = health(&[], &[&of_flag(other.addr)]);
        assert_eq!(code, 1, "{line}");
        let start = format!("unhealthy: http://{}/readyz: {expected}", other.addr);
        assert!(line.starts_with(&start), "{line}");
    }
}

#[test]
fn health_of_an_address_that_is_off_or_unknown_is_unhealthy() {
    for (flag, part) in [
        ("--admin-listen=off", "admin.listen = \"off\""),
        ("--admin-listen=127.0.0.1:0", "port 0"),
    ] {
        let (code, line) = health(&[], &[flag]);
        assert_eq!(code, 1);
        assert!(
            line.starts_with("unhealthy: ") && line.contains(part),
            "{line}"
        );
    }
}

#[test]
fn health_has_help_and_a_wrong_timeout_is_a_mistake() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sse-guard"));
        command
            .env_clear()
            .arg("health")
            .args(args)
            .output()
            .unwrap()
    };
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for part in [
        "HEALTHCHECK",
        "/readyz",
        "--live",
        "--timeout",
        "admin.listen",
    ] {
        assert!(help.contains(part), "{part}\n{help}");
    }
    let wrong = run(&["--timeout", "3"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("3s"));
}
