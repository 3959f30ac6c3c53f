//! The table of paths, in each mode of `path.normalize`, behind a route whose upstream has a base path.

use super::origin::Recorder;
use super::requests::{RawClient, status};
use crate::support::Proxy;
use std::io::Write;
use tempfile::NamedTempFile;

const TABLE: &str = include_str!("paths.txt");

/// In front of `origin`, with `/app` at a base path and the rest at the root.
fn start(origin: &Recorder, mode: &str) -> Proxy {
    let mut file = NamedTempFile::new().unwrap();
    write!(
        file,
        "upstream.url = 'http://{0}'\npath.normalize = '{mode}'\n\
         [[route]]\npath = '/app'\nupstream.url = 'http://{0}/base'\n",
        origin.addr
    )
    .unwrap();
    Proxy::with_flags(&["--config", file.path().to_str().unwrap()])
}

/// What the upstream gets for this target, or the status of the refusal.
fn forwarded(proxy: &Proxy, origin: &Recorder, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let mut client = RawClient::sending(proxy.addr, request.as_bytes(), false);
    let status = status(&client.response("GET").unwrap());
    let messages = origin.take();
    if status != "200" {
        assert_eq!(messages, [], "{target}");
        return status;
    }
    assert_eq!(messages.len(), 1, "{target}");
    let head = String::from_utf8(messages[0].head.clone()).unwrap();
    let line = head.strip_prefix("GET ").unwrap();
    line.split_once(" HTTP/1.1\r\n").unwrap().0.to_owned()
}

#[test]
fn paths_are_below_the_base_path_of_their_route_or_refused() {
    let origin = Recorder::start();
    let proxies = ["match", "rewrite", "off"].map(|mode| (mode, start(&origin, mode)));
    let rows = TABLE
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut count = 0;
    for row in rows {
        let cells: Vec<_> = row.split_whitespace().collect();
        let [target, expected @ ..] = &cells[..] else {
            unreachable!("a line that is not empty")
        };
        for ((mode, proxy), expected) in proxies.iter().zip(expected) {
            let expected = match *expected {
                "=" => *target,
                expected => expected,
            };
            let found = forwarded(proxy, &origin, target);
            assert_eq!(found, expected, "{target} with {mode}");
        }
        assert_eq!(expected.len(), proxies.len(), "{row}");
        count += 1;
    }
    assert!(count >= 50, "{count} rows");
}
