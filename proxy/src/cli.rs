//! The entry point of the binary: from the command line to an exit code.

use super::activation::{self, ActivationError, PassedSocket, Sockets};
use super::admin::{Admin, AdminServer, Exporter};
use super::carryover::Carryover;
use super::config::{self, Config, ListenerConfig, LoadedConfig};
use super::config_reader::ConfigReader;
use super::control::{Signals, stop_command};
use super::listen::{ClientListener, ListenError, Listener, PassedError, assign, listen_at_start};
use super::logging::{self, Logging};
use super::server::Proxy;
use super::state::{Inherited, ProxyState};
use super::watch::{ConfigWatch, WatchedFile};
use super::{cgroup, demo, fd_limit, health_command, maintenance, notify, overload};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Exit code of a successful run.
const OK: ExitCode = ExitCode::SUCCESS;
/// Exit code of a failed run, after an error message.
const FAILED: u8 = 1;
/// The command line or the config is wrong; clap uses the same.
const USAGE: u8 = 2;

/// Runs the binary: reads command line, environment and config file, and starts accordingly.
///
/// Exits with 0 when the work was done (for a proxy: after it was stopped by a signal), 1 when it
/// could not be, 2 when command line or config are wrong.
pub fn main() -> ExitCode {
    let matches = config::command().get_matches();
    let defaults = match matches.subcommand() {
        Some(("demo", demo)) => demo::defaults(demo.get_one(config::PORT).copied()),
        _ => Vec::new(),
    };
    let reader = ConfigReader::new(matches, defaults);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let code = if reader.matches.subcommand_name() == Some("health") {
        runtime.block_on(health_command::run(&reader.matches))
    } else {
        runtime.block_on(start(reader))
    };
    // What is left are connections that had their time.
    runtime.shutdown_background();
    code
}

async fn start(reader: ConfigReader) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: cannot receive signals: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let reading = tokio::select! {
        reading = reader.read(Vec::new()) => reading,
        // It may take its time, and the first process of a container has no default for signals.
        () = stop_command(&mut signals) => return OK,
    };
    let files = reading.files;
    let loaded = match reading.loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(USAGE);
        }
    };
    match reader.matches.subcommand_name() {
        Some("check") => check(&reader, &loaded),
        Some("demo") => run(reader, (loaded, files), signals, true).await,
        _ => run(reader, (loaded, files), signals, false).await,
    }
}

fn check(reader: &ConfigReader, loaded: &LoadedConfig) -> ExitCode {
    let mut warnings = loaded.config.warnings.clone();
    // First, as what is printed shows the limit that will hold.
    warnings.extend(overload::warnings(&loaded.config));
    let flags = reader.matches.subcommand_matches("check");
    let is_set = |flag| flags.is_some_and(|flags| flags.get_flag(flag));
    let limits = config::SystemLimits {
        memory: cgroup::memory_limit(),
        files: fd_limit::soft_limit(),
    };
    if is_set(config::CHANGED) {
        print!("{}", loaded.changes_to_toml(&limits));
    } else {
        print!("{}", loaded.to_toml(&limits));
    }
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    match warnings.len() {
        0 => OK,
        _ if is_set(config::STRICT) => ExitCode::from(USAGE),
        _ => OK,
    }
}

/// With the files that the config names.
type LoadedFiles = (LoadedConfig, Vec<WatchedFile>);

