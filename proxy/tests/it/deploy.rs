//! What `deploy/` ships goes with the code: its config, its metric names, its unit.

use crate::support::{Client, Origin, PATIENCE, Proxy, gate, wait_until};
use prometheus_parse::{Sample, Scrape};
use serde_json::Value;
use sse_guard::EndReason;
use sse_guard::connection_limit::RejectReason;
use sse_guard_proxy::config::KEYS;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const SAMPLE: &str = include_str!("../../../deploy/sse-guard.toml");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const ALERT_CASES: &str = include_str!("../../../deploy/prometheus/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/sse-guard.json");
const UNIT: &str = include_str!("../../../deploy/systemd/sse-guard.service");
const DOCKERFILE: &str = include_str!("../../../deploy/docker/Dockerfile");
const MANIFEST: &str = include_str!("../../../Cargo.toml");
const URL: &str = "http://127.0.0.1:3000";

/// What `check` prints, without the places that values came from.
fn checked(flags: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .env_clear()
        .args(["check", "--upstream-url", URL])
        .args(flags)
        .output()
        .unwrap();
    let mistakes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{mistakes}");
    let text = String::from_utf8(output.stdout).unwrap();
    let values = text.lines().map(|line| line.split(" # ").next().unwrap());
    values.map(|value| value.trim_end().to_owned()).collect()
}

/// The key and the value that a line of the sample sets or, behind a `#`, would set.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")?;
    let is_key = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
    key.bytes().all(is_key).then_some((key, value))
}

/// The keys of the sample, with the comment above each.
fn explained() -> Vec<(String, String)> {
    let (mut table, mut comment, mut keys) = (String::new(), String::new(), Vec::new());
    // From the first route on keys come again.
    for line in SAMPLE.lines().take_while(|line| *line != "# [[route]]") {
        if let Some((leaf, _)) = setting(line) {
            keys.push((format!("{table}{leaf}"), comment.trim().to_owned()));
        } else if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push(' ');
            continue;
        }
        comment.clear();
    }
    keys
}

#[test]
fn sample_config_sets_every_key_to_its_default() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sse-guard.toml");
    assert_eq!(checked(&["--config", sample]), checked(&[]));
}

#[test]
fn sample_config_explains_every_key_as_the_code_does() {
    let explained = explained();
    let names: Vec<_> = explained.iter().map(|(name, _)| name.as_str()).collect();
    let keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names, keys);
    for (key, (_, comment)) in KEYS.iter().zip(&explained) {
        assert!(comment.starts_with(key.help), "{}: {comment}", key.name);
        assert_eq!(
            comment.ends_with("Per route."),
            key.per_route,
            "{}",
            key.name
        );
    }
}

#[test]
fn commented_keys_of_the_sample_config_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.toml");
    let uncommented: Vec<_> = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if code == "[[route]]" || setting(line).is_some() => code,
            _ => line,
        })
        .collect();
    std::fs::write(&path, uncommented.join("\n")).unwrap();
    let printed = checked(&["--config", path.to_str().unwrap()]);
    for line in ["threads = 2", "[[route]]", "path = \"/v1\""] {
        assert!(
            printed.iter().any(|other| other == line),
            "{line}\n{printed:#?}"
        );
    }
}

