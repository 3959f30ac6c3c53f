//! Reloads: what a route that stays keeps, and what routes that are gone leave behind.

use super::handler::{Handler, ResponseBody};
use crate::carryover::Carryover;
use crate::config::{self, from_file};
use crate::config_reader::ConfigReader;
use crate::ended::EndedStreams;
use crate::state::{Inherited, ProxyState};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use sse_guard::serve::RequestBody;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_service::Service;

/// An upstream: `/events` is a stream that stays open, all else a short text on a connection that stays open.
struct Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(serve(socket));
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

async fn serve(mut socket: TcpStream) {
    let mut head = Vec::new();
    while let Ok(byte) = socket.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            let response: &[u8] = match head.starts_with(b"GET /events") {
                true => b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n",
                false => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            };
            socket.write_all(response).await.unwrap();
            head.clear();
        }
    }
}

fn loaded(text: &str) -> config::LoadedConfig {
    from_file(text).unwrap()
}

fn state(text: &str, carryover: Carryover) -> Arc<ProxyState> {
    let matches = config::command().get_matches_from(["sse-guard"]);
    let reader = ConfigReader::new(matches, Vec::new());
    let state = ProxyState::new(reader, loaded(text), carryover, Inherited::default());
    Arc::new(state.unwrap())
}

async fn get(state: &Arc<ProxyState>, path: &str) -> Response<Pin<Box<ResponseBody>>> {
    let request = Request::get(path)
        .header("host", "proxy.test")
        .header("accept", "text/event-stream")
        .body(RequestBody::default());
    let response = Handler::new(state, state.active().config().listeners[0].clone())
        .call(request.unwrap())
        .await;
    response.unwrap().map(Box::pin)
}

async fn next_data<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Bytes> {
    let frame = body.frame().await?.ok()?;
    frame.into_data().ok()
}

/// A config in which only what is not `{}` stays as it is.
fn config_of(upstream: &Upstream, more: &str) -> String {
    let address = upstream.address;
    format!("upstream.url = 'http://{address}'\nresume.mode = 'lossy'\nlimit.total = 10\n{more}")
}

#[tokio::test]
async fn reload_keeps_counts_of_a_route_that_stays() {
    let upstream = Upstream::start().await;
    let state = state(&config_of(&upstream, ""), Carryover::new(None));
    let mut stream = get(&state, "/events").await;
    assert_eq!(next_data(stream.body_mut()).await.unwrap(), "data: 1\n\n");
    let counts = || {
        let active = state.active();
        let view = active.router.views().next().unwrap();
        let numbers = view.metrics.snapshot();
        (numbers.active, numbers.events, view.fill)
    };
    assert_eq!(counts(), (1, 1, Some((1, 10))));
    let changed = config_of(&upstream, "heartbeat.interval = '7s'");
    state.reload(Ok(loaded(&changed))).unwrap();
    assert_eq!(counts(), (1, 1, Some((1, 10))));
    // The stream, which keeps its own config, counts in those of the new one.
    drop(stream);
    assert_eq!(counts(), (0, 1, Some((0, 10))));
}

#[tokio::test]
async fn reload_keeps_pooled_connections_of_a_route_that_stays() {
    let upstream = Upstream::start().await;
    let state = state(&config_of(&upstream, ""), Carryover::new(None));
    let fetch = async || {
        let response = get(&state, "/text").await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await;
        assert_eq!(body.unwrap().to_bytes(), "ok");
        // A task of its own returns the connection to the pool.
        tokio::task::yield_now().await;
    };
    fetch().await;
    let changed = config_of(&upstream, "heartbeat.interval = '7s'");
    state.reload(Ok(loaded(&changed))).unwrap();
    fetch().await;
    assert_eq!(upstream.connections(), 1);
    let changed = config_of(&upstream, "upstream.head_timeout = '7s'");
    state.reload(Ok(loaded(&changed))).unwrap();
    fetch().await;
    assert_eq!(upstream.connections(), 1, "the endpoint stays");
    let changed = config_of(&upstream, "upstream.keepalive = '7s'");
    state.reload(Ok(loaded(&changed))).unwrap();
    fetch().await;
    assert_eq!(upstream.connections(), 2, "other socket options");
}

#[tokio::test]
async fn reload_keeps_the_reconnect_queue_of_a_route_that_stays() {
    let upstream = Upstream::start().await;
    let state = state(&config_of(&upstream, ""), Carryover::new(None));
    let queue = || {
        let active = state.active();
        let settings = &active.config().routes[0].settings;
        let resume = settings.resume.as_ref().unwrap();
        state.carryover.queue(&settings.upstream.url, resume)
    };
    let before = queue().downgrade();
    let changed = config_of(&upstream, "heartbeat.interval = '7s'");
    state.reload(Ok(loaded(&changed))).unwrap();
    let before = before.upgrade().unwrap();
    assert!(before.is_same(&queue()));
    let changed = config_of(&upstream, "resume.rate = '7/s'");
    state.reload(Ok(loaded(&changed))).unwrap();
    assert!(!before.is_same(&queue()), "another rate");
}

#[tokio::test]
async fn reload_keeps_what_streams_of_a_removed_route_use() {
    let upstream = Upstream::start().await;
    let with = "[[route]]\npath = '/events'\nlimit.total = 3\n[[route]]\npath = '/'";
    let without = "[[route]]\npath = '/'";
    let state = state(&config_of(&upstream, with), Carryover::new(None));
    let mut stream = get(&state, "/events").await;
    assert_eq!(next_data(stream.body_mut()).await.unwrap(), "data: 1\n\n");
    let slots = || state.carryover.slots();
    for config in [without, without, with] {
        let config = config_of(&upstream, config);
        state.reload(Ok(loaded(&config))).unwrap();
        assert_eq!((state.carryover.snapshot().active, slots()), (1, 1));
    }
    let active = state.active();
    let view = active.router.views().next().unwrap();
    assert_eq!((view.path, view.fill), ("/events", Some((1, 3))));
}

/// Routes that come and go, each with a limit, an upstream and a queue of its own.
#[tokio::test]
async fn reload_a_thousand_times_leaves_nothing_of_routes_that_are_gone() {
    let upstream = Upstream::start().await;
    let ended = Arc::new(EndedStreams::default());
    let state = state(
        &config_of(&upstream, ""),
        Carryover::new(Some(ended.clone())),
    );
    let reload = |more: &str| {
        let config = config_of(&upstream, more);
        state.reload(Ok(loaded(&config))).unwrap();
    };
    reload("");
    // Each layer of metrics and each service made of it has a handle, and so has each stream.
    let (entries, handles) = (state.carryover.entries(), Arc::strong_count(&ended));
    assert_eq!(entries, [1, 1, 1], "metrics, limits, queues");
    for turn in 0..1_000 {
        let route = format!(
            "[[route]]\npath = '/{turn}/*'\nlimit.total = 3\nupstream.url = 'http://127.0.0.1:9/{turn}'\n\
             resume.rate = '{rate}/s'\n[[route]]\npath = '/'",
            rate = turn + 1
        );
        reload(&route);
        assert_eq!(state.carryover.entries(), [2, 2, 2]);
    }
    let mut stream = get(&state, "/events").await;
    assert_eq!(next_data(stream.body_mut()).await.unwrap(), "data: 1\n\n");
    drop(stream);
    reload("");
    assert_eq!(state.carryover.entries(), entries);
    assert_eq!(Arc::strong_count(&ended), handles);
    assert_eq!(state.carryover.snapshot().opened, 1);
}
