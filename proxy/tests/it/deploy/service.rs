//! The systemd unit and the image.

use super::*;

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
