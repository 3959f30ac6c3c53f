use super::check::tests::check as check_of;
use super::*;
use crate::config::from_file;
use crate::upstream::error::Failure;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The health of an address, and one URL at it.
struct Upstream {
    health: Health,
    url: Uri,
}

impl Upstream {
    /// Another URL at the same address.
    fn at(&self, path: &str) -> Self {
        let url = format!("http://{}{path}", self.url.authority().unwrap());
        Self {
            health: self.health.clone(),
            url: url.parse().unwrap(),
        }
    }

    fn state(&self) -> UpstreamState {
        self.health.state(&self.url)
    }

    fn answered(&self) {
        self.health.answered(&self.url);
    }

    fn failed(&self, failure: &str, is_away: bool, client: Option<&ClientKey>) {
        self.health.failed(&self.url, &failure, is_away, client);
    }

    /// The result of a check, which required a response or only a connection.
    fn checked(&self, found: Result<(), CheckError>, required_response: bool) {
        let check = check_of(required_response.then_some("/up"));
        self.follow(Some(&check));
        self.health.checked(&check, found);
    }

    fn follow(&self, check: Option<&ActiveCheck>) {
        self.health.follow([(&self.url, check)].into_iter());
    }

    fn probe(&self, check: Option<&ActiveCheck>) {
        self.health.probe([(&self.url, check)].into_iter());
    }
}

fn health(address: &str) -> Upstream {
    let url: Uri = format!("http://{address}/base").parse().unwrap();
    Upstream {
        health: Health::new(&Address::of(&url, None), SocketOptions::default()),
        url,
    }
}

/// An upstream that failed requests have marked as unreachable.
fn unreachable(address: &str, is_away: bool) -> Upstream {
    let health = health(address);
    for client in clients() {
        health.failed("no answer", is_away, Some(&client));
    }
    assert!(!health.state().is_reachable);
    health
}

/// As many as the threshold.
fn clients() -> impl Iterator<Item = ClientKey> {
    (0..FAILURE_THRESHOLD).map(|number| ClientKey::Ip(std::net::Ipv4Addr::from_bits(number).into()))
}

fn refused() -> Result<(), CheckError> {
    Err(CheckError::Refused(StatusCode::SERVICE_UNAVAILABLE))
}

