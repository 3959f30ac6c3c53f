//! The dashboard in a real browser. Pictures of it are left in `dashboard/` of cargo's directory.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::Browser;
use support::{Answer, Client, Origin, Proxy};

/// One event that has an id, then silence.
fn quiet(to: &mut Answer) {
    to.stream();
    to.chunk("id: first-one\ndata: 1\n\n");
    to.wait_for_close();
}

fn proxy(origin: &Origin, flags: &[&str]) -> Proxy {
    Proxy::start(
        origin.addr,
        &[&["--admin-listen=127.0.0.1:0"], flags].concat(),
    )
}

fn stream(proxy: &Proxy, path: &str) -> Client {
    let mut client = proxy.get(path);
    assert!(client.head().starts_with("http/1.1 200 "));
    client.read_until("data: 1\n\n");
    client
}

/// The rows of live streams that are there, without those that only take up room.
const ROWS: &str = "[...document.querySelectorAll('#stream-table tbody tr:not(.spacer):not(.waiting)')]";

#[test]
fn a_stream_shows_up_is_found_and_is_ended_and_its_end_is_told() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let origin = Origin::start(|_, to| quiet(to));
    let proxy = proxy(&origin, &[]);
    browser.open(&format!("http://{}/", proxy.admin()));
    browser.wait_for("document.querySelector('#feed').dataset.state === 'good'");
    browser.wait_for("!document.querySelector('#stream-empty').hidden");
    browser.photograph("nobody");

    let mut one = stream(&proxy, "/one");
    let mut other = stream(&proxy, "/other");
    browser.wait_for(&format!("{ROWS}.length === 2"));
    browser.wait_for(&format!(
        "{ROWS}.every((row) => row.innerText.includes('first-one'))"
    ));
    browser.photograph("streams");

    browser.write("#stream-filters [name=q]", "1");
    browser.wait_for(&format!("{ROWS}.length < 2"));
    browser.write("#stream-filters [name=q]", "\u{e003}2");
    browser.wait_for(&format!(
        "{ROWS}.length === 1 && {ROWS}[0].querySelector('th').innerText === '2'"
    ));
    // By keyboard alone: the button of the row, and what it asks.
    browser.run("document.querySelector('#stream-table .act button').focus()");
    browser.press("\u{e007}");
    browser.wait_for("document.querySelector('#confirm').open");
    browser.photograph("confirm");
    browser.run("document.querySelector('#confirm-yes').focus()");
    browser.press("\u{e007}");
    browser.wait_for(&format!("{ROWS}.length === 0"));
    other.rest();
    browser.click("#stream-filters [type=reset]");
    browser.wait_for(&format!("{ROWS}.length === 1"));

    let ends = "document.querySelector('#end-table tbody').innerText";
    browser.wait_for(&format!("{ends}.includes('operator')"));
    drop(one);
    browser.wait_for(&format!("{ends}.includes('client gone')"));
    assert_eq!(browser.problems(), Vec::<String>::new());
    one = stream(&proxy, "/");
    drop(one);
}
