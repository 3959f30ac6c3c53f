use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use http::Method;

use super::super::kind::Shape;
use super::super::sections::{Http2Mode, IdleAction, KEYS, OwnCounts, Style, TrustedHeader};
use super::super::source::tests::{config, from_file, problems, warnings};
use super::*;
use sse_guard::idle_timeout::EventTimeout;

#[test]
fn upstream_is_the_only_key_that_is_required() {
    let config = config("upstream.url = 'http://127.0.0.1:3000'");
    assert_eq!(
        config.listeners[0].address.tcp().unwrap(),
        SocketAddr::from(([127, 0, 0, 1], 8080))
    );
    assert_eq!(config.trusted_header, TrustedHeader::XForwardedFor);
    let drain = config.drain;
    assert_eq!(
        (drain.delay, drain.window),
        (Duration::ZERO, Duration::from_secs(10))
    );
    assert_eq!(drain.answers, Duration::from_secs(20));
    assert_eq!(config.log.level.as_str(), "info");
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.routes.len(), 1);
    let route = &config.routes[0];
    assert_eq!(route.path.as_str(), "/");
    assert_eq!(route.own_counts, OwnCounts::default());
    let Settings {
        heartbeat,
        idle,
        limit,
        rotation,
        ..
    } = &route.settings;
    assert_eq!(heartbeat.interval, Some(Duration::from_secs(15)));
    assert_eq!(
        heartbeat.style,
        Style::Auto {
            text: "heartbeat".to_owned()
        }
    );
    assert_eq!(idle.timeout, Some(Duration::from_secs(600)));
    assert_eq!(idle.event_timeout, EventTimeout::Auto);
    assert_eq!(idle.action, IdleAction::Auto);
    assert_eq!(limit.total.map(NonZeroU32::get), Some(10_000));
    assert_eq!(limit.rate.map(|rate| rate.count.get()), Some(50));
    assert_eq!(rotation.max_age, Some(Duration::from_secs(3600)));
    assert_eq!(rotation.methods, None);
    assert_eq!(rotation.event, None);
    assert_eq!(route.settings.family, None);
    assert!(route.settings.completion.required);
}

#[test]
fn choices_have_a_different_meaning_for_each_word() {
    for key in KEYS {
        let Shape::Choice(words) = key.kind.shape else {
            continue;
        };
        // Without a listener that has names it has no effect; it has a test of its own.
        if key.name == "acme.challenge" {
            continue;
        }
        let mut seen = Vec::new();
        for word in words {
            let config = config(&format!(
                "upstream.url = 'http://app'\n{} = '{word}'",
                key.name
            ));
            assert!(!seen.contains(&config), "{} = {word}", key.name);
            seen.push(config);
        }
    }
}

#[test]
fn off_is_none_where_it_is_allowed() {
    let mut text = "upstream.url = 'http://app'\n".to_owned();
    for key in KEYS.iter().filter(|key| key.kind.off) {
        text.push_str(&format!("{} = 'off'\n", key.name));
    }
    let settings = &config(&text).routes[0].settings;
    assert_eq!(settings.heartbeat.interval, None);
    assert_eq!(settings.idle.timeout, None);
    assert_eq!(settings.limit.per_ip, None);
    assert_eq!(settings.limit.total, None);
    assert_eq!(settings.limit.rate, None);
    assert_eq!(settings.rotation.max_age, None);
    assert_eq!(settings.rotation.event, None);
}

