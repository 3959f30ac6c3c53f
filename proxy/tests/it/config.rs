//! The config through the real binary: what `check` shows, what is a mistake, and how they are reported.

mod check;
mod mistakes;
mod sources;

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
