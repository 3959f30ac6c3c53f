//! The folder of the account and the certificates.
//!
//! Each directory of a CA has a folder in it, so that certificates of a trial do not pass for others. Files are replaced as
//! a whole, and readable for their owner alone. One process at a time orders certificates.

use super::certificate::{Certificate, CertificateError};
use http::Uri;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

/// Held while a process orders certificates. The kernel releases it with the process.
#[derive(Debug)]
pub(super) struct CacheLock {
    _file: File,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error("{} cannot be used: {error}", path.display())]
    Certificate {
        path: PathBuf,
        error: CertificateError,
    },
}

const ACCOUNT: &str = "account.json";
const LOCK: &str = "lock";

impl Cache {
    /// Of this CA, in the folder of the config.
    pub(super) fn new(root: &Path, directory: &Uri) -> Self {
        let port = directory.port().map(|port| format!("-{port}"));
        let name = format!(
            "{}{}{}",
            directory.host().unwrap_or_default(),
            port.unwrap_or_default(),
            directory.path().trim_end_matches('/')
        );
        let name: String = name
            .chars()
            .map(|char| match char {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => char,
                _ => '-',
            })
            .collect();
        Self {
            folder: root.join(name),
        }
    }

    /// The account's credentials, if there is one.
    pub(super) fn account(&self) -> Result<Option<String>, CacheError> {
        self.read(ACCOUNT)
    }

    pub(super) fn store_account(&self, credentials: &str) -> Result<(), CacheError> {
        self.write(ACCOUNT, credentials)
    }

    /// Forgets an account that the CA does not know.
    pub(super) fn remove_account(&self) -> Result<(), CacheError> {
        let path = self.folder.join(ACCOUNT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(io_error("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// The certificate of a name, if there is one, be it expired.
    pub(super) fn certificate(&self, name: &str) -> Result<Option<Certificate>, CacheError> {
        let file = format!("{name}.pem");
        let Some(pem) = self.read(&file)? else {
            return Ok(None);
        };
        let certificate = Certificate::from_pem(&pem, name);
        certificate
            .map(Some)
            .map_err(|error| CacheError::Certificate {
                path: self.folder.join(file),
                error,
            })
    }

    /// With its key, in one file, so that they cannot be of two orders.
    pub(super) fn store_certificate(&self, name: &str, pem: &str) -> Result<(), CacheError> {
        self.write(&format!("{name}.pem"), pem)
    }

    /// Creates the folder, and takes its lock; `None` while another process has it.
    pub(super) fn lock(&self) -> Result<Option<CacheLock>, CacheError> {
        self.create()?;
        let path = self.folder.join(LOCK);
        let file = open(&path).map_err(|error| io_error("create", path.clone(), error))?;
        match try_lock(&file) {
            Ok(()) => Ok(Some(CacheLock { _file: file })),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(io_error("lock", path, error)),
        }
    }

    fn create(&self) -> Result<(), CacheError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let created = builder.create(&self.folder);
        created.map_err(|error| io_error("create the folder", self.folder.clone(), error))
    }

    fn read(&self, name: &str) -> Result<Option<String>, CacheError> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", path, error)),
        }
    }

    /// Replaces the file, so that a reader, or a start after a crash, finds the one before or this one.
    fn write(&self, name: &str, text: &str) -> Result<(), CacheError> {
        let (path, new) = (
            self.folder.join(name),
            self.folder.join(format!("{name}.new")),
        );
        let write = || {
            // What a crash has left may have other permissions.
            let _ = fs::remove_file(&new);
            let mut file = open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| io_error("write", path.clone(), error))
    }
}

fn io_error(action: &'static str, path: PathBuf, error: io::Error) -> CacheError {
    CacheError::Io {
        action,
        path,
        error,
    }
}

/// Opens a file to write, and creates it for its owner alone.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn try_lock(file: &File) -> io::Result<()> {
    use rustix::fs::{FlockOperation, flock};
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

#[cfg(not(unix))]
fn try_lock(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::issued;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn cache(root: &Path) -> Cache {
        Cache::new(root, &Uri::from_static("https://ca.test:8443/a/directory"))
    }

    #[test]
    fn each_directory_has_a_folder() {
        let folder = |url| Cache::new(Path::new("/c"), &Uri::from_static(url)).folder;
        for (url, expected) in [
            ("https://ca.test/directory", "/c/ca.test-directory"),
            ("https://ca.test:14000/dir/", "/c/ca.test-14000-dir"),
            ("https://[::1]/a/b", "/c/---1--a-b"),
            ("https://ca.test/../x", "/c/ca.test-..-x"),
        ] {
            assert_eq!(folder(url), Path::new(expected), "{url}");
        }
    }

    #[test]
    fn files_are_readable_for_their_owner_alone_and_replaced_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        assert!(
            cache.account().unwrap().is_none() && cache.certificate("a.test").unwrap().is_none()
        );
        let _lock = cache.lock().unwrap().unwrap();
        // Of a crash.
        fs::write(cache.folder.join("account.json.new"), "half").unwrap();
        cache.store_account("{}").unwrap();
        cache.store_account("{\"id\":1}").unwrap();
        cache
            .store_certificate("a.test", &issued("a.test", |_| {}))
            .unwrap();
        assert_eq!(cache.account().unwrap().as_deref(), Some("{\"id\":1}"));
        assert!(cache.certificate("a.test").unwrap().is_some());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&cache.folder), 0o700);
        let mut files: Vec<_> = fs::read_dir(&cache.folder)
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name().into_string().unwrap(), mode(&file.path())))
            .collect();
        files.sort();
        let expected = [
            ("a.test.pem", 0o600),
            ("account.json", 0o600),
            ("lock", 0o600),
        ];
        assert_eq!(files, expected.map(|(name, mode)| (name.to_owned(), mode)));
        cache.remove_account().unwrap();
        cache.remove_account().unwrap();
        assert!(cache.account().unwrap().is_none());
    }

    #[test]
    fn one_process_at_a_time_has_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let first = cache(root.path()).lock().unwrap();
        assert!(first.is_some());
        assert!(cache(root.path()).lock().unwrap().is_none());
        drop(first);
        assert!(cache(root.path()).lock().unwrap().is_some());
    }

    #[test]
    fn file_that_cannot_be_used_is_named() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path());
        drop(cache.lock().unwrap());
        cache
            .store_certificate("a.test", &issued("b.test", |_| {}))
            .unwrap();
        let error = cache.certificate("a.test").unwrap_err().to_string();
        assert!(
            error.ends_with("a.test.pem cannot be used: it is not for a.test"),
            "{error}"
        );
        fs::create_dir(cache.folder.join(ACCOUNT)).unwrap();
        let error = cache.account().unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read ") && error.contains(ACCOUNT),
            "{error}"
        );
    }
}
