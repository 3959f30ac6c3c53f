use super::*;
use crate::carryover::Carryover;
use crate::config::{command, from_file};
use crate::config_reader::ConfigReader;
use crate::listen::{ClientListener, Listener, listen};
use crate::server;
use crate::state::Inherited;
use futures_util::{FutureExt, StreamExt, stream};
use http::{Request, Response};
use sse_guard::rotation::RotationLayer;
use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

/// A proxy before its shutdown, on a port of loopback, with a route for `/route` alone.
struct Proxy {
    shutdown: Shutdown,
    state: Arc<ProxyState>,
    address: SocketAddr,
}

impl Proxy {
    /// With these keys at the top of its config, and without an upstream.
    fn new(keys: &str) -> Self {
        Self::with_upstream(keys, ([127, 0, 0, 1], 9).into())
    }

    fn with_upstream(keys: &str, upstream: SocketAddr) -> Self {
        Self::with_listener(keys, upstream, |config| {
            let address = config.listeners[0].address.tcp().unwrap();
            listen("listen", address, config.takeover).unwrap()
        })
    }

    fn with_listener(
        keys: &str,
        upstream: SocketAddr,
        listen: impl FnOnce(&config::Config) -> Listener,
    ) -> Self {
        let text = format!(
            "listen = '127.0.0.1:0'\n{keys}\n[[route]]\npath = '/route'\nupstream.url = 'http://{upstream}'"
        );
        let loaded = from_file(&text).unwrap();
        let listener = listen(&loaded.config);
        let address = listener.socket.local_addr().unwrap();
        let reader = ConfigReader::new(command().get_matches_from(["sse-guard"]), Vec::new());
        let carryover = Carryover::default();
        let server = server::server(&loaded.config.client).threads(NonZeroUsize::MIN);
        let connections = server.connections(&carryover.connections).unwrap();
        let state = ProxyState::new(reader, loaded, carryover, Inherited::default()).unwrap();
        let state = Arc::new(state);
        let listeners = Listeners::new([ClientListener::Tcp(listener)], &state, &server);
        let shutdown = Shutdown::new(
            state.clone(),
            listeners,
            connections,
            AdminServer::new(None, None),
        );
        Self {
            shutdown,
            state,
            address,
        }
    }

    /// A stream that is not rotated, as that of a POST. It is live until the response is dropped.
    async fn answer(&self) -> impl Sized + use<> {
        let service = service_fn(|_: Request<String>| async {
            let response = Response::builder().header("content-type", "text/event-stream");
            Ok::<_, Infallible>(response.body("data: 1\n\n".to_owned()).unwrap())
        });
        let registry = &self.state.carryover.drain;
        let service = RotationLayer::new().registry(registry).layer(service);
        let request = Request::post("/").body(String::new()).unwrap();
        let Ok(response) = service.oneshot(request).await;
        assert_eq!(registry.live(), 1);
        response
    }

    /// Shuts down. A command to stop, as from a second signal, comes after this time.
    fn shut_down_interrupted(self, after: Option<Duration>) -> JoinHandle<Timeline> {
        let Self {
            shutdown, state, ..
        } = self;
        let start = Instant::now();
        tokio::spawn(async move {
            let hangups = stream::iter((0..3).map(|_| Command::Reload(None)));
            let stop = async move {
                match after {
                    Some(after) => sleep(after).await,
                    None => std::future::pending().await,
                }
                Command::Stop
            };
            let commands = hangups.chain(stop.into_stream());
            let mut commands = std::pin::pin!(commands);
            let mut timeline = Timeline::default();
            let mut run = std::pin::pin!(shutdown.run(&mut commands));
            loop {
                let is_done = tokio::select! {
                    biased;
                    () = &mut run => true,
                    () = sleep(Duration::from_millis(100)) => false,
                };
                timeline.note(state.carryover.phases().now(), start.elapsed());
                if is_done {
                    timeline.end = start.elapsed();
                    return timeline;
                }
            }
        })
    }

