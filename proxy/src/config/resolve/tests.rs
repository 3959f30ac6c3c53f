use super::super::kind::Shape;
use super::super::sections::KEYS;
use super::super::source::tests::{from_file, problems};
use super::*;

fn config(text: &str) -> Config {
    match from_file(text) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn an_upstream_is_all_that_is_needed() {
    let config = config("upstream.url = 'http://127.0.0.1:3000'");
    assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
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
    assert!(route.settings.completion_required);
}

#[test]
fn an_early_answer_comes_after_a_heartbeats_interval_unless_told_otherwise() {
    let early = |text: &str| {
        let text = format!("upstream.url = 'http://app'\n{text}");
        config(&text).routes[0].settings.early
    };
    let after = |secs| Duration::from_secs(secs);
    assert!(!early("").enabled);
    assert_eq!(early("").after, after(15));
    assert_eq!(early("heartbeat.interval = '7s'").after, after(7));
    assert_eq!(early("heartbeat.interval = 'off'").after, after(15));
    let told = early("early = { enabled = true, after = '3s' }");
    assert!(told.enabled);
    assert_eq!(told.after, after(3));
    let of_a_route =
        early("[[route]]\npath = '/v1'\nearly.enabled = true\nheartbeat.interval = '9s'");
    assert_eq!((of_a_route.enabled, of_a_route.after), (true, after(9)));
}

#[test]
fn every_word_of_every_choice_means_something() {
    for key in KEYS {
        let Shape::Choice(words) = key.kind.shape else {
            continue;
        };
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
fn off_is_none_wherever_it_is_allowed() {
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
fn a_route_inherits_what_it_does_not_override() {
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
fn a_route_counts_apart_what_it_limits_itself_and_nothing_else() {
    let shared = OwnCounts::default();
    let cases = [
        ("retry_after = '1s'", shared),
        ("reject = 'retry-later'", shared),
        ("allow = ['10.0.0.0/8']", shared),
        ("max_clients = 5", shared),
        (
            "per_ip = 5",
            OwnCounts {
                per_ip: true,
                requests_per_ip: true,
                ..shared
            },
        ),
        (
            "requests_per_ip = 5",
            OwnCounts {
                requests_per_ip: true,
                ..shared
            },
        ),
        (
            "total = 5",
            OwnCounts {
                total: true,
                ..shared
            },
        ),
        (
            "rate = 'off'",
            OwnCounts {
                rate: true,
                ..shared
            },
        ),
        (
            "burst = 7",
            OwnCounts {
                rate: true,
                ..shared
            },
        ),
    ];
    for (key, own) in cases {
        let text = format!("upstream.url = 'http://app'\n[[route]]\npath = '/v1'\nlimit.{key}");
        assert_eq!(config(&text).routes[0].own_counts, own, "{key}");
    }
    // A bound that is set for all routes does not follow from the route's streams.
    let text = "upstream.url = 'http://app'\nlimit.requests_per_ip = 9\n\
        [[route]]\npath = '/v1'\nlimit.per_ip = 1";
    assert!(!config(text).routes[0].own_counts.requests_per_ip);
}

#[test]
fn a_route_is_of_the_family_that_it_names() {
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
fn routes_with_upstreams_of_their_own_need_no_other() {
    let config = config("[[route]]\npath = '/v1'\nupstream.url = 'http://app'");
    assert_eq!(config.routes.len(), 1);
    assert!(config.route_for("/v2").is_none());
}

#[test]
fn a_missing_upstream_is_a_mistake_where_it_is_missed() {
    let missing = problems("");
    assert!(missing[0].starts_with("config: upstream.url: missing;"));

    let missing =
        problems("[[route]]\npath = '/v1'\n[[route]]\npath = '/v2'\nupstream.url = 'http://app'");
    assert_eq!(missing.len(), 1);
    assert!(missing[0].starts_with("sse-guard.toml:1: upstream.url: missing: set it"));
}

#[test]
fn ready_when_names_routes_that_exist() {
    let routes = "upstream.url = 'http://app'\n[[route]]\npath = '/v1'";
    let with = |when: &str| format!("ready.when = {when}\n{routes}");
    assert_eq!(config(routes).ready_when, ReadyWhen::Any);
    let named = ReadyWhen::Routes(vec!["/v1".to_owned(), "/".to_owned()]);
    assert_eq!(config(&with("['/v1', '/']")).ready_when, named);
    assert_eq!(
        problems(&with("['/v2', '/', '/chat']")),
        [
            "sse-guard.toml:1: ready.when: no route has the path \"/v2\"; did you mean \"/v1\"?",
            "sse-guard.toml:1: ready.when: no route has the path \"/chat\"; name a route as its \
             path is spelled",
        ]
    );
    // Nothing takes the other paths.
    let text = "ready.when = ['/']\n[[route]]\npath = '/v1'\nupstream.url = 'http://app'";
    assert_eq!(problems(text).len(), 1);
    // The route is there, and lacks a URL.
    let found = problems("ready.when = ['/v1']\n[[route]]\npath = '/v1'");
    assert!(
        found.len() == 1 && found[0].contains("upstream.url: missing"),
        "{found:?}"
    );
}

#[test]
fn a_refused_upstream_is_not_missing_too() {
    let lines = problems("upstream.url = 'https://app'");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("TLS to the upstream is not supported"));
}

#[test]
fn a_proxy_that_forwards_to_itself_is_refused() {
    let cases = [
        ("127.0.0.1:9000", "http://127.0.0.1:9000", true),
        ("127.0.0.1:9000", "http://localhost:9000", true),
        ("0.0.0.0:80", "http://127.0.0.1", true),
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
fn an_admin_address_within_that_of_clients_is_refused() {
    let cases = [
        (":9090", "127.0.0.1:9090", true),
        ("0.0.0.0:9090", "127.0.0.1:9090", true),
        ("[::]:9090", "[::1]:9090", true),
        ("[::]:9090", "0.0.0.0:9090", true),
        ("127.0.0.1:9090", "[::]:9090", true),
        ("127.0.0.1:9090", "127.0.0.1:9090", true),
        ("[::ffff:127.0.0.1]:9090", "127.0.0.1:9090", true),
        ("0.0.0.0:9090", "[::1]:9090", false),
        (":9090", "127.0.0.1:9091", false),
        (":0", "127.0.0.1:0", false),
        ("127.0.0.2:9090", "127.0.0.1:9090", false),
        (":9090", "off", false),
    ];
    for (listen, admin, refused) in cases {
        let text = format!(
            "listen = '{listen}'\nupstream.url = 'http://app'\n[admin]\nlisten = '{admin}'\n\
             token = 'a-long-token-for-a-test-0123456789'"
        );
        match from_file(&text) {
            Ok(_) => assert!(!refused, "{listen} {admin}"),
            Err(error) => {
                assert!(refused, "{error}");
                assert_eq!(error.mistakes.len(), 1, "{error}");
                let text = error.to_string();
                let start = "sse-guard.toml:4: admin.listen: overlaps listen = \"";
                assert!(text.starts_with(start), "{text}");
            }
        }
    }
    // The default of one of them.
    let found = problems("upstream.url = 'http://app'\nlisten = ':9090'");
    let start = "sse-guard.toml:2: listen: overlaps admin.listen = \"127.0.0.1:9090\", the default";
    assert!(found.len() == 1 && found[0].starts_with(start), "{found:?}");
    let found = problems("upstream.url = 'http://app'\nadmin.listen = '127.0.0.1:8080'");
    assert!(
        found.len() == 1 && found[0].contains("admin.listen: overlaps listen"),
        "{found:?}"
    );
}

#[test]
fn a_bound_on_connections_below_that_on_streams_is_warned_of() {
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
fn time_for_answers_below_the_window_is_raised_with_a_warning_if_it_was_set() {
    let text = |drain: &str| format!("upstream.url = 'http://app'\n{drain}");
    let raised = config(&text("drain.window = '1m'\ndrain.answers = '30s'"));
    assert_eq!(raised.drain.answers, Duration::from_secs(60));
    let told = "drain.answers 30s is below drain.window 1m, and raised to it: set it to the window or more";
    assert_eq!(raised.warnings, [told]);
    let by_default = config(&text("drain.window = '1m'"));
    assert_eq!(by_default.drain.answers, Duration::from_secs(60));
    assert!(by_default.warnings.is_empty());
}
