//! The config through the real binary: what `check` shows, what is a mistake, and how it is told.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// A run of the binary that ends by itself, beside a config file called `guard.toml`.
#[derive(Default)]
struct Run<'a> {
    file: Option<&'a str>,
    env: &'a [(&'a str, &'a str)],
    args: &'a [&'a str],
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run<'_> {
    fn end(&self) -> Ended {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sse-guard"));
        command.env_clear().envs(self.env.iter().copied());
        command.current_dir(dir.path()).args(self.args);
        if let Some(text) = self.file {
            fs::write(dir.path().join("guard.toml"), text).unwrap();
            command.args(["--config", "guard.toml"]);
        }
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Ended {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

const CHECK: &[&str] = &["check", "--upstream-url", "http://127.0.0.1:3000"];

/// Lines with single spaces.
fn squeezed(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[track_caller]
fn assert_line(text: &str, line: &str) {
    assert!(
        squeezed(text).iter().any(|other| other == line),
        "{line}\n{text}"
    );
}

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
fn flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = "upstream.url = 'http://127.0.0.1:3000'\nheartbeat.interval = '3s'\n";
    let env = &[("SSE_GUARD_HEARTBEAT_INTERVAL", "2s")][..];
    let flag = &["check", "--heartbeat-interval", "1s"][..];
    let run = |file, env, args| Run { file, env, args }.end().out;
    for (printed, line) in [
        (
            run(Some(file), env, flag),
            "interval = \"1s\" # --heartbeat-interval",
        ),
        (
            run(Some(file), env, &["check"]),
            "interval = \"2s\" # SSE_GUARD_HEARTBEAT_INTERVAL",
        ),
        (
            run(Some(file), &[], &["check"]),
            "interval = \"3s\" # file guard.toml:2",
        ),
        (run(None, &[], CHECK), "interval = \"15s\" # default"),
    ] {
        assert_line(&printed, line);
    }
}

#[test]
fn environment_names_the_config_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.toml");
    fs::write(
        &path,
        "upstream.url = 'http://127.0.0.1:3000'\nlimit.total = 5\nlimit.per_ip = 5\n",
    )
    .unwrap();
    let name = path.to_str().unwrap();
    let ended = Run {
        env: &[("SSE_GUARD_CONFIG", name)],
        args: &["check"],
        ..Run::default()
    }
    .end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_line(&ended.out, &format!("total = 5 # file {name}:2"));
}

#[test]
fn mistakes_are_reported_at_once_each_with_place_and_key() {
    let file = "\
upstream.url = 'https://127.0.0.1:3000'

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
fn config_may_be_a_pipe() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .args(["check", "--config", "/dev/stdin"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"upstream.url = 'http://127.0.0.1:3000'\nlimit.total = 7\n")
        .unwrap();
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    let out = String::from_utf8(ended.stdout).unwrap();
    assert_line(&out, "total = 7 # file /dev/stdin:2");
}

#[cfg(unix)]
#[test]
fn config_path_that_blocks_is_a_mistake_and_a_signal_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo.toml");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let fifo = fifo.to_str().unwrap();
    for (path, problem) in [
        (fifo, "pipe without a writer"),
        ("/dev/zero", "longer than 4 MiB"),
        ("/", "cannot read /"),
    ] {
        let args = [CHECK, &["--config", path]].concat();
        let ended = Run {
            args: &args,
            ..Run::default()
        }
        .end();
        assert_eq!(ended.code, Some(2), "{path}");
        assert!(
            ended.err.starts_with("--config: cannot read"),
            "{}",
            ended.err
        );
        assert!(ended.err.contains(problem), "{}", ended.err);
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_sse-guard"))
        .args(["--upstream=http://127.0.0.1:9", "--config", fifo])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The reader has the pipe open once a writer can.
    let writer = fs::OpenOptions::new().write(true).open(fifo).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(writer);
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
