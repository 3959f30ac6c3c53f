//! The permissions that responses of the service have shown, in bounded memory.

use super::table::{EntryTable, is_valid};
use crate::client_key::{ClientKey, peer_addr};
use crate::lock::lock;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, FORWARDED, HOST,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Origins that are remembered, each once for each host.
pub(super) const MAX_ORIGINS: usize = 256;
/// Targets without credentials that are remembered.
const MAX_TARGETS: usize = 1024;
/// Preflights that are remembered.
pub(super) const MAX_PREFLIGHTS: usize = 1024;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The origins that a response allows to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// This origin.
    Origin { credentials: bool },
    /// Any origin, without credentials.
    Any,
}

impl Allowed {
    /// By the [CORS check](https://fetch.spec.whatwg.org/#concept-cors-check) of browsers: one value, equal byte for
    /// byte.
    pub(super) fn of(headers: &HeaderMap, origin: &[u8]) -> Option<Self> {
        let value = only(headers, &ACCESS_CONTROL_ALLOW_ORIGIN)?;
        if value == b"*" {
            return Some(Self::Any);
        }
        let credentials = only(headers, &ACCESS_CONTROL_ALLOW_CREDENTIALS) == Some(b"true");
        (value == origin).then_some(Self::Origin { credentials })
    }

    pub(super) fn credentials(self) -> bool {
        self == Self::Origin { credentials: true }
    }
}

/// The value of a field that occurs once.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// The permissions of one service.
#[derive(Debug)]
pub(super) struct Permissions {
    state: Mutex<PermissionsState>,
    hasher: RandomState,
}

#[derive(Debug)]
struct PermissionsState {
    origins: EntryTable<Permission>,
    /// Origin and target of permissions without credentials, if the origin has credentials at other targets.
    without_credentials: EntryTable<()>,
    /// Whether credentials were allowed, by a hash of all that the response to a preflight depends on.
    preflights: EntryTable<bool>,
}

/// The permission of an origin, or of any.
#[derive(Clone, Copy, Debug)]
struct Permission {
    /// The method and path of the last response that gave it.
    target: u64,
    /// When credentials were allowed.
    credentials: Option<Instant>,
}

/// The keys of a request's entries, as hashes: they have a fixed size, and keep no part of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryKeys {
    /// The origin and the virtual host: one service may be several.
    origin: u64,
    /// Any origin of the same host.
    any: u64,
    /// Method and path.
    target: u64,
    /// The client's network.
    client: u64,
}

impl Default for Permissions {
    fn default() -> Self {
        let state = PermissionsState {
            origins: EntryTable::new(MAX_ORIGINS),
            without_credentials: EntryTable::new(MAX_TARGETS),
            preflights: EntryTable::new(MAX_PREFLIGHTS),
        };
        Self {
            state: Mutex::new(state),
            hasher: RandomState::new(),
        }
    }
}

/// Host names in the fields by which services choose a virtual host. A client that forges them adds entries only for
/// itself.
fn hash_host<B>(request: &Request<B>, state: &mut impl Hasher) {
    let headers = request.headers();
    let mut write = |text: &[u8]| text.to_ascii_lowercase().hash(state);
    match request.uri().authority() {
        Some(authority) => write(authority.as_str().as_bytes()),
        None => {
            let hosts = headers.get_all(HOST).iter();
            hosts.for_each(|host| write(host.as_bytes()));
        }
    }
    let forwarded = headers.get_all(X_FORWARDED_HOST).iter();
    forwarded.for_each(|host| write(host.as_bytes()));
    let forwarded = headers.get_all(FORWARDED).iter();
    let pairs = forwarded.flat_map(|value| {
        let is_separator = |byte: &u8| matches!(byte, b',' | b';');
        value.as_bytes().split(is_separator).map(<[u8]>::trim_ascii)
    });
    let is_host = |pair: &&[u8]| {
        let name = pair.get(..5);
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"host="))
    };
    pairs.filter(is_host).for_each(write);
}

fn client<B>(request: &Request<B>, ipv6_prefix: u8) -> Option<ClientKey> {
    let extensions = request.extensions();
    let peer = || Some(peer_addr(extensions)?.key());
    let client = extensions.get().cloned().or_else(peer)?;
    Some(client.network(ipv6_prefix))
}