    fn shut_down(self) -> JoinHandle<Timeline> {
        self.shut_down_interrupted(None)
    }
}

/// When a shutdown entered each phase, and when it was over; in steps of 100 ms.
#[derive(Debug, Default)]
struct Timeline {
    phases: Vec<(Phase, u64)>,
    end: Duration,
}

impl Timeline {
    fn note(&mut self, phase: Phase, at: Duration) {
        if self.phases.last().is_none_or(|(last, _)| *last != phase) {
            self.phases.push((phase, at.as_secs()));
        }
    }
}

/// A request that no route takes, on a connection of its own. Time stands still meanwhile.
async fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let fetch = move || {
        let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(60))?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        socket.write_all(b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        socket.read_to_string(&mut response)?;
        Ok(response)
    };
    spawn_blocking(fetch).await.unwrap()
}

const ALL_PHASES: &str = "drain = { delay = '10s', window = '20s', answers = '60s' }";

#[tokio::test(start_paused = true)]
async fn shutdown_phases_follow_each_other_at_their_times() {
    let proxy = Proxy::new(ALL_PHASES);
    let _answer = proxy.answer().await;
    let timeline = proxy.shut_down().await.unwrap();
    assert_eq!(
        timeline.phases,
        [
            (Phase::Delay, 0),
            (Phase::Draining, 10),
            (Phase::Answers, 30)
        ]
    );
    assert_eq!(timeline.end, Duration::from_secs(70) + LISTENER_SETTLE_TIME);
}

#[tokio::test(start_paused = true)]
async fn shutdown_without_delay_drains_at_once() {
    let proxy = Proxy::new("drain = { window = '20s', answers = '60s' }");
    let state = proxy.state.clone();
    let timeline = proxy.shut_down().await.unwrap();
    assert_eq!(
        timeline.phases,
        [(Phase::Draining, 0), (Phase::Answers, 20)]
    );
    assert_eq!(timeline.end, Duration::from_secs(20) + LISTENER_SETTLE_TIME);
    assert!(state.carryover.drain.is_draining());
}

