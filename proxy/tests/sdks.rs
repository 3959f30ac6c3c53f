//! The official clients of each family, through the real binary: heartbeats at every position, the
//! upstream cut at every event, errors. They are installed by `tests/run.sh`.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation is how a test fails"
)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;
use support::tls::{Authority, Files, server_config};
use support::ways::Ways;
use support::{Answer, Origin, Proxy, ReceivedRequest, free_address, skipped};

const CHAT: &str = include_str!("clients/chat.sse");
const RESPONSES: &str = include_str!("clients/responses.sse");
const MESSAGES: &str = include_str!("clients/messages.sse");
const FEED: &str = include_str!("clients/feed.sse");

/// Longer than the proxy waits until it answers early.
const LATE: Duration = Duration::from_millis(100);

/// As well, where that is two seconds.
const LATE_TOOL: Duration = Duration::from_millis(2_300);

/// The last event of the feed whose events have ids.
const LAST: u64 = 24;

/// What the proxy does differently for some of the paths; `{away}` is where nobody listens.
const CONFIG: &str = r#"
heartbeat.interval = "2ms"
limit.per_ip = "off"
limit.rate = "off"

[[route]]
path = "/silent"
idle.timeout = "300ms"

# The client's other requests get JSON, which is too late behind an early answer.
[[route]]
path = "/late/0/mcp"
early.enabled = true
early.after = "2s"

[[route]]
path = "/late"
early.enabled = true
early.after = "20ms"

[[route]]
path = "/refused"
early.enabled = true
early.after = "20ms"

[[route]]
path = "/away"
upstream.url = "http://{away}"
"#;

fn events(stream: &str) -> Vec<String> {
    let events = stream.split_inclusive("\n\n");
    events.map(str::to_owned).collect()
}

/// How many events there are up to the one with `text` in it.
fn place(stream: &str, text: &str) -> usize {
    let place = events(stream).iter().position(|event| event.contains(text));
    place.unwrap() + 1
}

/// What answers a request for `/HOW/COUNT/API`: HOW is what goes wrong, behind COUNT events.
fn answer(received: &ReceivedRequest, to: &mut Answer) {
    let mut path = received.path.splitn(4, '/').skip(1);
    let mut part = || path.next().unwrap_or_default();
    let (how, count, api) = (part(), part().parse::<usize>().unwrap(), part());
    // What is not read turns the end of the connection into a reset, which may overtake the answer.
    let length = received.field("content-length");
    let body = to.body(length.map_or(0, |length| length.parse().unwrap()));
    let all = match api {
        "v1/chat/completions" => events(CHAT),
        "v1/responses" => events(RESPONSES),
        "v1/messages" => events(MESSAGES),
        "feed" => events(FEED),
        "ids" => feed(received),
        "mcp" => match tool(&body, to) {
            Some(all) => all,
            None => return,
        },
        _ => panic!("{}", received.path),
    };
    let (before, behind) = all.split_at(count.min(all.len()));
    match how {
        "whole" => slowly(&all.concat(), to),
        "crlf" => slowly(&all.concat().replace('\n', "\r\n"), to),
        "late" => {
            thread::sleep(if api == "mcp" { LATE_TOOL } else { LATE });
            to.stream();
            to.chunk(all.concat());
            to.end();
        }
        "told" => {
            begin(before, to);
            to.chunk(error_of(api));
            to.end();
        }
        "status" | "refused" => {
            if how == "refused" {
                thread::sleep(LATE);
            }
            let body = r#"{"type":"error","error":{"type":"x","message":"no","code":null}}"#;
            let head = format!(
                "HTTP/1.1 {count} No\r\nContent-Type: application/json\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            to.raw(head.as_bytes());
        }
        _ => {
            begin(before, to);
            if let (true, Some(next)) = (how.starts_with("half"), behind.first()) {
                to.chunk(&next[..next.len() / 2]);
            }
            // The feed goes on until its client has it all.
            if how == "silent" || api == "ids" && before.len() == all.len() {
                to.wait_for_close();
            } else if how.ends_with("clean") {
                to.end();
            } else if how.ends_with("reset") {
                to.reset();
            }
        }
    }
}

/// A stream and its first events.
fn begin(events: &[String], to: &mut Answer) {
    to.stream();
    // An empty chunk is the last.
    if !events.is_empty() {
        to.chunk(events.concat());
    }
}

/// Byte by byte, with time for a heartbeat between any two.
fn slowly(text: &str, to: &mut Answer) {
    to.stream();
    for byte in text.bytes() {
        thread::sleep(Duration::from_millis(3));
        to.chunk([byte]);
    }
    to.end();
}

/// As the API itself tells of a failure in the middle.
fn error_of(api: &str) -> &'static str {
    match api {
        "v1/chat/completions" => "data: {\"error\": {\"message\": \"overloaded\"}}\n\n",
        "v1/responses" => {
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"overloaded\"}}\n\n"
        }
        _ => {
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
             \"message\":\"overloaded\"}}\n\n"
        }
    }
}

