//! The CAs by which certificates of servers are verified.

use rustls::pki_types::CertificateDer;
use rustls::{Error, RootCertStore};
use sse_guard::internal::lock;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Certificates of CAs.
pub(super) struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
}

/// A certificate, counted from 1, that cannot be that of a CA.
#[derive(Debug)]
pub(super) struct BadRoot {
    pub(super) number: usize,
    pub(super) error: Error,
}

impl Roots {
    /// All of these, at least one.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BadRoot> {
        let mut store = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            let number = index + 1;
            let added = store.add(certificate.clone());
            added.map_err(|error| BadRoot { number, error })?;
        }
        Ok(Self {
            certificates,
            store: Arc::new(store),
        })
    }

    /// Those that the system trusts, or why there are none. Each call reads them; while they are equal, the result is
    /// that of the call before. A system may have some that cannot be used.
    pub(super) fn of_the_system() -> Result<Arc<Self>, String> {
        static LAST: Mutex<Option<Arc<Roots>>> = Mutex::new(None);
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "a CA certificate of the system cannot be read");
        }
        let certificates = found.certs;
        let mut last = lock(&LAST);
        if let Some(last) = last
            .as_ref()
            .filter(|last| last.certificates == certificates)
        {
            return Ok(last.clone());
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(certificates.iter().cloned());
        if store.is_empty() {
            let error = found.errors.first().map(|error| format!(": {error}"));
            return Err(error.unwrap_or_default());
        }
        let roots = Self {
            certificates,
            store: Arc::new(store),
        };
        Ok(last.insert(Arc::new(roots)).clone())
    }

    pub(super) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Eq for Roots {}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.certificates.len())
    }
}