#[tokio::test(start_paused = true)]
async fn shutdown_defers_streams_from_the_end_of_the_delay_on() {
    let proxy = Proxy::new(ALL_PHASES);
    let streams = proxy.state.carryover.drain.clone();
    let shutdown = proxy.shut_down();
    sleep(Duration::from_millis(9_900)).await;
    assert!(!streams.is_draining());
    sleep(Duration::from_millis(200)).await;
    assert!(streams.is_draining());
    shutdown.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_with_the_last_answer() {
    let proxy = Proxy::new(ALL_PHASES);
    let answer = proxy.answer().await;
    let shutdown = proxy.shut_down();
    sleep(Duration::from_millis(40_050)).await;
    drop(answer);
    let end = shutdown.await.unwrap().end;
    assert_eq!(end, Duration::from_millis(40_100) + LISTENER_SETTLE_TIME);
}

#[tokio::test(start_paused = true)]
async fn second_stop_ends_each_phase_and_hangups_end_none() {
    for after in [0, 5, 15, 45] {
        let proxy = Proxy::new(ALL_PHASES);
        let _answer = proxy.answer().await;
        let after = Duration::from_secs(after);
        let end = proxy.shut_down_interrupted(Some(after)).await.unwrap().end;
        assert_eq!(end, after);
    }
}

#[tokio::test(start_paused = true)]
async fn listener_serves_in_every_phase_and_is_closed_after_them() {
    let proxy = Proxy::new(ALL_PHASES);
    let _answer = proxy.answer().await;
    let address = proxy.address;
    let shutdown = proxy.shut_down();
    for _delay_window_answers in 0..3 {
        sleep(Duration::from_secs(5)).await;
        let response = fetch(address).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        sleep(Duration::from_secs(15)).await;
    }
    assert!(!shutdown.is_finished());
    shutdown.await.unwrap();
    let error = fetch(address).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn request_that_does_not_end_is_cut_off_after_the_grace() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let keys = "drain = { window = '1s', answers = '10s' }";
    let proxy = Proxy::with_upstream(keys, upstream.local_addr().unwrap());
    let address = proxy.address;
    let mut listener = proxy.shutdown;
    let requested = spawn_blocking(move || {
        let mut client = TcpStream::connect(address).unwrap();
        client
            .write_all(b"GET /route HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        (client, upstream.accept().unwrap())
    });
    let (mut client, _request) = tokio::select! {
        requested = requested => requested.unwrap(),
        () = listener.serve_until(Instant::now() + Duration::from_secs(1)) => panic!("no request"),
    };
    let proxy = Proxy {
        shutdown: listener,
        ..proxy
    };
    let end = proxy.shut_down().await.unwrap().end;
    // The clock runs while the worker, a thread with a clock of its own, ends the connection.
    assert!(end >= Duration::from_secs(10) + END_GRACE, "{end:?}");
    let mut response = Vec::new();
    assert!(client.read_to_end(&mut response).is_err() || response.is_empty());
}

#[tokio::test(start_paused = true)]
async fn tunnel_continues_to_the_end_of_the_window() {
    let proxy = Proxy::new("drain = { window = '20s', answers = '20s' }");
    let place = proxy.state.carryover.tunnels.enter();
    let end = proxy.shut_down().await.unwrap().end;
    assert_eq!(end, Duration::from_secs(20) + LISTENER_SETTLE_TIME);
    drop(place);
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn listener_that_is_taken_over_closes_at_the_end_of_the_window() {
    let proxy = Proxy::new(ALL_PHASES);
    let _answer = proxy.answer().await;
    let address = proxy.address;
    assert!(listen("listen", address, config::Takeover::Drain).is_err());
    let shutdown = proxy.shut_down();
    sleep(Duration::from_secs(1)).await;
    let _next = listen("listen", address, config::Takeover::Drain).unwrap();
    let end = shutdown.await.unwrap().end;
    assert_eq!(end, Duration::from_secs(30) + LISTENER_SETTLE_TIME);
}

#[tokio::test(start_paused = true)]
async fn listener_is_not_shared_with_takeover_off() {
    let proxy = Proxy::new(&format!("takeover = 'off'\n{ALL_PHASES}"));
    let address = proxy.address;
    let shutdown = proxy.shut_down();
    sleep(Duration::from_secs(15)).await;
    assert!(listen("listen", address, config::Takeover::Drain).is_err());
    shutdown.await.unwrap();
    listen("listen", address, config::Takeover::Drain).unwrap();
}

/// The service manager passes the socket, and keeps it for the next process.
#[tokio::test(start_paused = true)]
async fn inherited_listener_keeps_what_comes_at_the_close_for_the_next_process() {
    let kept = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let inherited = kept.try_clone().unwrap();
    let keys = "drain = { window = '20s', answers = '20s' }";
    let proxy = Proxy::with_listener(keys, ([127, 0, 0, 1], 9).into(), |_| {
        Listener::inherited(inherited).unwrap()
    });
    let address = proxy.address;
    let shutdown = proxy.shut_down();
    sleep(Duration::from_secs(20) + LISTENER_SETTLE_TIME / 2).await;
    let client = TcpStream::connect(address).unwrap();
    let end = shutdown.await.unwrap().end;
    assert_eq!(end, Duration::from_secs(20) + LISTENER_SETTLE_TIME);
    let (_, peer) = kept.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
}

#[test]
fn answers_start_with_the_window() {
    let start = Instant::now();
    let seconds = Duration::from_secs;
    let drain = config::Drain {
        delay: seconds(10),
        window: seconds(20),
        answers: seconds(60),
    };
    let expected = Schedule {
        delay: start + seconds(10),
        window: start + seconds(30),
        answers: start + seconds(70),
        end: start + seconds(70) + END_GRACE,
    };
    assert_eq!(Schedule::new(start, drain), expected);
}