#[test]
fn route_inherits_what_it_does_not_override() {
    let config = config(
        "[upstream]\nurl = 'http://app'\n[heartbeat]\ninterval = '5s'\n\
         [[route]]\npath = '/v1'\nheartbeat.style = 'event'\n\
         [[route]]\npath = '/v2'\nlimit.per_ip = 'off'\nrotation.event = 'bye'",
    );
    let route = config.route_for("/v1/chat").unwrap();
    assert_eq!(route.path.as_str(), "/v1");
    let heartbeat = &route.settings.heartbeat;
    assert_eq!(heartbeat.interval, Some(Duration::from_secs(5)));
    let (name, data) = ("ping".to_owned(), "{}".to_owned());
    assert_eq!(heartbeat.style, Style::Event { name, data });
    assert_eq!(route.own_counts, OwnCounts::default());

    let route = config.route_for("/v2").unwrap();
    assert!(route.own_counts.per_ip && !route.own_counts.total);
    let event = Some(("bye".to_owned(), "{}".to_owned()));
    assert_eq!(route.settings.rotation.event, event);
    assert_eq!(config.route_for("/").unwrap().path.as_str(), "/");
}

#[test]
fn route_has_the_family_that_it_names() {
    for &family in Family::ALL {
        let config = config(&format!(
            "upstream.url = 'http://app'\nfamily = 'eventsource'\n\
             [[route]]\npath = '/v1'\nfamily = '{}'\nrotation.methods = ['POST']",
            family.as_str()
        ));
        let [route, rest] = &config.routes[..] else {
            panic!("{:?}", config.routes);
        };
        assert_eq!(route.settings.family, Some(family));
        assert_eq!(route.settings.rotation.methods, Some(vec![Method::POST]));
        assert_eq!(rest.settings.family, Some(Family::EventSource));
        assert_eq!(rest.settings.rotation.methods, None);
    }
}

#[test]
fn routes_with_upstreams_need_no_top_level_upstream() {
    let config = config("[[route]]\npath = '/v1'\nupstream.url = 'http://app'");
    assert_eq!(config.routes.len(), 1);
    assert!(config.route_for("/v2").is_none());
}

#[test]
fn upstream_that_is_missing_is_a_mistake_of_its_route() {
    let missing = problems("");
    assert!(missing[0].starts_with("config: upstream.url: missing;"));

    let missing =
        problems("[[route]]\npath = '/v1'\n[[route]]\npath = '/v2'\nupstream.url = 'http://app'");
    assert_eq!(missing.len(), 1);
    assert!(missing[0].starts_with("sse-guard.toml:1: upstream.url: missing: set it"));
}

#[test]
fn upstream_that_is_invalid_is_not_missing_too() {
    let lines = problems("upstream.url = 'ftp://app'");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("is not an http:// or https:// URL"));
}

#[test]
fn upstream_at_the_address_for_clients_is_a_mistake() {
    let cases = [
        ("127.0.0.1:9000", "http://127.0.0.1:9000", true),
        ("127.0.0.1:9000", "http://localhost:9000", true),
        ("0.0.0.0:80", "http://127.0.0.1", true),
        ("0.0.0.0:80", "https://127.0.0.1", false),
        ("[::]:80", "http://[::1]", true),
        ("127.0.0.1:9000", "http://0.0.0.0:9000", true),
        ("127.0.0.1:9000", "http://127.0.0.1:9001", false),
        ("127.0.0.1:9000", "http://127.0.0.2:9000", false),
        ("10.0.0.1:9000", "http://localhost:9000", false),
        ("127.0.0.1:9000", "http://app:9000", false),
    ];
    for (listen, url, refused) in cases {
        let text =
            format!("listen = '{listen}'\n[upstream]\nurl = '{url}'\n[[route]]\npath = '/a'");
        match from_file(&text) {
            Ok(_) => assert!(!refused, "{listen} {url}"),
            Err(error) => {
                assert!(refused, "{error}");
                assert_eq!(error.mistakes.len(), 1, "{error}");
                assert!(
                    error
                        .to_string()
                        .starts_with("sse-guard.toml:3: upstream.url: is this")
                );
            }
        }
    }
}

