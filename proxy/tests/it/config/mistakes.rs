//! Mistakes, and how they are reported.

use super::*;

#[test]
fn mistakes_are_reported_at_once_each_with_place_and_key() {
    let file = "\
upstream.url = 'ftp://127.0.0.1:3000'

[heartbeat]
intervall = '5s'
style = 'lines'

[limit]
per_ip = 0
rate = '50'

[[route]]
path = '/v1'
drain.window = '1s'
";
    for args in [&["check", "--listen", "8080"][..], &["--listen", "8080"]] {
        let ended = Run {
            file: Some(file),
            env: &[
                ("SSE_GUARD_IDLE_TIMEOUT", "10"),
                ("SSE_GUARD_HEARTBEAT_INTERVALL", "1s"),
            ],
            args,
        }
        .end();
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""));
        let lines: Vec<&str> = ended.err.lines().collect();
        let starts = [
            "--listen: ",
            "SSE_GUARD_HEARTBEAT_INTERVALL: unknown variable; did you mean SSE_GUARD_HEARTBEAT_INTERVAL?",
            "SSE_GUARD_IDLE_TIMEOUT: ",
            "guard.toml:1: upstream.url: ",
            "guard.toml:4: heartbeat.intervall: unknown key; did you mean heartbeat.interval?",
            "guard.toml:5: heartbeat.style: ",
            "guard.toml:8: limit.per_ip: ",
            "guard.toml:9: limit.rate: ",
            "guard.toml:13: drain.window: ",
        ];
        assert_eq!(lines.len(), starts.len(), "{}", ended.err);
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{start}\n{}", ended.err);
        }
    }
}

#[test]
fn syntax_error_is_reported_with_its_line_and_without_its_text() {
    let file = "upstream.url = 'http://127.0.0.1:3000'\nlimit.total = = topsecret\n";
    let ended = Run {
        file: Some(file),
        args: &["check"],
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.err.starts_with("guard.toml:2: not TOML: "),
        "{}",
        ended.err
    );
    assert!(!ended.err.contains("topsecret"), "{}", ended.err);
}

#[test]
fn unknown_variable_is_a_mistake_but_not_one_of_a_container() {
    for (name, value, code) in [
        ("SSE_GUARD_X", "1", 2),
        ("SSE_GUARD_SERVICE_HOST", "10.0.0.1", 0),
        ("OTHER", "1", 0),
    ] {
        let ended = Run {
            env: &[(name, value)],
            args: CHECK,
            ..Run::default()
        }
        .end();
        assert_eq!(ended.code, Some(code), "{name}: {}", ended.err);
        assert_eq!(
            ended.err.starts_with(&format!("{name}: unknown variable")),
            code == 2
        );
    }
}

#[test]
fn missing_config_file_is_named() {
    let args = [CHECK, &["--config", "missing.toml"]].concat();
    let ended = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .err
            .starts_with("--config: cannot read missing.toml: "),
        "{}",
        ended.err
    );
}

#[test]
fn missing_upstream_is_reported_with_its_spellings() {
    for args in [&[][..], &["check"]] {
        let ended = Run {
            args,
            ..Run::default()
        }
        .end();
        assert_eq!(ended.code, Some(2));
        assert!(
            ended.err.contains("--upstream-url http://127.0.0.1:3000"),
            "{}",
            ended.err
        );
    }
}

#[test]
fn unknown_flag_is_a_mistake_with_a_suggestion() {
    let ended = Run {
        args: &["check", "--heartbeat-intervall", "5s"],
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.contains("--heartbeat-interval"), "{}", ended.err);
}

#[test]
fn port_in_use_is_an_error_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["--upstream-url", "http://127.0.0.1:1", "--listen", &address];
    let ended = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let error = ended.err.lines().last().unwrap();
    assert!(
        error.starts_with(&format!("error: listen = \"{address}\": ")),
        "{error}"
    );
    assert!(
        error.contains("choose another address with --listen"),
        "{error}"
    );
}

#[test]
fn proxy_key_in_a_route_and_an_unreachable_route_are_mistakes() {
    let ended = Run {
        file: Some("[[route]]\npath = '/v1'\npath.normalize = 'off'\n"),
        args: CHECK,
        ..Run::default()
    }
    .end();
    let line = "guard.toml:3: path.normalize: applies to the whole proxy; write it above the first \
                [[route]]\n";
    assert_eq!((ended.code, ended.err.as_str()), (Some(2), line));

    let ended = Run {
        file: Some("[[route]]\npath = '/v1'\n[[route]]\npath = '/v1/chat'\n"),
        args: CHECK,
        ..Run::default()
    }
    .end();
    let line = "guard.toml:3: route.path: no request reaches /v1/chat: route /v1 (guard.toml:1) \
                comes first";
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.starts_with(line), "{}", ended.err);
}
