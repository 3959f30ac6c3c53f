//! What the service inside was seen to allow, within bounds.

use crate::lock::lock;
use http::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN};
use http::{HeaderMap, HeaderName};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// What was seen is remembered for this long.
pub(super) const VALID: Duration = Duration::from_secs(3600);
/// Origins that are remembered.
pub(super) const ORIGINS: usize = 256;
/// Preflights that are remembered.
pub(super) const PREFLIGHTS: usize = 1024;
/// A longer origin is not remembered: a host name has 253 bytes at the most.
pub(super) const LONGEST_ORIGIN: usize = 512;

/// Whom a response allows to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// This origin.
    Origin { credentials: bool },
    /// Any origin, without credentials.
    Any,
}

impl Allowed {
    /// As the [CORS check](https://fetch.spec.whatwg.org/#concept-cors-check) of a browser has it: one
    /// value, equal byte for byte.
    pub(super) fn of(headers: &HeaderMap, origin: &[u8]) -> Option<Self> {
        let value = only(headers, &ACCESS_CONTROL_ALLOW_ORIGIN)?;
        if value == b"*" {
            return Some(Self::Any);
        }
        let credentials = only(headers, &ACCESS_CONTROL_ALLOW_CREDENTIALS) == Some(b"true");
        (value == origin).then_some(Self::Origin { credentials })
    }
}

/// The value of a field that occurs once.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// What one service was seen to allow.
#[derive(Debug, Default)]
pub(super) struct Seen {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    any: Option<Instant>,
    origins: HashMap<Box<[u8]>, Entry>,
    /// By a hash of all that the answer to a preflight depends on.
    preflights: HashMap<u64, Instant>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    /// When credentials were allowed.
    credentials: Option<Instant>,
    /// A second response allowed it: a later origin does not replace it.
    confirmed: bool,
}

fn is_valid(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < VALID
}

impl Seen {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What this origin is allowed, as far as is remembered.
    pub(super) fn allowed(&self, origin: &[u8]) -> Option<Allowed> {
        let (state, now) = (self.state(), Instant::now());
        let entry = state.origins.get(origin);
        if let Some(entry) = entry.filter(|entry| is_valid(entry.at, now)) {
            let credentials = entry.credentials.is_some_and(|at| is_valid(at, now));
            return Some(Allowed::Origin { credentials });
        }
        let any = state.any.filter(|at| is_valid(*at, now));
        any.map(|_| Allowed::Any)
    }

    /// A response to this origin allowed it. Whether there was room to remember that.
    pub(super) fn learn(&self, origin: &[u8], allowed: Allowed) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let Allowed::Origin { credentials } = allowed else {
            state.any = Some(now);
            return true;
        };
        let credentials = credentials.then_some(now);
        if let Some(entry) = state.origins.get_mut(origin) {
            entry.confirmed |= is_valid(entry.at, now);
            entry.at = now;
            entry.credentials = credentials.or(entry.credentials);
            return true;
        }
        if origin.len() > LONGEST_ORIGIN {
            return true;
        }
        if state.origins.len() >= ORIGINS && !state.make_room(now) {
            return false;
        }
        let entry = Entry {
            at: now,
            credentials,
            confirmed: false,
        };
        state.origins.insert(origin.into(), entry);
        true
    }

    fn hash(&self, preflight: &impl Hash) -> u64 {
        self.hasher.hash_one(preflight)
    }

    /// The service allowed what this preflight asks for.
    pub(super) fn learn_preflight(&self, preflight: &impl Hash) {
        let (mut state, now) = (self.state(), Instant::now());
        let key = self.hash(preflight);
        let preflights = &mut state.preflights;
        if preflights.len() >= PREFLIGHTS && !preflights.contains_key(&key) {
            preflights.retain(|_, at| is_valid(*at, now));
        }
        if preflights.len() < PREFLIGHTS || preflights.contains_key(&key) {
            preflights.insert(key, now);
        }
    }

    /// Whether the service allowed just this.
    pub(super) fn allowed_preflight(&self, preflight: &impl Hash) -> bool {
        let key = self.hash(preflight);
        let at = self.state().preflights.get(&key).copied();
        at.is_some_and(|at| is_valid(at, Instant::now()))
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let state = self.state();
        (state.origins.len(), state.preflights.len())
    }
}

impl State {
    /// Drops what is out of date, else the oldest origin that came once: many invented origins, which a
    /// service that allows any repeats, do not displace the origins of real pages.
    fn make_room(&mut self, now: Instant) -> bool {
        self.origins.retain(|_, entry| is_valid(entry.at, now));
        if self.origins.len() < ORIGINS {
            return true;
        }
        let once = self.origins.iter().filter(|(_, entry)| !entry.confirmed);
        let oldest = once.min_by_key(|(_, entry)| entry.at);
        let oldest = oldest.map(|(origin, _)| origin.clone());
        oldest.is_some_and(|origin| self.origins.remove(&origin).is_some())
    }
}