#[test]
fn max_connections_below_per_ip_gets_a_warning() {
    let warned = |text: &str| {
        let text = format!("upstream.url = 'http://a'\n{text}");
        let warnings = config(&text).warnings;
        warnings
            .iter()
            .any(|warning| warning.contains("client.max_connections 5 is below limit.per_ip"))
    };
    assert!(warned("client.max_connections = 5"));
    assert!(!warned("client.max_connections = 5\nlimit.per_ip = 5"));
    assert!(!warned("client.max_connections = 5\nlimit.per_ip = 'off'"));
    assert!(!warned("limit.per_ip = 5"));
}

#[test]
fn warnings_name_values_that_defeat_each_other() {
    let cases = [
        (
            "heartbeat.interval = 'off'\nidle.timeout = 'off'",
            "both off",
        ),
        ("idle.timeout = '15s'", "not below idle.timeout 15s"),
        ("rotation.max_age = '10s'", "not below rotation.max_age 10s"),
        ("rotation.retry = '2h'", "clients wait longer"),
        (
            "limit.total = 10",
            "limit.per_ip 100 is above limit.total 10",
        ),
        ("trusted_proxies = ['0.0.0.0/0']", "trusts every address"),
        ("admin.user_header = 'x-user'", "only from trusted_proxies"),
        ("health_check.path = '/up'", "set the interval"),
    ];
    for (text, part) in cases {
        let warnings = warnings(text);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(part), "{warnings:?}");
    }
}

#[test]
fn warnings_of_a_route_are_its_own() {
    let text =
        "limit.total = 10\n[[route]]\npath = '/a'\n[[route]]\npath = '/b'\nidle.timeout = '1s'";
    let warnings = warnings(text);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("route /b: heartbeat.interval 15s"));
    assert!(warnings[1].starts_with("limit.per_ip"));
}

#[test]
fn subject_of_client_certificates_needs_a_field_of_its_own_and_a_listener() {
    let text = |name: &str| format!("upstream.client_subject_header = '{name}'");
    for name in [
        "host",
        "Content-Length",
        "connection",
        "forwarded",
        "X-Forwarded-For",
    ] {
        let found = problems(&format!("upstream.url = 'http://app'\n{}", text(name)));
        let start = "sse-guard.toml:2: upstream.client_subject_header: has a meaning of its own";
        assert!(found.len() == 1 && found[0].starts_with(start), "{found:?}");
    }
    let unused = "upstream.client_subject_header has no effect: no listener has tls.client_ca";
    assert_eq!(warnings(&text("x-client-subject")), [unused]);
    let unused =
        "limit.key = \"user\" has no effect: set admin.user_header, or listener.tls.client_ca";
    assert_eq!(warnings("limit.key = 'user'"), [unused]);
    let by_header =
        "limit.key = 'user'\nadmin.user_header = 'x-user'\ntrusted_proxies = ['10.0.0.0/8']";
    assert_eq!(warnings(by_header), [""; 0]);
    assert!(problems("limit.key = 'token'")[0].contains("\"token\" is not one of address, user"));
}

#[test]
fn http2_to_upstreams_is_one_of_its_words_and_excludes_the_proxy_protocol() {
    const URL: &str = "upstream.url = 'http://app'";
    let http2 = |lines: &str| {
        let config = config(&format!("{URL}\n{lines}"));
        config.routes[0].settings.upstream.http2
    };
    assert_eq!(http2(""), Http2Mode::Off);
    assert_eq!(http2("upstream.http2 = 'on'"), Http2Mode::On);
    for (lines, problem) in [
        ("upstream.http2 = 'h2c'", "upstream.http2"),
        (
            "upstream.http2_max_streams = 0",
            "upstream.http2_max_streams",
        ),
        ("upstream.ping = '0s'", "upstream.ping"),
        (
            "upstream.http2 = 'on'\nupstream.proxy_protocol = 'v2'",
            "upstream.http2: cannot be combined with upstream.proxy_protocol",
        ),
    ] {
        let found = problems(&format!("{URL}\n{lines}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(problem), "{found:?}");
    }
    let found = warnings("upstream.http2 = 'auto'");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("has no effect"), "{found:?}");
}
