//! Flags, environment and file.

use super::*;

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
