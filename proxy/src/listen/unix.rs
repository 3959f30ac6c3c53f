//! A Unix socket as listener, and its file.
//!
//! The file appears at its path with its owner and its permissions, by a rename: no client finds it before.
//! One that no process accepts connections on, as a killed process leaves it, is replaced; one in use is an
//! error, and a file of any other kind is never touched.
//!
//! As with TCP, a [`Lock`] shows that the file belongs to a process. One that drains gives it up and holds
//! another, so that the next process knows that it may replace the file: connections that wait at the old
//! socket are still accepted there.

use super::BACKLOG;
use super::lock::Lock;
use crate::config::{FileMode, Takeover};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Why a Unix socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnixListenError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("another process accepts connections there: stop it, or choose another path")]
    InUse {
        /// Another sse-guard, which may be about to stop.
        is_ours: bool,
    },
    #[error("a file that is not a socket exists there, and is not replaced: choose another path")]
    OtherFile,
    #[error("the directory does not exist: create it, such as by RuntimeDirectory= of systemd")]
    NoDirectory,
    #[error("listen_owner: no such user or group: {0}")]
    NoOwner(String),
    #[error("cannot set the owner {0}: only root, or a member of the group, may do so")]
    Owner(String),
}

/// A listening Unix socket. Its file is removed with it.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(super) listener: UnixListener,
    file: SocketFile,
    /// Held until it may be taken over.
    lock: Option<Lock>,
    /// Held from then on.
    handover: Option<Lock>,
}

/// How the file is created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileOptions<'a> {
    pub(crate) mode: FileMode,
    /// `user:group`.
    pub(crate) owner: Option<&'a str>,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may replace the file.
    id: (u64, u64),
}

/// What is at the path.
enum Found {
    Nothing,
    /// No process accepts connections on it.
    Stale,
    InUse,
}

impl UnixSocket {
    pub(super) fn open(
        path: &Path,
        options: FileOptions<'_>,
        takeover: Takeover,
    ) -> Result<Self, UnixListenError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let directory = fs::metadata(directory).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => UnixListenError::NoDirectory,
            _ => error.into(),
        })?;
        let lock = Lock::named(&lock_name("listen", &directory, path));
        let handover = lock_name("handover", &directory, path);
        match find(path)? {
            Found::InUse => {
                let is_draining = Lock::is_held(&handover);
                if takeover == Takeover::Off || lock.is_err() || !is_draining {
                    let is_ours = takeover != Takeover::Off && (lock.is_err() || is_draining);
                    return Err(UnixListenError::InUse { is_ours });
                }
                tracing::info!(
                    "taking over unix:{} from a process that is stopping",
                    path.display()
                );
            }
            // Another process is about to listen.
            _ if lock.is_err() => return Err(UnixListenError::InUse { is_ours: true }),
            Found::Stale => tracing::info!(
                "replacing the socket file {}: no process accepts connections on it",
                path.display()
            ),
            Found::Nothing => {}
        }
        let (listener, file) = create(path, options)?;
        Ok(Self {
            listener,
            file,
            lock: lock.ok(),
            handover: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// From now on another process may take over.
    pub(super) fn begin_handover(&mut self) {
        let directory = self
            .path()
            .parent()
            .and_then(|path| fs::metadata(path).ok());
        if let Some(directory) = directory {
            let name = lock_name("handover", &directory, self.path());
            self.handover = Lock::named(&name).ok();
        }
        self.lock = None;
    }

    /// Whether another process has replaced the file.
    pub(super) fn is_taken_over(&self) -> bool {
        !self.file.is_ours() && self.path().exists()
    }

    /// No new client finds it. Those that wait in the socket are still accepted.
    pub(super) fn remove_file(&self) {
        self.file.remove();
    }
}

impl SocketFile {
    fn is_ours(&self) -> bool {
        let found = fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| (found.dev(), found.ino()) == self.id)
    }

    fn remove(&self) {
        if self.is_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%error, "cannot remove the socket file {path}");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// One name for all paths that lead to the file, in whatever mount namespace.
fn lock_name(role: &str, directory: &fs::Metadata, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{role}/{}:{}/{name}", directory.dev(), directory.ino())
}

fn find(path: &Path) -> Result<Found, UnixListenError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(UnixListenError::OtherFile);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full queue would block.
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Found::Stale),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Ok(()) | Err(_) => Ok(Found::InUse),
    }
}

