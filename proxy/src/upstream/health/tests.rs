use super::*;
use crate::config::from_file;
use crate::upstream::Failure;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn health(address: &str) -> Health {
    Health::of(&format!("http://{address}/base").parse().unwrap())
}

/// One that requests have found so.
fn unreachable(address: &str, is_away: bool) -> Health {
    let health = health(address);
    for client in clients() {
        health.failed(&"no answer", is_away, Some(&client));
    }
    assert!(!health.state().is_reachable);
    health
}

/// As many as make enough.
fn clients() -> impl Iterator<Item = ClientKey> {
    (0..ENOUGH).map(|number| ClientKey::Ip(std::net::Ipv4Addr::from_bits(number).into()))
}

fn refused() -> Result<(), CheckError> {
    Err(CheckError::Refused(StatusCode::SERVICE_UNAVAILABLE))
}

fn check(text: &str) -> Check {
    let text = format!("upstream.url = 'http://app'\nhealth_check.interval = '1s'\n{text}");
    let config = from_file(&text).unwrap().config;
    Check::new(&config.routes[0].settings.upstream).unwrap()
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn until(health: &Health, is_reachable: bool) {
    while health.state().is_reachable != is_reachable {
        tokio::task::yield_now().await;
    }
}

#[test]
fn failures_in_a_row_make_it_unreachable_and_an_answer_reachable() {
    let health = health("app");
    for _ in 0..5 {
        health.failed(&"refused", true, None);
        health.failed(&"refused", true, None);
        assert!(health.state().is_reachable);
        health.answered();
    }
    for _ in 0..ENOUGH {
        health.failed(&"refused", true, None);
    }
    let state = health.state();
    assert!(!state.is_reachable);
    assert_eq!((state.answered, state.failed), (5, 13));
    assert_eq!(state.last_failure.as_deref(), Some("refused"));
    health.answered();
    assert!(health.state().is_reachable);
}

#[test]
fn failed_checks_in_a_row_make_it_unreachable_and_one_that_it_passes_reachable() {
    let health = health("app");
    for _ in 0..5 {
        health.checked(refused(), true);
        health.checked(refused(), true);
        assert!(health.state().is_reachable);
        health.checked(Ok(()), true);
    }
    for _ in 0..ENOUGH {
        health.checked(refused(), true);
    }
    let state = health.state();
    assert!(!state.is_reachable);
    assert_eq!((state.answered, state.failed), (0, 0));
    let failure = state.last_failure.unwrap();
    assert!(failure.contains("503 Service Unavailable"), "{failure}");
    // It answers those that it has, and wants no more.
    health.answered();
    assert!(!health.state().is_reachable);
    health.checked(Ok(()), true);
    assert!(health.state().is_reachable);
}

#[test]
fn a_check_that_fails_by_our_own_fault_is_none_of_the_upstreams() {
    let health = health("app");
    for _ in 0..ENOUGH {
        let no_files = std::io::Error::from_raw_os_error(24);
        let failure = Failure::of_connecting(no_files);
        health.checked(Err(failure.into()), true);
    }
    assert!(health.state().is_reachable);
}

#[test]
fn a_check_makes_good_for_requests_as_far_as_it_goes() {
    for (is_away, has_answered, is_reachable) in [
        (true, false, true),
        (true, true, true),
        (false, true, true),
        (false, false, false),
    ] {
        let health = unreachable("app", is_away);
        health.checked(Ok(()), has_answered);
        let state = health.state();
        assert_eq!(state.is_reachable, is_reachable, "{state:?}");
    }
}

#[test]
fn requests_that_fail_between_checks_that_pass_are_in_a_row() {
    let health = health("app");
    for client in clients() {
        assert!(health.state().is_reachable);
        health.checked(Ok(()), true);
        health.failed(&"no answer", false, Some(&client));
    }
    assert!(!health.state().is_reachable);
}

#[tokio::test]
async fn one_that_does_not_answer_is_not_back_because_it_can_be_connected_to() {
    let (listener, address) = listen().await;
    let health = unreachable(&address, false);
    health.probe(None);
    let asked = std::pin::pin!(listener.accept());
    assert!(futures_util::FutureExt::now_or_never(asked).is_none());
    assert!(!health.state().is_reachable);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_is_given_another_chance_but_not_by_its_checks() {
    let health = unreachable("app", false);
    for _ in 0..ENOUGH {
        health.checked(refused(), true);
    }
    tokio::time::advance(DOUBT).await;
    health.try_again();
    assert!(!health.state().is_reachable);
    health.checked(Ok(()), false);
    assert!(health.state().is_reachable);
}

#[tokio::test]
async fn one_that_is_back_is_found_without_a_request() {
    let (listener, address) = listen().await;
    let health = unreachable(&address, true);
    health.probe(None);
    listener.accept().await.unwrap();
    until(&health, true).await;
}

#[tokio::test]
async fn a_due_check_is_made_and_what_it_finds_counts() {
    let (listener, address) = listen().await;
    let health = health(&address);
    let check = check("health_check.path = '/up'");
    health.checked(refused(), true);
    health.checked(refused(), true);
    for (status, is_reachable) in [(500, false), (200, true)] {
        // As if it had just come into the config.
        *lock(&health.0.checks) = Checks::default();
        health.probe(Some(&check));
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        let head = format!("HTTP/1.1 {status} -\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        until(&health, is_reachable).await;
    }
}

#[tokio::test]
async fn one_that_failed_its_checks_is_reachable_when_there_are_none_any_more() {
    // Nobody accepts: what is found is what this test says.
    let (_listener, address) = listen().await;
    let health = health(&address);
    health.probe(Some(&check("health_check.path = '/wrong'")));
    for _ in 0..ENOUGH {
        health.checked(refused(), true);
    }
    health.probe(Some(&check("health_check.path = '/right'")));
    assert!(!health.state().is_reachable);
    health.probe(None);
    assert!(health.state().is_reachable);
}

#[tokio::test]
async fn a_check_ends_when_nobody_has_the_upstream_any_more() {
    let (listener, address) = listen().await;
    let health = health(&address);
    health.probe(Some(&check("health_check.path = '/up'")));
    let _socket = listener.accept().await.unwrap();
    let known = Arc::downgrade(&health.0);
    drop(health);
    assert!(known.upgrade().is_none());
}

#[test]
fn what_fails_one_client_alone_says_little_of_the_upstream() {
    let health = health("app");
    let all: Vec<ClientKey> = clients().collect();
    for _ in 0..10 {
        health.failed(&"no answer", false, Some(&all[0]));
    }
    assert!(health.state().is_reachable);
    // An answer to another, and it is no row.
    health.answered();
    health.failed(&"no answer", false, Some(&all[1]));
    health.failed(&"no answer", false, Some(&all[0]));
    assert!(health.state().is_reachable);
    health.failed(&"no answer", false, Some(&all[0]));
    assert!(!health.state().is_reachable);
    health.answered();
    // That it takes no connection is the same for all.
    health.failed(&"no answer", false, Some(&all[0]));
    for _ in 0..ENOUGH {
        assert!(health.state().is_reachable);
        health.failed(&"refused", true, Some(&all[0]));
    }
    assert!(!health.state().is_reachable);
}