impl Permissions {
    fn state(&self) -> MutexGuard<'_, PermissionsState> {
        lock(&self.state)
    }

    fn hash(&self, value: &impl Hash) -> u64 {
        self.hasher.hash_one(value)
    }

    pub(super) fn keys<B>(
        &self,
        request: &Request<B>,
        origin: &HeaderValue,
        ipv6_prefix: u8,
    ) -> EntryKeys {
        let mut host = self.hasher.build_hasher();
        hash_host(request, &mut host);
        let host = host.finish();
        EntryKeys {
            origin: self.hash(&(host, Some(origin.as_bytes()))),
            any: self.hash(&(host, None::<&[u8]>)),
            target: self.hash(&(request.method(), request.uri().path())),
            client: client(request, ipv6_prefix).map_or(0, |client| self.hash(&client)),
        }
    }

    /// The remembered permission of this origin.
    pub(super) fn allowed(&self, keys: &EntryKeys) -> Option<Allowed> {
        let without = self.hash(&(keys.origin, keys.target));
        let (state, now) = (self.state(), Instant::now());
        if let Some(entry) = state.origins.get(keys.origin) {
            let credentials = entry.value.credentials;
            let credentials = credentials.is_some_and(|at| is_valid(at, now))
                && state.without_credentials.get(without).is_none();
            return Some(Allowed::Origin { credentials });
        }
        state.origins.get(keys.any).map(|_| Allowed::Any)
    }

    /// Records a permission. Returns false if another one was forgotten for it.
    pub(super) fn record(&self, keys: &EntryKeys, allowed: Allowed) -> bool {
        let without = self.hash(&(keys.origin, keys.target));
        let (mut state, now) = (self.state(), Instant::now());
        let known = state.origins.get(keys.origin);
        let mut credentials = known.and_then(|entry| entry.value.credentials);
        if allowed.credentials() {
            credentials = Some(now);
            state.without_credentials.remove(without);
        } else if credentials.is_some() {
            state.without_credentials.confirm(without, keys.client, ());
        }
        let (key, credentials) = match allowed {
            Allowed::Origin { .. } => (keys.origin, credentials),
            Allowed::Any => (keys.any, None),
        };
        let permission = Permission {
            target: keys.target,
            credentials,
        };
        state.origins.confirm(key, keys.client, permission)
    }

    /// Records that a response with this status did not allow the origin. An earlier permission is forgotten if only
    /// this client confirmed it, or if it was for the same method and path: services have paths without permission
    /// beside others with it, and one client must not withdraw a permission that others use.
    pub(super) fn refused(&self, keys: &EntryKeys, status: StatusCode) {
        // Errors often come without the fields that responses have.
        if !status.is_success() && status != StatusCode::FORBIDDEN {
            return;
        }
        let origins = &mut self.state().origins;
        for key in [keys.origin, keys.any] {
            let is_withdrawn = origins.get(key).is_some_and(|entry| {
                let is_alike = entry.value.target == keys.target && status.is_success();
                is_alike || entry.is_of(keys.client)
            });
            if is_withdrawn {
                origins.remove(key);
            }
        }
    }

    fn preflight(&self, keys: &EntryKeys, preflight: &impl Hash) -> u64 {
        self.hash(&(keys.origin, preflight))
    }

    /// The service allowed what this preflight requests, with credentials or without.
    pub(super) fn record_preflight(
        &self,
        keys: &EntryKeys,
        preflight: &impl Hash,
        credentials: bool,
    ) {
        let key = self.preflight(keys, preflight);
        let preflights = &mut self.state().preflights;
        preflights.confirm(key, keys.client, credentials);
    }

    /// The service no longer allows it.
    pub(super) fn remove_preflight(&self, keys: &EntryKeys, preflight: &impl Hash) {
        let key = self.preflight(keys, preflight);
        self.state().preflights.remove(key);
    }

    /// Whether the service allowed exactly this, and with or without credentials.
    pub(super) fn allowed_preflight(
        &self,
        keys: &EntryKeys,
        preflight: &impl Hash,
    ) -> Option<bool> {
        let key = self.preflight(keys, preflight);
        self.state().preflights.get(key).map(|entry| entry.value)
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let state = self.state();
        (state.origins.len(), state.preflights.len())
    }
}