/// What a client has not seen of it yet.
fn feed(received: &ReceivedRequest) -> Vec<String> {
    let seen = received.field("last-event-id");
    let seen: u64 = seen.map_or(0, |id| id.parse().unwrap());
    let event = |id| format!("retry: 10\nid: {id}\nevent: tick\ndata: {id}\ndata: and ✓\n\n");
    (seen + 1..=LAST).map(event).collect()
}

/// What a server of the Model Context Protocol says to a call of its tool; the rest is answered here.
fn tool(body: &[u8], to: &mut Answer) -> Option<Vec<String>> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let id = &request["id"];
    let result = match request["method"].as_str() {
        Some("tools/call") => return Some(call(&request)),
        Some("initialize") => json!({
            "protocolVersion": request["params"]["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "origin", "version": "1" },
        }),
        Some("tools/list") => {
            json!({ "tools": [{ "name": "think", "inputSchema": { "type": "object" } }] })
        }
        _ => {
            to.raw(b"HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            return None;
        }
    };
    let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    to.raw(head.as_bytes());
    None
}

fn call(request: &Value) -> Vec<String> {
    let token = &request["params"]["_meta"]["progressToken"];
    let progress = |done: u32| {
        json!({
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": { "progressToken": token, "progress": done, "total": 3, "message": "… ✓" },
        })
    };
    let result = json!({
        "jsonrpc": "2.0",
        "id": request["id"],
        "result": { "content": [{ "type": "text", "text": "42" }], "isError": false },
    });
    let messages = (1..=3).map(progress).chain([result]);
    let event = |message: Value| format!("event: message\ndata: {message}\n\n");
    messages.map(event).collect()
}

/// Of `clients/` in cargo's directory, in which this program is three levels down; or nothing, and a
/// word about it, if it is not there.
fn installed(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap();
    let path = program.ancestors().nth(3).unwrap().join("clients");
    let path = path.join(name);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!(
        "the official clients: {name} is not installed, which tests/run.sh does"
    ));
    None
}

/// An origin and the proxy before it.
struct World {
    origin: Origin,
    proxy: Proxy,
    /// Of the proxy, for clients.
    url: String,
    files: Files,
    /// The upstream, unless it is the origin.
    _upstream: Option<Origin>,
}

impl World {
    fn new() -> Self {
        let files = Files::new();
        let origin = Origin::start(|received, to| answer(&received, to));
        let url = format!("http://{}", origin.addr);
        let keys = "listen = '127.0.0.1:0'\nadmin = false\n";
        let proxy = Self::proxy(&files, &url, keys, "");
        Self {
            url: format!("http://{}", proxy.addr),
            origin,
            proxy,
            files,
            _upstream: None,
        }
    }

    /// TLS on both sides of the proxy, and HTTP/2 for clients that have it.
    fn with_tls() -> Self {
        let (authority, files) = (Authority::new("test CA"), Files::new());
        let origin = Origin::start(|received, to| answer(&received, to));
        let config = server_config(&authority.issue(&["127.0.0.1"]), rustls::ALL_VERSIONS);
        let upstream = Origin::over_tls(config, |received, to| answer(&received, to));
        let ca = files.write("ca.pem", &authority.pem());
        let listeners = Ways::listeners(&authority, &files, ["127.0.0.1:0"; 2]);
        let keys = format!("admin = false\nupstream.tls.ca = '{ca}'\n");
        let url = format!("https://{}", upstream.addr);
        let proxy = Self::proxy(&files, &url, &keys, &listeners);
        Self {
            url: format!("https://{}", Ways::tls_addr_of(&proxy)),
            origin,
            proxy,
            files,
            _upstream: Some(upstream),
        }
    }

    fn proxy(files: &Files, upstream: &str, keys: &str, listeners: &str) -> Proxy {
        let away = free_address().to_string();
        let routes = CONFIG.replace("{away}", &away);
        let text = format!("upstream.url = '{upstream}'\n{keys}{routes}{listeners}");
        let file = files.write("guard.toml", &text);
        // As it is by default.
        let variables = [("SSE_GUARD_HEARTBEAT_IMMEDIATE", "auto")];
        Proxy::from_file_with(Path::new(&file), &variables)
    }

