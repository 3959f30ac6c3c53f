//! Token, forms, and restarts of the proxy.

use super::*;

#[test]
fn dashboard_detects_and_survives_a_restart_of_the_proxy() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let first = proxy(&origin, &[]);
    let admin = first.admin();
    let (address, operator) = (first.addr.to_string(), admin.to_string());
    look(&browser, admin);
    let _old = stream(&first, "/before");
    shows(&browser, &["before"]);
    assert_eq!(browser.problems(), Vec::<String>::new());
    // Else the next one's age could not be told from this one's.
    browser.wait_for("document.querySelector('#about').innerText.match(/up\\s[2-9]/)");
    browser.run("document.querySelector('#stream-table .act button').click()");
    browser.wait_for("document.querySelector('#confirm').open");

    drop(first);
    browser.wait_for("!document.querySelector('#lost').hidden");
    browser.wait_for("document.body.classList.contains('stale')");
    // Its number may be another stream's in the next proxy.
    browser.wait_for("!document.querySelector('#confirm').open");
    browser.photograph("lost");

    let upstream = format!("http://{}", origin.addr);
    let flags = ["--upstream-url", &upstream, "--admin-listen", &operator];
    let second = Proxy::listening(&address, &flags);
    let _new = stream(&second, "/after");
    browser.wait_for(LIVE);
    browser.wait_for("document.querySelector('#lost').hidden");
    browser.wait_for("!document.querySelector('#renewed').hidden");
    shows(&browser, &["after"]);
    browser.photograph("found");
}

#[test]
fn token_is_requested_and_sent() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let proxy = proxy(&origin, &["--admin-token", "correct-horse-battery"]);
    let _one = stream(&proxy, "/one");
    look(&browser, proxy.admin());
    browser.wait_for("document.querySelector('#login').open");
    browser.write("#login input", &format!("wrong{ENTER}"));
    browser.wait_for("document.querySelector('#login-wrong').innerText");
    browser.photograph("token");
    browser.write("#login input", &format!("correct-horse-battery{ENTER}"));
    shows(&browser, &["one"]);
    browser.wait_for(LIVE);
}

#[test]
fn forms_report_what_has_been_sent_and_what_a_reload_has_changed() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = quiet();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guard.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("");
    let proxy = proxy(&origin, &["--config", file.to_str().unwrap()]);
    let mut feed = stream(&proxy, "/feed");
    let mut answer =
        proxy.send_request("POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    answer.head();
    answer.read_until("data: 1\n\n");
    look(&browser, proxy.admin());
    browser.wait_for(LIVE);
    browser.run("document.querySelector('#send').to.value = 'route'");
    browser.write("#send [name=value]", "/");
    browser.write("#send [name=data]", "back at 10:00");
    browser.click("#send button");
    let result = |of: &str, text: &str| {
        browser.wait_for(&format!(
            "document.querySelector('#{of}').innerText === '{text}'"
        ));
    };
    result(
        "sent",
        "Sent to 1 stream. 1 stream skipped: not an EventSource stream.",
    );
    feed.read_until("data: back at 10:00\n\n");
    browser.click("#reload button");
    result("reloaded", "No key has changed.");
    write("heartbeat.interval = '7s'\nlisten = '127.0.0.1:1'\n");
    browser.click("#reload button");
    browser.wait_for("document.querySelector('#reloaded').innerText.startsWith('Changed: ')");
    write("heartbeat.interval = 'never'");
    browser.click("#reload button");
    browser.wait_for("document.querySelector('#reloaded').innerText.startsWith('Reload failed: ')");
}
