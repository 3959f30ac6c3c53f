use super::*;

use super::streams::{ANSWER, PING_PAUSE, THINKING_PAUSE, TOKEN_PAUSE};
use http_body_util::Empty;
use std::fmt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const SETUP: &str = "{}";

fn setup() -> Setup {
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    Setup {
        direct: "http://127.0.0.1:8082".to_owned(),
        guarded: "http://127.0.0.1:8083".to_owned(),
        dashboard: None,
        proxy: address,
        upstream: address,
        idle_s: 10,
    }
}

const LONG: Duration = Duration::from_secs(86_400);

async fn get(path: &str) -> Answer {
    answer(
        Request::get(path).body(Empty::<Bytes>::new()).unwrap(),
        SETUP,
    )
    .await
}

async fn resume(last_event_id: &str) -> Answer {
    let request = Request::get("/resume").header("Last-Event-ID", last_event_id);
    answer(request.body(Empty::<Bytes>::new()).unwrap(), SETUP).await
}

async fn post<B>(body: B) -> Answer
where
    B: Body<Data: Buf, Error: Into<BoxError>>,
{
    answer(
        Request::post("/v1/chat/completions").body(body).unwrap(),
        SETUP,
    )
    .await
}

/// The next chunk as text, and how long it took to come.
async fn chunk<B>(body: &mut B) -> (String, Duration)
where
    B: Body<Data = Bytes, Error: fmt::Debug> + Unpin,
{
    let start = Instant::now();
    let frame = body.frame().await.expect("a frame").expect("no error");
    let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("UTF-8");
    (text, start.elapsed())
}

async fn is_silent_for(body: &mut (impl Body + Unpin), time: Duration) -> bool {
    timeout(time, body.frame()).await.is_err()
}

/// All that comes over the wire in answer to `request`, until the server hangs up.
async fn exchange(request: &str) -> String {
    let (mut client, server) = tokio::io::duplex(1024);
    let talk = async move {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        response
    };
    tokio::join!(talk, drive(server, SETUP.into())).0
}

