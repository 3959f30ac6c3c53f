//! Certificates that come and change while a listener serves: those of ACME.

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The protocol by which a CA verifies a name, RFC 8737.
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// The certificates of a listener by their names. Changes count for the next handshake.
#[derive(Debug)]
pub(crate) struct ManagedKeys {
    /// In lower case; at least one.
    names: Vec<String>,
    certificates: KeyTable,
    /// What answers a challenge under way.
    challenges: KeyTable,
}

type KeyTable = ArcSwap<HashMap<String, Arc<CertifiedKey>>>;

impl ManagedKeys {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            certificates: ArcSwap::default(),
            challenges: ArcSwap::default(),
        }
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Sets the certificate of a name, if it is one of this listener.
    pub(crate) fn set_certificate(&self, name: &str, key: &Arc<CertifiedKey>) {
        if self.names.iter().any(|own| own == name) {
            set(&self.certificates, name, Some(key));
        }
    }

    /// Sets what answers the challenge of a name; `None` if none is under way any more.
    pub(crate) fn set_challenge(&self, name: &str, key: Option<&Arc<CertifiedKey>>) {
        if self.names.iter().any(|own| own == name) {
            set(&self.challenges, name, key);
        }
    }
}

fn set(table: &KeyTable, name: &str, key: Option<&Arc<CertifiedKey>>) {
    table.rcu(|table| {
        let mut table = HashMap::clone(table);
        match key {
            Some(key) => table.insert(name.to_owned(), key.clone()),
            None => table.remove(name),
        };
        table
    });
}

impl ResolvesServerCert for ManagedKeys {
    /// By SNI; the first name's without a match. `None`, which ends the handshake, if there is none yet.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        // The client of a challenge offers this protocol alone. Any other is served, whatever else it offers.
        let mut protocols = hello.alpn().into_iter().flatten();
        if protocols.next() == Some(ACME_TLS) && protocols.next().is_none() {
            return self.challenges.load().get(&name?).cloned();
        }
        let certificates = self.certificates.load();
        let own = name.and_then(|name| certificates.get(&name));
        own.or_else(|| certificates.get(self.names.first()?))
            .cloned()
    }
}
