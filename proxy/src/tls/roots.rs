//! The CAs that this system trusts.

use rustls::pki_types::CertificateDer;
use sse_guard::internal::lock;
use std::sync::{Arc, Mutex};

/// The certificates of the CAs of the system, or why there are none. Each call reads them, and returns the list of the
/// call before while it is equal.
pub(super) fn system_roots() -> Result<Arc<Vec<CertificateDer<'static>>>, String> {
    static LAST: Mutex<Option<Arc<Vec<CertificateDer<'static>>>>> = Mutex::new(None);
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a CA certificate of the system cannot be read");
    }
    if found.certs.is_empty() {
        let error = found.errors.first().map(|error| format!(": {error}"));
        return Err(error.unwrap_or_default());
    }
    let mut last = lock(&LAST);
    if let Some(last) = last.as_ref().filter(|last| ***last == found.certs) {
        return Ok(last.clone());
    }
    Ok(last.insert(Arc::new(found.certs)).clone())
}