async fn run(
    reader: ConfigReader,
    (loaded, files): LoadedFiles,
    signals: Signals,
    demo: bool,
) -> ExitCode {
    let config = &loaded.config;
    let logging = logging::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for warning in overload::warnings(config) {
        tracing::warn!("{warning}");
    }
    match serve(reader, (loaded, files), logging, signals, demo).await {
        Ok(()) => OK,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn threads(config: &Config) -> NonZeroUsize {
    let given = config.threads.and_then(|count| count.try_into().ok());
    given
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Activation(#[from] ActivationError),
    #[error(transparent)]
    Passed(#[from] PassedError),
    #[error("the demo is for browsers: set listen to an IP address and a port")]
    UnixDemo,
    #[error("the demo cannot listen: {0}")]
    Demo(std::io::Error),
    #[error("a socket of the service manager cannot be used: {0}")]
    Socket(std::io::Error),
    #[error("config: {0}")]
    Event(#[from] sse_guard::EventError),
    #[error("cannot install the metrics recorder: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
}

async fn serve(
    reader: ConfigReader,
    (loaded, files): LoadedFiles,
    logging: Logging,
    signals: Signals,
    is_demo: bool,
) -> Result<(), RunError> {
    let config = &loaded.config;
    let origin = if is_demo {
        let address = demo::origin_address(config);
        let listener = listen_at_start("upstream.url", address, config.takeover).await?;
        Some(listener.socket)
    } else {
        None
    };
    let Sockets { clients, admin } = activation::sockets()?;
    let passed = assign(&config.listeners, clients)?;
    let is_in_place = |(listener, passed): (&ListenerConfig, &Option<PassedSocket>)| {
        passed.is_some() && listener.address.passed().is_none()
    };
    let inherited = Inherited {
        listen: config.listeners.iter().zip(&passed).any(is_in_place),
        admin: admin.is_some(),
    };
    let mut listeners = Vec::new();
    for (listener, passed) in config.listeners.iter().zip(passed) {
        listeners.push(match passed {
            Some(passed) => ClientListener::passed(passed.socket).map_err(RunError::Socket)?,
            None => ClientListener::open_at_start(listener, config.takeover).await?,
        });
    }
    let admin_listener = admin_listener(&loaded, admin).await?;
    if let Some(origin) = origin {
        let mut tcp = listeners.iter().filter_map(ClientListener::tcp);
        let clients = tcp.next().ok_or(RunError::UnixDemo)?;
        let address = clients.socket.local_addr().map_err(RunError::Demo)?;
        let admin = admin_listener.as_ref().map(|listener| &listener.socket);
        demo::start(origin, address, admin)
            .await
            .map_err(RunError::Demo)?;
    }
    for route in &config.routes {
        tracing::info!(path = %route.path, upstream = %route.settings.upstream.url, "route");
    }
    for (listener, of) in listeners.iter().zip(&config.listeners) {
        tracing::info!("listening on {}", listener.url(of));
    }
    let threads = threads(config);
    let watch = ConfigWatch::new(reader.file(), loaded.file_text(), files);
    let exporter = admin_listener.is_some().then(Exporter::install);
    let ended = admin_listener.is_some().then(Arc::default);
    let carryover = Carryover::new(ended);
    let state = ProxyState::new(reader, loaded, carryover, inherited)?;
    let state = Arc::new(state);
    let (commands, operator) = mpsc::channel(1);
    let exporter = exporter.transpose()?;
    let admin = exporter.map(|exporter| Admin::new(state.clone(), exporter, commands));
    let maintenance = maintenance::run(state.clone(), admin.clone());
    let proxy = Proxy {
        state,
        sockets: listeners,
        threads,
        admin: AdminServer::new(admin, admin_listener),
        logging,
        watch,
        signals,
        operator,
    };
    // In the same task, so that no sign of life comes when it hangs.
    tokio::select! {
        result = proxy.run() => result.map_err(RunError::Threads),
        never = notify::signs_of_life() => match never {},
        never = maintenance => match never {},
    }
}

async fn admin_listener(
    loaded: &LoadedConfig,
    inherited: Option<std::net::TcpListener>,
) -> Result<Option<Listener>, RunError> {
    const KEY: &str = "admin.listen";
    let config = &loaded.config;
    let Some(address) = config.admin.listen else {
        return Ok(None);
    };
    if let Some(socket) = inherited {
        let address = socket.local_addr().map_err(RunError::Socket)?;
        if !address.ip().is_loopback() && config.admin.token.is_none() {
            return Err(ActivationError::Open(address).into());
        }
        return Ok(Some(Listener::inherited(socket).map_err(RunError::Socket)?));
    }
    let listener = listen_at_start(KEY, address, config.takeover).await;
    Ok(unless_default(listener, loaded.is_default(KEY))?)
}

/// A default address that is in use does not prevent the start: Prometheus itself, or another
/// sse-guard, may have it.
fn unless_default(
    listener: Result<Listener, ListenError>,
    is_default: bool,
) -> Result<Option<Listener>, ListenError> {
    match listener {
        Err(error) if is_default => {
            tracing::warn!("continuing without metrics, health and stream table: {error}");
            Ok(None)
        }
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    fn loaded(admin: &str) -> LoadedConfig {
        config::from_file(&format!("upstream.url = 'http://127.0.0.1:9'\n{admin}")).unwrap()
    }

    /// An address that is in use for as long as the socket lives.
    fn held() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn admin_address_that_is_off_opens_no_listener() {
        let loaded = loaded("admin.listen = 'off'");
        assert!(admin_listener(&loaded, None).await.unwrap().is_none());
        let (socket, _) = held();
        let inherited = admin_listener(&loaded, Some(socket)).await;
        assert!(inherited.unwrap().is_none());
    }

    #[tokio::test]
    async fn admin_address_of_the_config_that_is_in_use_prevents_the_start() {
        let (_held, address) = held();
        let loaded = loaded(&format!("admin.listen = '{address}'"));
        let error = admin_listener(&loaded, None).await.unwrap_err().to_string();
        let start = format!("admin.listen = \"{address}\": ");
        assert!(error.starts_with(&start), "{error}");
    }

    #[tokio::test]
    async fn default_admin_address_that_is_in_use_is_left_out() {
        let (_held, address) = held();
        let listen = || listen_at_start("admin.listen", address, config::Takeover::Drain);
        assert!(unless_default(listen().await, true).unwrap().is_none());
        assert!(unless_default(listen().await, false).is_err());
        drop(_held);
        assert!(unless_default(listen().await, true).unwrap().is_some());
    }

    #[tokio::test]
    async fn inherited_admin_socket_replaces_the_address_and_is_open_to_others_with_a_token_alone()
    {
        let (socket, address) = held();
        let listener = admin_listener(&loaded(""), Some(socket)).await.unwrap();
        let used = listener.unwrap().socket.local_addr().unwrap();
        assert_eq!(used, address);
        let open = TcpListener::bind("0.0.0.0:0").unwrap();
        let result = admin_listener(&loaded(""), Some(open.try_clone().unwrap())).await;
        assert!(matches!(
            result,
            Err(RunError::Activation(ActivationError::Open(_)))
        ));
        let loaded = loaded("admin.token = '0123456789abcdef'");
        assert!(admin_listener(&loaded, Some(open)).await.unwrap().is_some());
    }

    #[test]
    fn threads_are_one_for_each_core_unless_the_config_sets_them() {
        assert_eq!(threads(&loaded("threads = 3").config).get(), 3);
        let cores = std::thread::available_parallelism().unwrap();
        assert_eq!(threads(&loaded("").config), cores);
    }
}
