//! TLS by rustls: certificates and keys from files, the CAs of the system, and what a failed handshake means.

mod client;
mod error;
mod pem;
mod roots;
mod verifier;

pub(crate) use client::{ClientIdentity, ClientTls, ClientTlsError, Trust};
pub(crate) use error::TlsFailure;
pub(crate) use pem::{PemError, certificates, private_key};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use std::sync::{Arc, LazyLock};

/// Reads `app.example`, or an address with brackets or without.
pub(crate) fn server_name(text: &str) -> Option<ServerName<'static>> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    ServerName::try_from(inner.unwrap_or(text).to_owned()).ok()
}

/// The cipher suites, key exchanges and signatures of all connections.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}
