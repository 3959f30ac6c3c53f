use super::*;
use crate::admin::{Admin, Exporter};
use crate::carryover::Carryover;
use crate::config::command;
use crate::config_reader::ConfigReader;
use crate::listen::listen;
use crate::state::Inherited;
use futures_util::stream::BoxStream;
use std::io;
use std::net::{SocketAddr, TcpListener};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Controls a proxy that serves, by its config file and commands.
struct Controls {
    folder: TempDir,
    state: Arc<ProxyState>,
    clients: SocketAddr,
    admin: SocketAddr,
    signals: mpsc::Sender<Command>,
    operator: mpsc::Sender<Command>,
}

/// What all config files here have.
const KEYS: &str = "drain = { window = '0s', answers = '0s' }\n\
                    route = [{ path = '/route', upstream.url = 'http://127.0.0.1:9' }]\n";

/// An address of this host that nothing listens on.
fn free(ip: &str) -> SocketAddr {
    let socket = TcpListener::bind((ip, 0)).unwrap();
    socket.local_addr().unwrap()
}

async fn start() -> (Controls, Proxy<BoxStream<'static, Command>>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guard.toml");
    let listen = |key, ip| listen(key, (ip, 0).into(), config::Takeover::Drain).unwrap();
    let (listener, admin_listener) = (
        listen("listen", [127, 0, 0, 97]),
        listen("admin.listen", [127, 0, 0, 98]),
    );
    let clients = listener.socket.local_addr().unwrap();
    let admin_address = admin_listener.socket.local_addr().unwrap();
    let keys = format!("listen = '{clients}'\nadmin.listen = '{admin_address}'\n{KEYS}");
    std::fs::write(&file, keys).unwrap();
    let arguments = ["sse-guard", "--config", file.to_str().unwrap()];
    let reader = ConfigReader::new(command().get_matches_from(arguments), Vec::new());
    let loaded = reader.read(Vec::new()).await.loaded.unwrap();
    let carryover = Carryover::new(Some(Arc::default()));
    let state = ProxyState::new(reader, loaded, carryover, Inherited::default()).unwrap();
    let state = Arc::new(state);
    let (signals, signal) = mpsc::channel(1);
    let (operator, commands) = mpsc::channel(1);
    let admin = Admin::new(state.clone(), Exporter::detached(), operator.clone());
    let proxy = Proxy {
        state: state.clone(),
        sockets: vec![ClientListener::Tcp(listener)],
        threads: NonZeroUsize::MIN,
        admin: AdminServer::new(Some(admin), Some(admin_listener)),
        logging: Logging::detached(),
        watch: ConfigWatch::new(None, None, Vec::new()),
        signals: tokio_stream::wrappers::ReceiverStream::new(signal).boxed(),
        operator: commands,
    };
    let controls = Controls {
        folder,
        state,
        clients,
        admin: admin_address,
        signals,
        operator,
    };
    (controls, proxy)
}

impl Controls {
    /// Writes a config file with these addresses and keys.
    fn write(&self, clients: SocketAddr, admin: &str, more: &str) {
        let keys = format!("listen = '{clients}'\nadmin.listen = '{admin}'\n{more}\n{KEYS}");
        std::fs::write(self.folder.path().join("guard.toml"), keys).unwrap();
    }

    /// Has the operator reload the config file.
    async fn reload_file(&self) -> ReloadResult {
        let (requester, result) = oneshot::channel();
        let command = Command::Reload(Some(requester));
        assert!(self.operator.send(command).await.is_ok());
        result.await.unwrap()
    }

    /// Both.
    async fn reload(&self, clients: SocketAddr, admin: &str, more: &str) -> ReloadResult {
        self.write(clients, admin, more);
        self.reload_file().await
    }

    async fn stop(&self) {
        assert!(self.signals.send(Command::Stop).await.is_ok());
    }
}

/// The status of a response to a GET with a field of this length.
async fn status(address: SocketAddr, path: &str, field: usize) -> io::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let field = "a".repeat(field);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {field}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    socket.read_to_string(&mut response).await?;
    Ok(response.split(' ').nth(1).unwrap_or_default().to_owned())
}

