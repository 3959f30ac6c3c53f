//! A bounded table of entries that clients confirm, which one client cannot fill.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a permission is remembered.
pub(super) const PERMISSION_TTL: Duration = Duration::from_secs(3600);
/// An entry that was confirmed after this time outlives younger ones of the same client.
pub(super) const ESTABLISHED_AFTER: Duration = Duration::from_secs(60);

/// Entries by a keyed hash, and the client that made each.
///
/// When the table is full, an entry is evicted:
///
/// 1. one of the client's own, if it made an eighth of the table;
/// 2. one that several clients confirmed, if these fill three quarters of the table, so that two addresses
///    of one attacker do not fill it;
/// 3. one of the client that made most of the others.
///
/// Among these candidates it is the least recently confirmed one; established ones are last.
#[derive(Debug)]
pub(super) struct EntryTable<V> {
    max_entries: usize,
    entries: HashMap<u64, TableEntry<V>>,
}

#[derive(Debug)]
pub(super) struct TableEntry<V> {
    pub(super) value: V,
    since: Instant,
    at: Instant,
    /// The client that made it.
    owner: u64,
    /// Another client confirmed it.
    is_shared: bool,
}

impl<V> TableEntry<V> {
    /// Whether no other client confirmed it.
    pub(super) fn is_of(&self, client: u64) -> bool {
        !self.is_shared && self.owner == client
    }

    fn is_valid(&self, now: Instant) -> bool {
        is_valid(self.at, now)
    }

    /// The order of eviction, the lowest first.
    fn eviction_order(&self) -> (bool, Instant) {
        let age = self.at.saturating_duration_since(self.since);
        (age >= ESTABLISHED_AFTER, self.at)
    }
}

pub(super) fn is_valid(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < PERMISSION_TTL
}

impl<V> EntryTable<V> {
    pub(super) fn new(max_entries: usize) -> Self {
        Self {
            max_entries,
            entries: HashMap::new(),
        }
    }

    pub(super) fn get(&self, key: u64) -> Option<&TableEntry<V>> {
        let now = Instant::now();
        self.entries.get(&key).filter(|entry| entry.is_valid(now))
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut TableEntry<V>> {
        let now = Instant::now();
        let entry = self.entries.get_mut(&key);
        entry.filter(|entry| entry.is_valid(now))
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.entries.remove(&key);
    }

    /// A client confirmed this. Whether no other entry was evicted that is valid.
    pub(super) fn confirm(&mut self, key: u64, client: u64, value: V) -> bool {
        let now = Instant::now();
        if let Some(entry) = self.get_mut(key) {
            entry.is_shared |= entry.owner != client;
            entry.at = now;
            entry.value = value;
            return true;
        }
        self.entries.remove(&key);
        let evicted = self.entries.len() >= self.max_entries && self.make_room(client, now);
        let entry = TableEntry {
            value,
            since: now,
            at: now,
            owner: client,
            is_shared: false,
        };
        self.entries.insert(key, entry);
        !evicted
    }

    /// Whether a valid entry was evicted.
    fn make_room(&mut self, client: u64, now: Instant) -> bool {
        self.entries.retain(|_, entry| entry.is_valid(now));
        if self.entries.len() < self.max_entries {
            return false;
        }
        let mut owned: HashMap<u64, usize> = HashMap::new();
        for entry in self.entries.values().filter(|entry| !entry.is_shared) {
            *owned.entry(entry.owner).or_default() += 1;
        }
        let shared = self.entries.len() - owned.values().sum::<usize>();
        let own = owned.get(&client).copied().unwrap_or(0);
        let largest = owned.iter().max_by_key(|(_, count)| **count);
        let owner = match largest {
            _ if own >= self.max_entries / 8 => Some(client),
            Some((owner, _)) if shared <= self.max_entries / 4 * 3 => Some(*owner),
            _ => None,
        };
        let candidates = self.entries.iter().filter(|(_, entry)| match owner {
            Some(owner) => entry.is_of(owner),
            None => entry.is_shared,
        });
        let evicted = candidates.min_by_key(|(_, entry)| entry.eviction_order());
        let evicted = evicted.map(|(key, _)| *key);
        evicted.is_some_and(|key| self.entries.remove(&key).is_some())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MAX_ENTRIES: usize = 64;

    fn is_known(table: &EntryTable<()>, key: u64) -> bool {
        table.get(key).is_some()
    }

    /// Each key is confirmed twice, a millisecond apart.
    async fn flood(table: &mut EntryTable<()>, client: u64, keys: std::ops::Range<u64>) {
        for key in keys {
            for _ in 0..2 {
                table.confirm(key, client, ());
                advance(Duration::from_millis(1)).await;
            }
            assert!(table.len() <= MAX_ENTRIES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_one_client_evicts_no_entry_that_others_confirmed() {
        let mut table = EntryTable::new(MAX_ENTRIES);
        // The flood is the first to confirm two of them.
        flood(&mut table, 1, 0..2).await;
        for key in 0..8 {
            table.confirm(key, 10 + key, ());
        }
        flood(&mut table, 1, 1_000..2_000).await;
        assert!((0..8).all(|key| is_known(&table, key)));
        assert!(is_known(&table, 1_999) && !is_known(&table, 1_000));
        // A full table has room for what others confirm, and this stays.
        table.confirm(8, 2, ());
        flood(&mut table, 1, 2_000..3_000).await;
        assert!((0..9).all(|key| is_known(&table, key)));
    }

    #[tokio::test(start_paused = true)]
    async fn client_below_its_share_evicts_from_the_client_with_most_entries() {
        let mut table = EntryTable::new(MAX_ENTRIES);
        flood(&mut table, 1, 0..60).await;
        flood(&mut table, 2, 100..104).await;
        flood(&mut table, 3, 200..300).await;
        assert!((100..104).all(|key| is_known(&table, key)));
        // It had an eighth, then only its own were evicted.
        assert_eq!((0..60).filter(|key| is_known(&table, *key)).count(), 52);
        assert!(!is_known(&table, 0) && is_known(&table, 59));
    }

    #[tokio::test(start_paused = true)]
    async fn table_is_not_filled_by_two_addresses_of_one_attacker() {
        let mut table = EntryTable::new(MAX_ENTRIES);
        for key in 0..1_000 {
            table.confirm(key, 1, ());
            table.confirm(key, 2, ());
        }
        table.confirm(5_000, 3, ());
        table.confirm(5_001, 3, ());
        table.confirm(5_001, 4, ());
        for key in 1_000..2_000 {
            table.confirm(key, 1, ());
            advance(Duration::from_millis(1)).await;
            table.confirm(key, 2, ());
            // In use, as by real pages.
            table.confirm(5_001, 3, ());
        }
        assert!(is_known(&table, 5_000) && is_known(&table, 5_001));
    }

    #[tokio::test(start_paused = true)]
    async fn least_recently_confirmed_entry_is_evicted_first_if_clients_share_an_address() {
        let mut table = EntryTable::new(MAX_ENTRIES);
        table.confirm(1, 0, ());
        table.confirm(2, 0, ());
        advance(ESTABLISHED_AFTER).await;
        table.confirm(1, 0, ());
        flood(&mut table, 0, 1_000..2_000).await;
        // What was confirmed again after a minute is established.
        assert!(is_known(&table, 1) && !is_known(&table, 2));
        table.confirm(3, 0, ());
        assert!(is_known(&table, 3));
        advance(PERMISSION_TTL).await;
        assert!(!is_known(&table, 1) && !is_known(&table, 3));
        assert!(table.confirm(4, 0, ()));
        assert_eq!(table.len(), 1);
    }
}