#[tokio::test(start_paused = true)]
async fn script_sends_waits_and_ends() {
    let minute = Duration::from_secs(60);
    let steps = [send("a"), Step::Wait(minute), send("b")];
    let mut script = Script::new(steps.into_iter());
    assert_eq!(chunk(&mut script).await, ("a".to_owned(), Duration::ZERO));
    assert_eq!(chunk(&mut script).await, ("b".to_owned(), minute));
    assert!(!script.is_end_stream());
    assert!(script.frame().await.is_none());
    assert!(script.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn script_waits_anew_each_time() {
    let second = Duration::from_secs(1);
    let mut script = Script::new(numbered(1, second));
    assert_eq!(chunk(&mut script).await.1, Duration::ZERO);
    sleep(LONG).await;
    assert_eq!(chunk(&mut script).await.1, second);
    assert_eq!(chunk(&mut script).await.1, second);
}

#[tokio::test(start_paused = true)]
async fn broken_script_fails_once_and_is_over() {
    let mut script = Script::new([Step::Break, send("never")].into_iter());
    assert!(script.frame().await.unwrap().is_err());
    assert!(script.is_end_stream());
    assert!(script.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn wedged_script_never_ends() {
    let mut script = Script::new([Step::Forever, send("never")].into_iter());
    assert!(is_silent_for(&mut script, LONG).await);
    assert!(is_silent_for(&mut script, LONG).await);
}

#[tokio::test(start_paused = true)]
async fn dropped_script_leaves_nothing_behind() {
    let token = Arc::new(());
    let held = Arc::clone(&token);
    let steps = std::iter::repeat_with(move || {
        let _ = &held;
        Step::Wait(LONG)
    });
    let mut script = Script::new(steps);
    assert!(is_silent_for(&mut script, Duration::from_secs(1)).await);
    assert_eq!(Arc::strong_count(&token), 2);
    drop(script);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[tokio::test(start_paused = true)]
async fn every_endpoint_of_the_table_answers() {
    for Endpoint { path, method, .. } in ENDPOINTS {
        let request = Request::builder().method(*method).uri(*path);
        let answer = answer(request.body(Empty::<Bytes>::new()).unwrap(), SETUP).await;
        assert_eq!(answer.status(), StatusCode::OK, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn anything_else_is_told_what_there_is() {
    for path in ["/nowhere", "/v1/chat/completions", "/feed/"] {
        let answer = get(path).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        for Endpoint {
            path,
            method,
            about,
            ..
        } in ENDPOINTS
        {
            assert!(text.contains(&format!("{method:<4} {path} ")), "{text}");
            assert!(text.contains(about));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stream_says_its_type_and_no_more() {
    let answer = get("/feed").await;
    assert_eq!(answer.headers().len(), 1);
    assert_eq!(
        answer.headers()[CONTENT_TYPE],
        "text/event-stream; charset=utf-8"
    );
}

#[tokio::test(start_paused = true)]
async fn feed_speaks_five_times_a_second() {
    let mut body = get("/feed").await.into_body();
    let first = "id: 1\ndata: event 1\n\n".to_owned();
    let second = "id: 2\ndata: event 2\n\n".to_owned();
    assert_eq!(chunk(&mut body).await, (first, Duration::ZERO));
    assert_eq!(chunk(&mut body).await, (second, FEED_PAUSE));
}

#[tokio::test(start_paused = true)]
async fn quiet_outlasts_a_minute() {
    let mut body = get("/quiet").await.into_body();
    for _ in 0..3 {
        chunk(&mut body).await;
        assert!(is_silent_for(&mut body, Duration::from_secs(60)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn dies_within_its_fourth_event() {
    let response = exchange("GET /dies HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(response.matches("\n\n").count(), 3);
    // The half event is on the wire, the chunk of length 0 that would end the message is not.
    assert!(response.ends_with("half an ev\r\n"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn hangs_after_two_events() {
    let mut body = get("/hangs").await.into_body();
    chunk(&mut body).await;
    chunk(&mut body).await;
    assert!(is_silent_for(&mut body, LONG).await);
}

#[tokio::test(start_paused = true)]
async fn pings_go_on_where_events_do_not() {
    let mut body = get("/pings").await.into_body();
    chunk(&mut body).await;
    chunk(&mut body).await;
    chunk(&mut body).await;
    for _ in 0..100 {
        let ping = (": upstream ping\n\n".to_owned(), PING_PAUSE);
        assert_eq!(chunk(&mut body).await, ping);
    }
}

#[tokio::test(start_paused = true)]
async fn resume_continues_after_the_last_event_id() {
    let mut body = resume("41").await.into_body();
    let next = ("id: 42\ndata: event 42\n\n".to_owned(), Duration::ZERO);
    assert_eq!(chunk(&mut body).await, next);
    assert_eq!(chunk(&mut body).await.1, RESUME_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn resume_starts_at_one_without_an_id_of_ours() {
    for id in ["", "-1", "abc", "18446744073709551616"] {
        let mut body = resume(id).await.into_body();
        assert!(chunk(&mut body).await.0.starts_with("id: 1\n"), "{id}");
    }
    let mut body = get("/resume").await.into_body();
    assert!(chunk(&mut body).await.0.starts_with("id: 1\n"));
}

#[tokio::test(start_paused = true)]
async fn resume_has_an_end_of_numbers() {
    let mut body = resume("18446744073709551615").await.into_body();
    assert!(body.frame().await.is_none());
    let mut body = resume("18446744073709551614").await.into_body();
    chunk(&mut body).await;
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn chat_thinks_then_speaks_then_is_done() {
    let mut body = post(Full::new(Bytes::from_static(b"{}"))).await.into_body();
    let (role, thought) = chunk(&mut body).await;
    assert_eq!(thought, THINKING_PAUSE);
    assert!(
        role.contains(r#""delta":{"role":"assistant","content":""}"#),
        "{role}"
    );

    let mut answer_text = String::new();
    while answer_text != ANSWER {
        let (event, pause) = chunk(&mut body).await;
        assert_eq!(pause, TOKEN_PAUSE);
        let (_, rest) = event
            .split_once(r#""delta":{"content":""#)
            .expect("a token");
        let (token, rest) = rest.split_once('"').unwrap();
        assert_eq!(rest, "},\"finish_reason\":null}]}\n\n");
        answer_text += token;
    }

    assert!(
        chunk(&mut body)
            .await
            .0
            .contains(r#""delta":{},"finish_reason":"stop"}]}"#)
    );
    assert_eq!(chunk(&mut body).await.0, "data: [DONE]\n\n");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn chat_takes_a_mebibyte_and_no_more() {
    let fits = post(Full::new(Bytes::from(vec![b' '; BODY_LIMIT]))).await;
    assert_eq!(fits.status(), StatusCode::OK);
    let exceeds = post(Full::new(Bytes::from(vec![b' '; BODY_LIMIT + 1]))).await;
    assert_eq!(exceeds.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(start_paused = true)]
async fn chat_gives_up_on_a_body_that_fails_or_stalls() {
    let fails = post(Script::new([Step::Break].into_iter())).await;
    assert_eq!(fails.status(), StatusCode::BAD_REQUEST);
    let stalls = post(Script::new([Step::Forever].into_iter())).await;
    assert_eq!(stalls.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn slow_head_takes_its_time() {
    let start = Instant::now();
    let mut body = get("/slow-head").await.into_body();
    assert_eq!(start.elapsed(), HEAD_PAUSE);
    assert_eq!(chunk(&mut body).await.1, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn plain_has_a_length_and_an_end() {
    let response = exchange("GET /plain HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(
        response.contains("content-type: application/json\r\n"),
        "{response}"
    );
    assert!(response.contains("content-length: 15\r\n"), "{response}");
    assert!(
        response.ends_with("\r\n\r\n{\"plain\":true}\n"),
        "{response}"
    );
}

#[tokio::test(start_paused = true)]
async fn crlf_cuts_line_ends_and_characters() {
    let mut body = get("/crlf").await.into_body();
    let mut chunks = Vec::new();
    for _ in 0..10 {
        chunks.push(body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert!(
        chunks
            .iter()
            .all(|chunk| !chunk.windows(2).any(|pair| pair == b"\r\n"))
    );
    assert!(
        chunks
            .iter()
            .any(|chunk| std::str::from_utf8(chunk).is_err())
    );
    let whole = String::from_utf8(chunks.concat()).unwrap();
    assert_eq!(
        whole,
        "id: 1\r\ndata: café\r\n\r\nid: 2\r\ndata: café\r\n\r\n"
    );
}

#[tokio::test(start_paused = true)]
async fn head_of_an_endless_stream_has_an_end() {
    let response = exchange("HEAD /hangs HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\n"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn request_that_never_comes_is_cut() {
    let (_client, server) = tokio::io::duplex(1024);
    let started = Instant::now();
    drive(server, SETUP.into()).await;
    assert_eq!(started.elapsed(), HEAD_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn client_that_goes_ends_its_connection() {
    for path in ["/hangs", "/slow-head"] {
        let (mut client, server) = tokio::io::duplex(1024);
        let connection = tokio::spawn(drive(server, SETUP.into()));
        let request = format!("GET {path} HTTP/1.1\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert!(!connection.is_finished());
        let left = Instant::now();
        drop(client);
        connection.await.unwrap();
        assert_eq!(left.elapsed(), Duration::ZERO, "{path}");
    }
}

#[tokio::test]
async fn serve_ends_its_connections_with_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, setup()));
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET /quiet HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut response = vec![0; 1024];
    assert!(client.read(&mut response).await.unwrap() > 0);
    server.abort();
    let end = timeout(Duration::from_secs(10), client.read_to_end(&mut response)).await;
    // By a close or a reset, as the kernel has it.
    assert!(end.is_ok());
}

#[tokio::test]
async fn serve_refuses_to_be_seen_from_elsewhere() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    assert_eq!(
        serve(listener, setup()).await.kind(),
        io::ErrorKind::InvalidInput
    );
}

#[test]
fn answer_needs_no_escapes_in_json() {
    assert!(
        ANSWER
            .chars()
            .all(|c| !c.is_control() && c != '"' && c != '\\')
    );
}

#[test]
fn page_needs_nothing_from_elsewhere() {
    assert!(!PAGE.contains("//"));
    assert!(!PAGE.contains("import"));
}

#[tokio::test(start_paused = true)]
async fn page_of_another_port_may_read_the_answer() {
    let request = Request::builder().method("OPTIONS").uri("/feed");
    let request = request.header("Origin", "http://127.0.0.1:8080");
    let answer = answer(request.body(Empty::<Bytes>::new()).unwrap(), SETUP).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "*");
}

#[tokio::test(start_paused = true)]
async fn named_events_have_their_names() {
    let mut body = get("/named").await.into_body();
    for start in ["event: price\nid: 1\n", "event: trade\nid: 2\n", "id: 3\n"] {
        let (text, _) = chunk(&mut body).await;
        assert!(text.starts_with(start), "{text}");
    }
}