/// The metrics of the real binary, without the suffixes of histograms, and the values of their
/// labels; after one of each has happened that is counted from its first time on.
fn exported() -> BTreeMap<String, BTreeMap<String, HashSet<String>>> {
    let (speak, may_speak) = gate();
    let origin = Origin::start(move |used, to| {
        if used.path == "/plain" {
            to.raw(b"HTTP/1.1 204 No Content\r\n\r\n");
            return;
        }
        to.stream();
        may_speak.wait();
        if used.field("last-event-id").is_none() {
            to.chunk("id: 1\ndata: 1\n\n");
            to.reset();
            return;
        }
        to.chunk("id: 2\ndata: 2\n\n");
        to.wait_for_close();
    });
    let proxy = Proxy::start(
        origin.addr,
        &[
            "--admin-listen=127.0.0.1:0",
            "--heartbeat-immediate",
            "--limit-per-ip=1",
            "--memory-budget=1GiB",
            "--resume-mode=on",
            "--resume-backoff=1ms",
        ],
    );
    let mut client = proxy.get("/");
    client.head();
    for seen in ["heartbeat", "data: 1\n\n"] {
        client.read_until(seen);
        speak.send(()).unwrap();
    }
    client.read_until("data: 2\n\n");
    assert!(proxy.get("/").head().starts_with("http/1.1 429 "));
    drop(client);
    let mut plain = proxy.send_request("GET /plain HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(plain.head().starts_with("http/1.1 204 "));
    let scrape = || -> Vec<Sample> {
        let mut client = Client::connect(proxy.admin());
        client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        client.head();
        let text = String::from_utf8(client.raw()).unwrap();
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        Scrape::parse(lines).unwrap().samples
    };
    let mut samples = Vec::new();
    wait_until("the end is counted, and everybody judged", || {
        samples = scrape();
        let mut late = [
            "sse_guard_ends_total",
            "sse_guard_stream_duration_seconds_count",
            "sse_guard_health",
            "sse_guard_memory_budget_bytes",
            "sse_guard_requests_total",
            "sse_guard_availability_ratio",
        ]
        .iter();
        late.all(|metric| samples.iter().any(|sample| sample.metric == *metric))
    });
    let mut metrics: BTreeMap<_, BTreeMap<_, HashSet<_>>> = BTreeMap::new();
    for sample in samples {
        let labels = metrics.entry(base(&sample.metric).to_owned()).or_default();
        for (name, value) in sample.labels.iter() {
            labels
                .entry(name.clone())
                .or_default()
                .insert(value.clone());
        }
    }
    let ends = EndReason::ALL.iter().map(|reason| reason.as_str());
    let rejections = RejectReason::ALL.iter().map(|reason| reason.as_str());
    let all: [(&str, HashSet<String>); 2] = [
        ("sse_guard_ends_total", ends.map(str::to_owned).collect()),
        (
            "sse_guard_rejections_total",
            rejections.map(str::to_owned).collect(),
        ),
    ];
    for (metric, all) in all {
        assert_eq!(metrics[metric]["reason"], all, "{metric}");
    }
    metrics
}

fn base(name: &str) -> &str {
    let suffixes = ["_bucket", "_sum", "_count"];
    let cut = suffixes.iter().find_map(|end| name.strip_suffix(end));
    cut.unwrap_or(name)
}

/// The words of an expression that are names of our metrics, without the suffixes of histograms.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("sse_guard_") || word.starts_with("process_"))
        .map(base)
}

/// The values that it asks of a label, alternatives one by one.
fn values<'a>(expression: &'a str, label: &str) -> HashSet<&'a str> {
    let starts = ["=", "=~", "!=", "!~"].map(|operator| format!("{label}{operator}\""));
    starts
        .iter()
        .flat_map(|start| expression.split(start.as_str()).skip(1))
        .flat_map(|rest| rest.split('"').next().unwrap().split('|'))
        .collect()
}

/// The labels that it groups by.
fn groups(expression: &str) -> HashSet<&str> {
    let lists = expression.split("by (").skip(1);
    lists
        .flat_map(|rest| rest.split(')').next().unwrap().split(", "))
        .collect()
}

/// Whether all that it asks for is there to be answered.
#[track_caller]
fn assert_answered(
    expression: &str,
    exported: &BTreeMap<String, BTreeMap<String, HashSet<String>>>,
) {
    for metric in metrics(expression) {
        let labels = exported.get(metric);
        let labels = labels.unwrap_or_else(|| panic!("there is no {metric}: {expression}"));
        for label in ["kind", "name", "outcome", "reason", "route"] {
            let used = values(expression, label);
            if used.is_empty() && !groups(expression).contains(label) {
                continue;
            }
            let known = labels.get(label);
            let known = known.unwrap_or_else(|| panic!("{metric} has no {label}: {expression}"));
            for value in used {
                let is_variable = value.starts_with('$');
                assert!(
                    is_variable || known.contains(value),
                    "there is no {label} {value}: {expression}"
                );
            }
        }
    }
}

