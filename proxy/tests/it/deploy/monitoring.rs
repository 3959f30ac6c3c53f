//! Alerts and the Grafana dashboard query metrics that exist.

use super::*;

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
    // Of ACME, which this proxy does not use.
    let expiry = metrics.entry("sse_guard_certificate_not_after_seconds".to_owned());
    expiry
        .or_default()
        .insert("name".to_owned(), HashSet::new());
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