fn check(text: &str) -> ActiveCheck {
    let text = format!("upstream.url = 'http://app'\nhealth_check.interval = '1s'\n{text}");
    let config = from_file(&text).unwrap().config;
    ActiveCheck::new(&config.routes[0].settings.upstream).unwrap()
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

async fn until(health: &Upstream, is_reachable: bool) {
    while health.state().is_reachable != is_reachable {
        tokio::task::yield_now().await;
    }
}

#[test]
fn upstream_is_unreachable_after_failures_in_a_row_until_it_responds() {
    let health = health("app");
    for _ in 0..5 {
        health.failed("refused", true, None);
        health.failed("refused", true, None);
        assert!(health.state().is_reachable);
        health.answered();
    }
    for _ in 0..FAILURE_THRESHOLD {
        health.failed("refused", true, None);
    }
    let state = health.state();
    assert!(!state.is_reachable);
    assert_eq!((state.answered, state.failed), (5, 13));
    assert_eq!(state.last_failure.as_deref(), Some("refused"));
    health.answered();
    assert!(health.state().is_reachable);
}

#[test]
fn upstream_is_unreachable_after_failed_checks_in_a_row_until_it_passes_one() {
    let health = health("app");
    for _ in 0..5 {
        health.checked(refused(), true);
        health.checked(refused(), true);
        assert!(health.state().is_reachable);
        health.checked(Ok(()), true);
    }
    for _ in 0..FAILURE_THRESHOLD {
        health.checked(refused(), true);
    }
    let state = health.state();
    assert!(!state.is_reachable);
    assert_eq!((state.answered, state.failed), (0, 0));
    let failure = state.last_failure.unwrap();
    assert!(failure.contains("503 Service Unavailable"), "{failure}");
    // It responds to requests, and takes itself out of service.
    health.answered();
    assert!(!health.state().is_reachable);
    health.checked(Ok(()), true);
    assert!(health.state().is_reachable);
}

#[test]
fn check_that_fails_for_lack_of_files_does_not_count_against_the_upstream() {
    let health = health("app");
    for _ in 0..FAILURE_THRESHOLD {
        let no_files = std::io::Error::from_raw_os_error(24);
        let failure = Failure::of_connecting(no_files);
        health.checked(Err(failure.into()), true);
    }
    assert!(health.state().is_reachable);
}

#[test]
fn check_that_passes_outweighs_failed_requests_as_far_as_it_tests_them() {
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
fn requests_that_fail_between_passed_checks_count_as_in_a_row() {
    let health = health("app");
    for client in clients() {
        assert!(health.state().is_reachable);
        health.checked(Ok(()), true);
        health.failed("no answer", false, Some(&client));
    }
    assert!(!health.state().is_reachable);
}

#[tokio::test]
async fn upstream_that_does_not_respond_is_not_back_once_it_accepts_a_connection() {
    let (listener, address) = listen().await;
    let health = unreachable(&address, false);
    health.probe(None);
    let connected = std::pin::pin!(listener.accept());
    assert!(futures_util::FutureExt::now_or_never(connected).is_none());
    assert!(!health.state().is_reachable);
}

#[tokio::test(start_paused = true)]
async fn upstream_that_does_not_respond_is_tried_again_after_30s_unless_it_fails_checks() {
    let health = unreachable("app", false);
    for _ in 0..FAILURE_THRESHOLD {
        health.checked(refused(), true);
    }
    tokio::time::advance(RETRY_AFTER).await;
    health.health.try_again();
    assert!(!health.state().is_reachable);
    health.checked(Ok(()), false);
    assert!(health.state().is_reachable);
}

#[tokio::test]
async fn upstream_that_is_back_is_found_without_a_request() {
    let (listener, address) = listen().await;
    let health = unreachable(&address, true);
    health.probe(None);
    listener.accept().await.unwrap();
    until(&health, true).await;
}

#[tokio::test]
async fn check_that_is_due_is_made_and_counts() {
    let (listener, address) = listen().await;
    let health = health(&address);
    let check = check("health_check.path = '/up'");
    health.checked(refused(), true);
    health.checked(refused(), true);
    for (status, is_reachable) in [(500, false), (200, true)] {
        // As if it had just come into the config.
        *lock(&health.health.0.checks) = CheckSchedule::default();
        health.probe(Some(&check));
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        let head = format!("HTTP/1.1 {status} -\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        until(&health, is_reachable).await;
    }
}

#[tokio::test]
async fn upstream_that_failed_its_checks_is_reachable_once_they_are_off() {
    // No connection is accepted: the results are those of this test alone.
    let (_listener, address) = listen().await;
    let health = health(&address);
    health.probe(Some(&check("health_check.path = '/wrong'")));
    for _ in 0..FAILURE_THRESHOLD {
        health.checked(refused(), true);
    }
    health.probe(Some(&check("health_check.path = '/right'")));
    assert!(!health.state().is_reachable);
    health.probe(None);
    assert!(health.state().is_reachable);
}

#[tokio::test]
async fn check_ends_with_its_upstream() {
    let (listener, address) = listen().await;
    let health = health(&address);
    health.probe(Some(&check("health_check.path = '/up'")));
    let _socket = listener.accept().await.unwrap();
    let known = Arc::downgrade(&health.health.0);
    drop(health);
    assert!(known.upgrade().is_none());
}

#[test]
fn requests_that_fail_for_one_client_alone_do_not_make_an_upstream_unreachable() {
    let health = health("app");
    let all: Vec<ClientKey> = clients().collect();
    for _ in 0..10 {
        health.failed("no answer", false, Some(&all[0]));
    }
    assert!(health.state().is_reachable);
    // An answer to another, and it is no row.
    health.answered();
    health.failed("no answer", false, Some(&all[1]));
    health.failed("no answer", false, Some(&all[0]));
    assert!(health.state().is_reachable);
    health.failed("no answer", false, Some(&all[0]));
    assert!(!health.state().is_reachable);
    health.answered();
    // That it accepts no connection does not depend on the client.
    health.failed("no answer", false, Some(&all[0]));
    for _ in 0..FAILURE_THRESHOLD {
        assert!(health.state().is_reachable);
        health.failed("refused", true, Some(&all[0]));
    }
    assert!(!health.state().is_reachable);
}

#[test]
fn urls_at_one_address_share_what_requests_show() {
    let one = health("app");
    let other = one.at("/other");
    assert!(other.state().is_reachable);
    for _ in 0..FAILURE_THRESHOLD {
        one.failed("refused", true, None);
    }
    assert!(!one.state().is_reachable);
    let state = other.state();
    assert!(!state.is_reachable);
    assert_eq!(state.last_failure.as_deref(), Some("refused"));
    assert!(!one.at("/new").state().is_reachable);
    assert_eq!((one.state().failed, state.failed), (3, 0), "each its own");
    other.answered();
    assert!(one.state().is_reachable);
    assert_eq!((one.state().answered, other.state().answered), (0, 1));
}

#[test]
fn urls_at_one_address_share_a_check_with_equal_settings_alone() {
    let health = health("app");
    let (up, other) = (check_of(Some("/up")), check_of(Some("/other")));
    let [one, same, another, unchecked] = ["/1", "/2", "/3", "/4"].map(|path| health.at(path));
    health.health.follow(
        [
            (&one.url, Some(&up)),
            (&same.url, Some(&up)),
            (&another.url, Some(&other)),
            (&unchecked.url, None),
        ]
        .into_iter(),
    );
    let reachable =
        || [&one, &same, &another, &unchecked].map(|upstream| upstream.state().is_reachable);
    for _ in 0..FAILURE_THRESHOLD {
        health.health.checked(&up, refused());
    }
    assert_eq!(reachable(), [false, false, true, true]);
    health.health.checked(&other, Ok(()));
    assert_eq!(reachable(), [false, false, true, true]);
    health.health.checked(&up, Ok(()));
    assert_eq!(reachable(), [true; 4]);
}