#[test]
fn alerts_query_exported_metrics_and_name_a_remedy() {
    let alerts: Value = serde_saphyr::from_str(ALERTS).unwrap();
    let exported = exported();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    let mut names = HashSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(names.insert(name), "{name}");
        let expression = rule["expr"].as_str().unwrap();
        assert_answered(expression, &exported);
        let is_ours = metrics(expression).next().is_some();
        assert!(is_ours || expression.starts_with("up{"), "{expression}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}");
        let (summary, remedy) = (
            &rule["annotations"]["summary"],
            &rule["annotations"]["description"],
        );
        assert!(
            summary.as_str().is_some_and(|text| text.contains("{{ $")),
            "{name}"
        );
        // The remedy is a key of the config, and one there is.
        let words = remedy
            .as_str()
            .unwrap()
            .split([' ', ',', ';', ':', '(', ')']);
        let words = words.map(|word| word.trim_end_matches('.'));
        let tables: HashSet<_> = KEYS
            .iter()
            .filter_map(|key| key.name.split('.').next())
            .collect();
        let keys: Vec<_> = words
            .filter(|word| {
                word.split('.')
                    .next()
                    .is_some_and(|table| tables.contains(table))
            })
            .filter(|word| word.contains(['.', '_']))
            .collect();
        assert!(!keys.is_empty(), "{name}: {remedy}");
        for key in keys {
            assert!(KEYS.iter().any(|known| known.name == key), "{name}: {key}");
        }
    }
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let alerts: Value = serde_saphyr::from_str(ALERTS).unwrap();
    let cases: Value = serde_saphyr::from_str(ALERT_CASES).unwrap();
    let names: Vec<_> = cases["tests"].as_array().unwrap().iter().collect();
    let count = |name: &str, value: u64| {
        let is_it = |case: &&&Value| {
            let check = &case["promql_expr_test"][0];
            let expression = check["expr"].as_str().unwrap();
            expression.contains(&format!("\"{name}\"")) && check["exp_samples"][0]["value"] == value
        };
        names.iter().filter(is_it).count()
    };
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(count(name, 1) > 0, "{name} fires in no case");
        assert!(count(name, 0) > 0, "{name} fires in every case");
    }
}

/// An alert and the health of a route go by the same share.
#[test]
fn alerts_have_the_thresholds_of_the_config() {
    let alerts: Value = serde_saphyr::from_str(ALERTS).unwrap();
    let key = KEYS.iter().find(|key| key.name == "health.max_error_rate");
    let bound = format!(">= {} and", key.unwrap().default.unwrap());
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    for name in ["SseGuardUpstreamErrors", "SseGuardStreamsDoNotOpen"] {
        let rule = rules.iter().find(|rule| rule["alert"] == name).unwrap();
        let expression = rule["expr"].as_str().unwrap();
        assert!(expression.contains(&bound), "{expression}");
        assert!(expression.ends_with(">= 5"), "{expression}");
    }
}

#[test]
fn grafana_dashboard_queries_and_shows_all_exported_metrics() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let exported = exported();
    let mut shown = HashSet::new();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
    {
        let expression = target["expr"].as_str().unwrap();
        assert_answered(expression, &exported);
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{expression}");
        shown.extend(metrics(expression));
    }
    for metric in exported
        .keys()
        .filter(|name| name.starts_with("sse_guard_"))
    {
        assert!(shown.contains(metric.as_str()), "{metric} is on no panel");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "job", "instance", "route"]);
    for query in variables
        .iter()
        .filter_map(|variable| variable["query"]["query"].as_str())
    {
        assert_answered(query, &exported);
    }
}

#[test]
fn grafana_panels_have_distinct_ids_and_places() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut ids, mut cells) = (HashSet::new(), HashSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        let [x, y, w, h] = place;
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: {place:?}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} covers another panel");
        }
    }
}

/// The last value of a directive of the unit.
fn directive(name: &str) -> &'static str {
    let mut lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines.rfind(|(key, _)| *key == name).unwrap().1
}

#[test]
fn systemd_unit_leaves_room_for_the_defaults() {
    let default = |name| {
        let key = KEYS.iter().find(|key| key.name == name);
        key.unwrap().default.unwrap()
    };
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>().unwrap();
    let patience = seconds(directive("TimeoutStopSec"));
    let time = |name| seconds(default(name));
    let longest = time("drain.window").max(time("drain.answers"));
    assert!(patience > time("drain.delay") + longest + 5);
    let files: u64 = directive("LimitNOFILE").parse().unwrap();
    assert!(files > 2 * default("limit.total").parse::<u64>().unwrap());
    // Without a limit there is no budget of memory.
    assert_ne!(directive("MemoryMax"), "infinity");
}

