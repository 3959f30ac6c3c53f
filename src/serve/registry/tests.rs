use super::*;

fn limit(max: Option<u32>) -> PerClientLimit {
    PerClientLimit {
        max,
        ipv6_prefix: 64,
        exempt: Arc::new(["10.0.0.0/8".parse().unwrap()]),
    }
}

pub(in crate::serve::registry) fn admit(
    registry: &ConnectionRegistry,
    peer: &str,
    max: u32,
) -> Option<ConnectionEntry> {
    let connection = registry.admit(peer.parse::<IpAddr>().unwrap(), &limit(Some(max)));
    if let Some(connection) = &connection {
        // Idle times alone need not distinguish the age.
        connection.begin_request();
        connection.set_idle();
    }
    connection
}

fn is_closing(connection: &ConnectionEntry) -> bool {
    connection.record.state.load(Relaxed) == CLOSING
}

#[tokio::test(start_paused = true)]
async fn oldest_idle_connections_are_closed_and_none_that_serves_a_request() {
    let registry = ConnectionRegistry::default();
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(admit(&registry, "192.0.2.1", 100).unwrap());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert!(all[0].begin_request());
    assert_eq!(registry.idle(), 4);
    assert_eq!(registry.0.close_oldest(2, u64::MAX, None), 2);
    let closing: Vec<bool> = all.iter().map(is_closing).collect();
    assert_eq!(closing, [false, true, true, false, false]);
    assert!(
        !all[1].begin_request(),
        "a request on a connection that is closed"
    );
    // Idle again, it is the youngest.
    assert_eq!(registry.idle(), 2);
    all[0].set_idle();
    assert_eq!(registry.0.close_oldest(2, u64::MAX, None), 2);
    let closing: Vec<bool> = all.iter().map(is_closing).collect();
    assert_eq!(closing, [false, true, true, true, true]);
    assert_eq!(registry.0.close_oldest(9, u64::MAX, None), 1);
    drop(all);
    assert_eq!((registry.0.open.load(Relaxed), registry.idle()), (0, 0));
    assert!(lock(&registry.0.table).addresses.is_empty());
}

#[tokio::test(start_paused = true)]
async fn tunnel_is_never_idle() {
    let registry = ConnectionRegistry::default();
    let connection = admit(&registry, "192.0.2.1", 1).unwrap();
    connection.set_tunnel();
    connection.set_idle();
    assert_eq!(registry.idle(), 0);
    assert_eq!(registry.0.close_oldest(1, u64::MAX, None), 0);
    assert!(connection.begin_request());
}

#[tokio::test(start_paused = true)]
async fn address_at_its_limit_loses_its_oldest_idle_connection_for_a_new_one() {
    let registry = ConnectionRegistry::default();
    let first = admit(&registry, "2001:db8::1", 2).unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    let second = admit(&registry, "2001:db8::2", 2).unwrap();
    // Another network, another address, and a proxy that is not bounded.
    let _others = [
        "2001:db8:0:1::1",
        "192.0.2.1",
        "10.0.0.1",
        "10.0.0.1",
        "10.0.0.1",
    ]
    .map(|peer| admit(&registry, peer, 2).unwrap());
    let third = admit(&registry, "2001:db8::3", 2).unwrap();
    assert!(is_closing(&first) && !is_closing(&second));
    drop(first);
    assert!(second.begin_request() && third.begin_request());
    assert!(admit(&registry, "2001:db8::4", 2).is_none());
    drop(second);
    assert!(admit(&registry, "2001:db8::4", 2).is_some());
}

#[tokio::test]
async fn make_room_closes_tasks_and_does_not_wait_when_all_serve_requests() {
    let registry = ConnectionRegistry::new(2, 0, CloseReason::Total);
    for _ in 0..2 {
        let connection = admit(&registry, "192.0.2.1", 100).unwrap();
        let handle = connection.close_handle();
        let task = tokio::spawn(async move {
            let _connection = connection;
            std::future::pending::<()>().await;
        });
        handle.set_task(task.abort_handle());
    }
    registry.make_room().await;
    assert_eq!(registry.0.open.load(Relaxed), 1);
    let serving = admit(&registry, "192.0.2.1", 100).unwrap();
    serving.begin_request();
    registry.make_room().await;
    assert_eq!(registry.0.open.load(Relaxed), 1);
    let other = admit(&registry, "192.0.2.1", 100).unwrap();
    other.begin_request();
    registry.make_room().await;
    assert_eq!(registry.0.open.load(Relaxed), 2);
}

#[test]
fn listener_with_a_total_rejects_connections_above_it() {
    let registry = ConnectionRegistry::new(2, 1, CloseReason::Total);
    let all = [1, 2].map(|_| admit(&registry, "192.0.2.1", 100).unwrap());
    assert!(admit(&registry, "192.0.2.1", 100).is_none());
    drop(all);
    assert!(admit(&registry, "192.0.2.1", 100).is_some());
}

#[tokio::test(start_paused = true)]
async fn youngest_idle_connections_stay_while_others_serve_requests() {
    let registry = ConnectionRegistry::new(2, 1, CloseReason::Files);
    let mut all: Vec<_> = (0..3)
        .map(|_| admit(&registry, "192.0.2.1", 100).unwrap())
        .collect();
    assert!(all[0].begin_request() && all[1].begin_request());
    // Over the bound; the one that could go may be about to send its request.
    registry.make_room().await;
    assert!(!is_closing(&all[2]));
    tokio::time::advance(Duration::from_millis(1)).await;
    all.push(admit(&registry, "192.0.2.1", 100).unwrap());
    assert_eq!(registry.closable(), 1);
    registry.0.close_oldest(registry.closable(), u64::MAX, None);
    assert!(is_closing(&all[2]) && !is_closing(&all[3]));
}

#[tokio::test(start_paused = true)]
async fn connection_counts_under_the_client_that_becomes_known_later() {
    let registry = ConnectionRegistry::default();
    let (limit, client) = (limit(Some(2)), IpAddr::from([192, 0, 2, 1]));
    let behind_proxy = || registry.admit(IpAddr::from([10, 0, 0, 1]), &limit).unwrap();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(behind_proxy());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let count = || lock(&registry.0.table).addresses.get(&client).copied();
    assert_eq!(count(), None);
    for (n, connection) in (1..).zip(&all[..2]) {
        assert!(connection.set_peer(Some(client), &limit));
        assert_eq!(count(), Some(n));
    }
    // The oldest idle one makes room.
    assert!(all[2].set_peer(Some(client), &limit));
    assert!(is_closing(&all[0]) && !is_closing(&all[1]));
    assert!(all[1].begin_request() && all[2].begin_request());
    let fourth = behind_proxy();
    assert!(!fourth.set_peer(Some(client), &limit), "none is idle");
    drop((all, fourth));
    assert!(lock(&registry.0.table).addresses.is_empty());
}