fn create(
    path: &Path,
    options: FileOptions<'_>,
) -> Result<(UnixListener, SocketFile), UnixListenError> {
    let temporary = path.with_file_name(format!(".{}", std::process::id()));
    // Left by a process of this id that was killed.
    if let Ok(Found::Stale) = find(&temporary) {
        fs::remove_file(&temporary)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&temporary)?)?;
    let id = fs::symlink_metadata(&temporary).map(|file| (file.dev(), file.ino()))?;
    // Removed on any error from here on.
    let mut file = SocketFile {
        path: temporary,
        id,
    };
    if let Some(owner) = options.owner {
        let (user, group) = ids(owner)?;
        let set = chown(&file.path, user, group);
        set.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => UnixListenError::Owner(owner.to_owned()),
            _ => error.into(),
        })?;
    }
    fs::set_permissions(&file.path, fs::Permissions::from_mode(options.mode.0))?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(socket.into())?;
    fs::rename(&file.path, path)?;
    path.clone_into(&mut file.path);
    Ok((listener, file))
}

/// The ids of `user:group`, `user` or `:group`, each a name or a number.
fn ids(owner: &str) -> Result<(Option<u32>, Option<u32>), UnixListenError> {
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    let user = id_in("/etc/passwd", user)?;
    Ok((user, id_in("/etc/group", group)?))
}

/// Of a name in a file of the system, whose third field is the id. Other sources of names are not read.
fn id_in(file: &str, name: &str) -> Result<Option<u32>, UnixListenError> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let table = fs::read_to_string(file)?;
    let mut lines = table.lines().map(|line| line.split(':'));
    let id = lines.find_map(|mut fields| match fields.next() {
        Some(found) if found == name => fields.nth(1)?.parse().ok(),
        _ => None,
    });
    match id {
        Some(id) => Ok(Some(id)),
        None => Err(UnixListenError::NoOwner(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const OPTIONS: FileOptions<'_> = FileOptions {
        mode: FileMode(0o600),
        owner: None,
    };

    fn open(path: &Path) -> Result<UnixSocket, UnixListenError> {
        UnixSocket::open(path, OPTIONS, Takeover::Drain)
    }

    #[tokio::test]
    async fn socket_file_has_its_mode_and_is_removed_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let socket = open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn socket_file_is_replaced_only_if_no_process_accepts_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert!(
            matches!(error, UnixListenError::InUse { is_ours: false }),
            "{error}"
        );
        drop(foreign);
        assert!(path.exists());
        let socket = open(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(
            error,
            UnixListenError::InUse {
                is_ours: cfg!(target_os = "linux")
            }
        ));
        drop(socket);
        fs::write(&path, "text").unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, UnixListenError::OtherFile), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let error = open(&dir.path().join("no/app.sock")).unwrap_err();
        assert!(matches!(error, UnixListenError::NoDirectory), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn socket_file_is_handed_over_once_its_process_drains() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let mut first = open(&path).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        first.begin_handover();
        assert!(UnixSocket::open(&path, OPTIONS, Takeover::Off).is_err());
        let second = open(&path).unwrap();
        assert!(first.is_taken_over() && !second.is_taken_over());
        // What came before is accepted where it waits.
        first.listener.accept().await.unwrap();
        drop(first);
        UnixStream::connect(&path).unwrap();
        second.listener.accept().await.unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn owner_is_a_name_or_a_number() {
        assert!(matches!(ids("root:root"), Ok((Some(0), Some(0)))));
        assert!(matches!(ids(":7"), Ok((None, Some(7)))));
        assert!(matches!(ids("12"), Ok((Some(12), None))));
        assert!(matches!(
            ids("no-such-user"),
            Err(UnixListenError::NoOwner(_))
        ));
    }
}
