//! A stream through the real binary: the same events, ours at boundaries, ends that tell the truth.

mod support;

use support::{Origin, Proxy};

#[test]
fn an_event_reaches_the_client_as_it_was_sent() {
    let origin = Origin::start(|_, to| {
        to.stream();
        to.chunk("id: 1\ndata: hello\n\n");
        to.wait_for_close();
    });
    let proxy = Proxy::start(origin.addr, &[]);
    let mut client = proxy.get("/");
    let head = client.head();
    assert!(head.starts_with("http/1.1 200 ok\n"), "{head}");
    assert_eq!(client.read_until("\n\n"), "id: 1\ndata: hello\n\n");
    drop(client);
    origin.wait_for_open(0);
}
