//! The rows of requests that are refused, sent to the admin address: it has the same parser.

use super::origin::Recorder;
use super::requests::{RawClient, TABLES, status};
use super::table::rows;
use crate::support::Proxy;

#[test]
fn admin_address_refuses_what_the_proxy_refuses() {
    let origin = Recorder::start();
    let proxy = Proxy::start(origin.addr, &["--admin-listen", "127.0.0.1:0"]);
    let admin = proxy.admin();
    let mut count = 0;
    // Bodies are not read there.
    let rows = TABLES.into_iter().flat_map(rows);
    for row in rows.filter(|row| !row.expects("cut")) {
        // What the parser or the check of targets refuses; 417 and 501 are of forwarding.
        let is_refused =
            |status: &&str| !status.starts_with(['1', '2']) && !["417", "501"].contains(status);
        let refused = row.statuses().first().copied().filter(is_refused);
        let Some(refused) = refused else { continue };
        let expected = row.option("admin").unwrap_or(refused);
        let mut client = RawClient::sending(admin, &row.sent, false);
        if row.has("half") {
            client.close_own_side();
        }
        let response = client.response("");
        let found = response.as_ref().map(status);
        assert_eq!(found.as_deref(), Some(expected), "{}", row.name);
        if row.expects("close") && !row.has("admin") {
            while client.response("").is_some() {}
        }
        count += 1;
    }
    assert!(count >= 200, "{count} rows");
    assert_eq!(origin.take(), []);
}