    /// Runs a script of `tests/clients/`, and asserts that all its cases pass.
    fn run(&self, program: &Path, script: &str, variables: &[(&str, &Path)]) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
        let counts = json!({
            "chat": events(CHAT).len(),
            "responses": events(RESPONSES).len(),
            "messages": events(MESSAGES).len(),
            "feed": events(FEED).len(),
            "mcp": call(&Value::Null).len(),
        });
        // Behind the chunk with `finish_reason`, and the event with `stop_reason`.
        let whole = json!({
            "chat": place(CHAT, r#""finish_reason":"stop""#),
            "responses": events(RESPONSES).len(),
            "messages": place(MESSAGES, r#""stop_reason":"end_turn""#),
        });
        let output = Command::new(program)
            .arg(Path::new(path).join(script))
            .arg(format!("http://{}", self.origin.addr))
            .arg(&self.url)
            .arg(counts.to_string())
            .arg(whole.to_string())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let (out, err) = (&output.stdout, &output.stderr);
        let told = String::from_utf8_lossy(out) + String::from_utf8_lossy(err);
        assert!(output.status.success(), "{script}:\n{told}");
        assert!(!told.contains("\n0 passed"), "{script}:\n{told}");
    }
}

fn python(script: &str) -> Option<World> {
    let program = installed("python/bin/python")?;
    let world = World::new();
    world.run(&program, script, &[]);
    Some(world)
}

fn node(script: &str) -> Option<World> {
    let modules = installed("node/node_modules")?;
    let world = World::new();
    world.run(Path::new("node"), script, &[("NODE_PATH", &modules)]);
    Some(world)
}

/// What was put in between.
fn heartbeats(world: &World) -> u64 {
    let lines = world.proxy.wait_for_log_lines("\"stream ended\"", 1);
    let line = |line: &String| serde_json::from_str::<Value>(line).unwrap();
    let beats = |line: Value| line["heartbeats"].as_u64();
    lines.iter().map(line).filter_map(beats).sum()
}

#[test]
fn openai_sdk_of_python_gets_complete_responses_or_exceptions() {
    if let Some(world) = python("openai_sdk.py") {
        assert!(heartbeats(&world) > 100);
    }
}

#[test]
fn openai_sdk_of_node_gets_complete_responses_or_exceptions() {
    if let Some(world) = node("openai_sdk.mjs") {
        assert!(heartbeats(&world) > 100);
    }
}

#[test]
fn anthropic_sdk_gets_complete_responses_or_exceptions() {
    if let Some(world) = python("anthropic_sdk.py") {
        assert!(heartbeats(&world) > 100);
    }
}

#[test]
fn mcp_sdk_gets_complete_results_or_exceptions() {
    if let Some(world) = python("mcp_sdk.py") {
        assert!(heartbeats(&world) > 100);
    }
}

#[test]
fn httpx_sse_gets_each_event_and_detects_a_break() {
    if let Some(world) = python("httpx_client.py") {
        assert!(heartbeats(&world) > 100);
    }
}

#[test]
fn node_eventsource_gets_each_event_once_across_cuts() {
    node("eventsource.mjs");
}

/// A client, and whether it is to use HTTP/2.
const OVER_TLS: [(&str, bool); 5] = [
    ("openai_sdk.py", true),
    ("anthropic_sdk.py", false),
    ("mcp_sdk.py", true),
    ("openai_sdk.mjs", false),
    ("eventsource.mjs", false),
];

#[test]
fn official_clients_over_tls_and_http2_get_the_stream_of_an_https_upstream() {
    let (Some(python), Some(modules)) = (
        installed("python/bin/python"),
        installed("node/node_modules"),
    ) else {
        return;
    };
    let world = World::with_tls();
    let ca = world.files.path("ca.pem");
    thread::scope(|scope| {
        for (script, http2) in OVER_TLS {
            let (world, ca, python, modules) = (&world, &ca, &python, &modules);
            scope.spawn(move || {
                let program = match script.ends_with("py") {
                    true => python,
                    false => Path::new("node"),
                };
                let variables = [
                    ("NODE_PATH", modules.as_path()),
                    ("NODE_EXTRA_CA_CERTS", ca),
                    ("SSL_CERT_FILE", ca),
                    ("HTTP2", Path::new(if http2 { "1" } else { "" })),
                    ("CASES", Path::new("few")),
                ];
                world.run(program, script, &variables);
            });
        }
    });
    assert!(heartbeats(&world) > 0);
}
