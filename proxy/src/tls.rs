//! TLS by rustls: certificates and keys from files, the CAs of the system, and what a failed handshake means.

mod client;
mod error;
mod managed;
mod pem;
mod roots;
mod server;
mod subject;
mod verifier;

pub(crate) use client::{ClientIdentity, ClientTls, ClientTlsError, Trust};
pub(crate) use error::TlsFailure;
pub(crate) use managed::ManagedKeys;
pub(crate) use pem::{PemError, certificates, private_key};
pub(crate) use server::{
    ClientAuth, ServerCertificates, ServerIdentity, ServerTls, ServerTlsError, certified_key,
    challenge_key,
};
pub(crate) use subject::client_subject;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{ServerName, UnixTime};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

/// Reads `app.example`, or an address with brackets or without.
pub(crate) fn server_name(text: &str) -> Option<ServerName<'static>> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    ServerName::try_from(inner.unwrap_or(text).to_owned()).ok()
}

/// As logs have it.
fn time(time: UnixTime) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The cipher suites, key exchanges and signatures of all connections.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(ring::default_provider()));
    PROVIDER.clone()
}