#[test]
fn image_is_built_by_the_minimum_toolchain() {
    let version = MANIFEST
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let from = format!("FROM rust:{}-", version.unwrap().trim_matches('"'));
    assert!(DOCKERFILE.contains(&from), "{from}");
}

/// Where the image listens is a default: a mounted file may set another address.
#[test]
fn image_sets_no_variable_that_overrides_a_file() {
    let variables: Vec<_> = DOCKERFILE
        .lines()
        .filter_map(|line| line.strip_prefix("ENV "))
        .collect();
    assert_eq!(variables, ["SSE_GUARD_DEFAULT_LISTEN=:8080"]);
}

#[test]
fn health_check_of_the_image_finds_the_proxy() {
    let (_, check) = DOCKERFILE.split_once("\nHEALTHCHECK ").unwrap();
    let (_, command) = check.split_once("CMD ").unwrap();
    let command: Vec<String> = serde_json::from_str(command.lines().next().unwrap()).unwrap();
    // An image has no shell, and the entry point is not applied.
    let binary = "/usr/local/bin/sse-guard";
    assert!(DOCKERFILE.contains(&format!("ENTRYPOINT [\"{binary}\"]")));
    assert_eq!(command[0], binary);
    let origin = Origin::start(|_, _| {});
    let proxy = Proxy::start(origin.addr, &["--admin-listen=127.0.0.1:0"]);
    let check = |listen: &str| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_sse-guard"));
        run.env_clear().env("SSE_GUARD_ADMIN_LISTEN", listen);
        run.args(&command[1..]).output().unwrap().status.code()
    };
    assert_eq!(check(&proxy.admin().to_string()), Some(0));
    assert_eq!(check("off"), Some(1));
}

/// A service manager, as far as its socket goes.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut bytes = [0; 1024];
        let size = self.0.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    }

    /// The next message that is no sign of life.
    fn news(&self) -> String {
        loop {
            let message = self.next();
            if message != ALIVE {
                return message;
            }
        }
    }

    fn sign_of_life(&self) {
        while self.next() != ALIVE {}
    }
}

const ALIVE: &str = "WATCHDOG=1\n";

#[test]
fn service_manager_is_notified_of_readiness_reloads_stops_and_watchdog() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, config) = (dir.path().join("notify"), dir.path().join("guard.toml"));
    let write = |text: &str| {
        let always = format!("listen = '127.0.0.1:0'\nadmin = false\nupstream.url = '{URL}'\n");
        std::fs::write(&config, always + text).unwrap();
    };
    write("");
    let manager = Manager::at(&socket);
    let interval = Duration::from_millis(100).as_micros().to_string();
    let variables = [
        ("NOTIFY_SOCKET", socket.to_str().unwrap()),
        ("WATCHDOG_USEC", interval.as_str()),
    ];
    let mut proxy = Proxy::from_file_with(&config, &variables);
    let serving = format!("READY=1\nSTATUS=serving on {}", proxy.addr);
    assert_eq!(manager.news(), format!("{serving}\n"));
    manager.sign_of_life();
    manager.sign_of_life();

    for (text, note) in [
        ("heartbeat.interval = '5s'", ""),
        (
            "heartbeat.interval = 'x'",
            "; the last reload failed, see the log",
        ),
    ] {
        write(text);
        proxy.signal("-HUP");
        let message = manager.news();
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(
            time.is_some_and(|time| time.trim_end().parse::<u64>().unwrap() > 0),
            "{message}"
        );
        assert_eq!(manager.news(), format!("{serving}{note}\n"));
        manager.sign_of_life();
    }

    proxy.signal("-TERM");
    let message = manager.news();
    // The time for answers, 20 s, and what is behind it, in microseconds.
    assert!(
        message.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=26000000\nSTATUS="),
        "{message}"
    );
    // The drain begins at once. It still lives, and does not wait for its window a second time.
    assert!(manager.news().starts_with("STATUS=draining (drain.window)"));
    manager.sign_of_life();
    proxy.signal("-TERM");
    assert!(proxy.wait().success());
}