async fn is_refused(address: SocketAddr) -> bool {
    let connected = TcpStream::connect(address).await;
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn proxy_serves_clients_and_operator_until_a_signal() {
    let (controls, proxy) = start().await;
    let test = async {
        let unknown = status(controls.clients, "/other", 0).await;
        assert_eq!(unknown.unwrap(), "404");
        for (path, expected) in [("/healthz", "200"), ("/readyz", "200"), ("/metrics", "200")] {
            let status = status(controls.admin, path, 0).await;
            assert_eq!(status.unwrap(), expected, "{path}");
        }
        controls.stop().await;
    };
    let (result, ()) = tokio::join!(proxy.run(), test);
    result.unwrap();
    assert!(is_refused(controls.clients).await);
}

#[tokio::test]
async fn proxy_stops_by_a_command_of_the_operator_and_takes_none_after_it() {
    let (controls, proxy) = start().await;
    let test = async {
        assert!(controls.operator.send(Command::Stop).await.is_ok());
        controls.operator.closed().await;
    };
    let (result, ()) = tokio::join!(proxy.run(), test);
    result.unwrap();
}

#[tokio::test]
async fn reload_moves_both_listeners() {
    let (controls, proxy) = start().await;
    let test = async {
        let (clients, admin) = (free("127.0.0.99"), free("127.0.0.100"));
        let reloaded = controls.reload(clients, &admin.to_string(), "").await;
        assert_eq!(reloaded.unwrap(), (vec!["listen", "admin.listen"], vec![]));
        assert_eq!(status(clients, "/other", 0).await.unwrap(), "404");
        assert_eq!(status(admin, "/healthz", 0).await.unwrap(), "200");
        assert!(is_refused(controls.clients).await);
        let reloaded = controls.reload(clients, "off", "").await;
        assert_eq!(reloaded.unwrap(), (vec!["admin.listen"], vec![]));
        assert_eq!(status(clients, "/other", 0).await.unwrap(), "404");
        controls.stop().await;
    };
    tokio::join!(proxy.run(), test).0.unwrap();
}

#[tokio::test]
async fn reload_to_an_admin_address_in_use_keeps_both_listeners() {
    let (controls, proxy) = start().await;
    let test = async {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        let clients = free("127.0.0.101");
        let error = controls.reload(clients, &address.to_string(), "").await;
        assert!(error.unwrap_err().starts_with("admin.listen = "));
        assert_eq!(status(controls.clients, "/other", 0).await.unwrap(), "404");
        // Ready nevertheless: it serves with the config before.
        let ready = status(controls.admin, "/readyz", 0).await;
        assert_eq!(ready.unwrap(), "200");
        assert!(is_refused(clients).await);
        controls.stop().await;
    };
    tokio::join!(proxy.run(), test).0.unwrap();
}

#[tokio::test]
async fn reload_applies_client_settings_to_new_connections() {
    let (controls, proxy) = start().await;
    let test = async {
        let (clients, admin) = (controls.clients, controls.admin.to_string());
        let long = 10_000;
        assert_eq!(status(clients, "/other", long).await.unwrap(), "404");
        let reloaded = controls.reload(clients, &admin, "client.max_head = '8KiB'");
        assert_eq!(reloaded.await.unwrap(), (vec!["client.max_head"], vec![]));
        assert_eq!(status(clients, "/other", long).await.unwrap(), "431");
        controls.stop().await;
    };
    tokio::join!(proxy.run(), test).0.unwrap();
}

#[tokio::test]
async fn reload_by_a_signal_uses_the_config_file() {
    let (controls, proxy) = start().await;
    let test = async {
        let (clients, admin) = (controls.clients, controls.admin.to_string());
        controls.write(clients, &admin, "threads = 7");
        let hangup = Command::Reload(None);
        assert!(controls.signals.send(hangup).await.is_ok());
        // There is room again once the signal has been taken.
        drop(controls.signals.reserve().await.unwrap());
        let second = controls.reload_file().await;
        assert_eq!(second.unwrap(), (vec![], vec![]));
        let threads = controls.state.active().config().threads;
        assert_eq!(threads.map(|threads| threads.get()), Some(7));
        controls.stop().await;
    };
    tokio::join!(proxy.run(), test).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failure_of_an_incomplete_change_is_logged_unless_the_rest_follows() {
    const SECOND: Duration = Duration::from_secs(1);
    let mut held = HeldFailure::default();
    assert!(
        tokio::time::timeout(100 * SECOND, held.due())
            .await
            .is_err()
    );
    held.hold("the key", 5 * SECOND);
    assert!(tokio::time::timeout(4 * SECOND, held.due()).await.is_err());
    held.clear();
    assert!(
        tokio::time::timeout(100 * SECOND, held.due())
            .await
            .is_err()
    );
    held.hold("the key", 5 * SECOND);
    tokio::time::sleep(4 * SECOND).await;
    // Another attempt does not extend the time.
    held.hold("the certificate", 5 * SECOND);
    let due = tokio::time::timeout(2 * SECOND, held.due()).await;
    assert_eq!(due.unwrap(), "the certificate");
    let logged_once = tokio::time::timeout(100 * SECOND, held.due()).await;
    assert!(logged_once.is_err());
}
