//! What `check` and `--help` print.

use super::*;

#[test]
fn check_prints_each_value_and_where_it_came_from() {
    let ended = Run {
        file: Some("[idle]\ntimeout = '1h'\n\n[[route]]\npath = '/v1'\nlimit.per_ip = 3\n"),
        env: &[("SSE_GUARD_LIMIT_PER_IP", "7")],
        args: &[
            "check",
            "--upstream",
            "http://127.0.0.1:3000",
            "--heartbeat-interval",
            "5s",
            // Fewer than any limit of open files holds.
            "--limit-total=100",
        ],
    }
    .end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    for line in [
        "listen = \"127.0.0.1:8080\" # default",
        "url = \"http://127.0.0.1:3000/\" # --upstream-url",
        "interval = \"5s\" # --heartbeat-interval",
        "timeout = \"1h\" # file guard.toml:2",
        "per_ip = 7 # SSE_GUARD_LIMIT_PER_IP",
        "[[route]]",
        "path = \"/v1\" # file guard.toml:4",
        "limit.per_ip = 3 # file guard.toml:6",
    ] {
        assert_line(&ended.out, line);
    }
}

#[test]
fn check_output_is_an_equivalent_config_file() {
    let without_places = |text: &str| -> Vec<String> {
        let code = |line: String| line.split(" # ").next().unwrap().to_owned();
        squeezed(text).into_iter().map(code).collect()
    };
    let args = [
        CHECK,
        &[
            "--limit-rate",
            "7/m",
            "--trusted-proxies",
            "10.0.0.0/8,::1/128",
        ],
    ]
    .concat();
    let first = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!(first.code, Some(0), "{}", first.err);
    let again = Run {
        file: Some(&first.out),
        args: &["check"],
        ..Run::default()
    }
    .end();
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_eq!(without_places(&first.out), without_places(&again.out));
}

#[test]
fn unlikely_combinations_of_values_get_a_warning() {
    let args = [CHECK, &["--limit-total", "10"]].concat();
    let ended = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let warning = ended.err.lines().find(|line| line.starts_with("warning: "));
    assert!(
        warning.is_some_and(|line| line.contains("limit.per_ip 100")),
        "{}",
        ended.err
    );
    let args = [CHECK, &["--strict", "--limit-total", "10"]].concat();
    let strict = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!((strict.code, &strict.out), (Some(2), &ended.out));
    let args = [CHECK, &["--strict", "--limit-total=100"]].concat();
    let sound = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!((sound.code, sound.err.as_str()), (Some(0), ""));
}

#[test]
fn check_prints_what_differs_from_the_defaults() {
    let flags = [
        "--changed",
        "--limit-per-ip=100",
        "--limit-total=200",
        "--idle-timeout=1h",
    ];
    let args = [CHECK, &flags].concat();
    let ended = Run {
        args: &args,
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let settings: Vec<_> = ended
        .out
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .collect();
    let expected = [
        "[upstream]",
        "url = ",
        "[idle]",
        "timeout = \"1h\"",
        "[limit]",
        "total = 200",
    ];
    for part in expected {
        assert!(
            settings.iter().any(|line| line.starts_with(part)),
            "{part}: {settings:?}"
        );
    }
    assert!(
        !settings.iter().any(|line| line.starts_with("per_ip")),
        "{settings:?}"
    );
    let ended = Run {
        args: CHECK,
        ..Run::default()
    }
    .end();
    for unset in [
        "# requests_per_ip is not set: 200",
        "# max_connections is not set: 400",
    ] {
        assert!(ended.out.contains(unset), "{unset}: {}", ended.out);
    }
}

#[test]
fn help_lists_each_key_in_all_its_spellings() {
    let short = Run {
        args: &["-h"],
        ..Run::default()
    }
    .end();
    let long = Run {
        args: &["--help"],
        ..Run::default()
    }
    .end();
    assert_eq!((short.code, long.code), (Some(0), Some(0)));
    for key in sse_guard_proxy::config::KEYS {
        let flag = format!("--{} ", key.flag());
        let bool_flag = format!("--{}[=", key.flag());
        for help in [&short.out, &long.out] {
            let known = help.contains(&flag) || help.contains(&bool_flag);
            assert!(known, "{}\n{help}", key.name);
        }
        assert!(
            long.out.contains(&format!("[env: {}]", key.env())),
            "{}",
            key.name
        );
    }
    assert!(long.out.contains("--config <FILE>"), "{}", long.out);
}

#[test]
fn check_shows_budgets_as_they_take_effect_and_warns_of_those_that_cannot() {
    let files = rlimit::Resource::NOFILE.get_hard().unwrap();
    let ended = Run {
        args: &[CHECK, &["--limit-total", "100"]].concat(),
        ..Run::default()
    }
    .end();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    // What the process may raise its limit to is what holds when it serves.
    assert_line(
        &ended.out,
        &format!("# budget is not set: {files}, the limit of the process"),
    );
    let memory = squeezed(&ended.out);
    let memory = memory.iter().position(|line| line == "[memory]").unwrap();
    let memory = &squeezed(&ended.out)[memory + 1];
    let is_told = |end: &str| memory.ends_with(end);
    assert!(is_told("container") || is_told("no limit"), "{memory}");

    let beyond = (files + 1).to_string();
    let ended = Run {
        args: &[CHECK, &["--limit-total", "100", "--files-budget", &beyond]].concat(),
        ..Run::default()
    }
    .end();
    let told = format!("warning: files.budget {beyond} is above the process's limit of {files} ");
    assert!(ended.err.starts_with(&told), "{}", ended.err);
}

#[test]
fn raised_drain_gets_a_warning_and_is_shown_with_its_effect() {
    let ended = Run {
        args: &[
            CHECK,
            &[
                "--limit-total=100",
                "--drain-window=1m",
                "--drain-answers=5s",
            ],
        ]
        .concat(),
        ..Run::default()
    }
    .end();
    let told = "warning: drain.answers 5s is below drain.window 1m, and raised to it";
    assert!(ended.err.starts_with(told), "{}", ended.err);
    let line = "answers = \"1m\" # --drain-answers; raised from \"5s\" to drain.window";
    assert_line(&ended.out, line);
}
