//! Which clients hold more than their share of the connections in use, and what of it is closed when room
//! is short.

use super::{CLOSING, CloseReason, ConnectionEntry, IN_USE, Record, Registry, TUNNEL};
use crate::client_key::ClientKey;
use crate::lock::lock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use tokio::task::AbortHandle;

/// No client with this many connections in use, or fewer, is over its share.
const MIN_SHARE: usize = 8;

/// What each client holds of the connections in use.
#[derive(Debug, Default)]
pub struct Shares {
    /// Of clients over the fair share, the largest first.
    over: Vec<(ClientKey, usize)>,
    fair: usize,
    all: usize,
}

impl Shares {
    /// Twice what the median client holds is fair: where most clients hold the same, none is over. A
    /// single client is never over: there is no other one to make room for.
    pub(crate) fn of(counts: HashMap<ClientKey, usize>) -> Self {
        let all = counts.values().sum();
        let mut sorted: Vec<usize> = counts.values().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len().saturating_sub(1) / 2);
        let fair = match (sorted.len(), median) {
            (2.., Some(median)) => median.saturating_mul(2).max(MIN_SHARE),
            _ => usize::MAX,
        };
        let mut over: Vec<_> = counts
            .into_iter()
            .filter(|(_, count)| *count > fair)
            .collect();
        over.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self { over, fair, all }
    }

    /// The clients over their share.
    pub fn clients(&self) -> HashSet<ClientKey> {
        self.over.iter().map(|(client, _)| client.clone()).collect()
    }

    /// The client that holds the most, if that is over its share, and by how much it is.
    pub fn largest(&self) -> Option<(&ClientKey, usize)> {
        let (client, count) = self.over.first()?;
        Some((client, count - self.fair))
    }

    /// Whether that client holds more than all others together.
    pub fn is_majority(&self) -> bool {
        self.over
            .first()
            .is_some_and(|(_, count)| count * 2 > self.all)
    }
}

impl Record {
    /// A tunnel or a request; not a stream.
    fn is_request(&self) -> bool {
        [IN_USE, TUNNEL].contains(&self.state.load(Relaxed))
    }

    fn close_request(&self) -> bool {
        let closes = |state| {
            self.state
                .compare_exchange(state, CLOSING, AcqRel, Relaxed)
                .is_ok()
        };
        let is_closed = closes(IN_USE) || closes(TUNNEL);
        if is_closed && let Some(task) = &*lock(&self.task) {
            task.abort();
        }
        is_closed
    }
}

impl Registry {
    /// What each client holds now. Connections of clients without limits do not count.
    pub fn shares(&self) -> Shares {
        let table = lock(&self.0.table);
        let mut counts: HashMap<ClientKey, usize> = HashMap::new();
        let in_use = |record: &&Arc<Record>| record.state.load(Relaxed) > CLOSING;
        for record in table.connections.values().filter(in_use) {
            if let Some(holder) = &*lock(&record.holder) {
                *counts.entry(holder.clone()).or_default() += 1;
            }
        }
        drop(table);
        Shares::of(counts)
    }

    /// Closes at most `most` requests, downloads and tunnels of one client, the youngest first. Returns
    /// how many.
    pub fn close_requests(&self, client: &ClientKey, most: usize) -> usize {
        let table = lock(&self.0.table);
        let is_wanted = |record: &&Arc<Record>| {
            record.is_request() && lock(&record.holder).as_ref() == Some(client)
        };
        let mut records: Vec<_> = table.connections.values().filter(is_wanted).collect();
        records.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
        let records: Vec<_> = records.into_iter().cloned().collect();
        drop(table);
        let closed = records
            .iter()
            .filter(|record| record.close_request())
            .take(most)
            .count();
        if closed > 0 {
            metrics::counter!("sse_guard_connections_closed_total", "reason" => CloseReason::Share.as_str())
                .increment(closed as u64);
            self.0.log.of(CloseReason::Share).write(
                || {
                    tracing::warn!(
                        closed, %client,
                        "ending requests of the client that holds most: memory or files run short"
                    );
                },
                |not_logged| {
                    tracing::warn!(
                        not_logged,
                        "requests were ended for lack of memory or files more often than was logged"
                    );
                },
            );
        }
        closed
    }
}

impl ConnectionEntry {
    /// The client of its request; none if nothing limits that client.
    pub(in crate::serve) fn set_holder(&self, holder: Option<ClientKey>) {
        *lock(&self.record.holder) = holder;
    }

    /// The task that ends with the connection from now on.
    pub(in crate::serve) fn set_task(&self, task: AbortHandle) {
        *lock(&self.record.task) = Some(task);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::admit;
    use super::*;

    fn client(number: u8) -> ClientKey {
        ClientKey::Ip([192, 0, 2, number].into())
    }

    fn shares(counts: &[usize]) -> Shares {
        let counts = (1..).zip(counts).map(|(n, count)| (client(n), *count));
        Shares::of(counts.collect())
    }

    #[test]
    fn the_largest_holder_is_over_twice_the_median() {
        for (counts, largest, is_majority) in [
            (&[][..], None, false),
            // There is no other client.
            (&[500], None, false),
            // As large as each other.
            (&[100, 120], None, false),
            (&[20, 25, 30], None, false),
            // Few connections are never too many.
            (&[1, 1, 8], None, false),
            (&[1, 1, 9], Some((3, 1)), true),
            (&[3, 200], Some((2, 192)), true),
            (&[3, 3, 3, 60, 50, 3, 3], Some((4, 52)), false),
            (&[10, 10, 21], Some((3, 1)), true),
        ] {
            let shares = shares(counts);
            let expected = largest.map(|(number, excess)| (client(number), excess));
            let found = shares.largest();
            let found = found.map(|(client, excess)| (client.clone(), excess));
            assert_eq!(found, expected, "{counts:?}");
            assert_eq!(shares.is_majority(), is_majority, "{counts:?}");
        }
        assert_eq!(shares(&[3, 3, 3, 60, 50]).clients().len(), 2);
    }

    #[tokio::test]
    async fn the_youngest_requests_of_one_client_are_closed_and_no_stream() {
        let registry = Registry::default();
        let all: Vec<_> = (0..5)
            .map(|_| admit(&registry, "192.0.2.1", 100).unwrap())
            .collect();
        let other = admit(&registry, "192.0.2.2", 100).unwrap();
        for connection in all.iter().take(4).chain([&other]) {
            connection.begin();
        }
        all[1].tunnel();
        all[3].stream();
        let state = |n: usize| all[n].record.state.load(Relaxed);
        assert_eq!(registry.close_requests(&client(1), 2), 2);
        assert_eq!([state(0), state(1), state(2)], [IN_USE, CLOSING, CLOSING]);
        // Its client is another one than its peer.
        other.set_holder(Some(client(1)));
        assert_eq!(registry.close_requests(&client(1), 1), 1);
        assert_eq!(other.record.state.load(Relaxed), CLOSING);
        assert_eq!(registry.close_requests(&client(1), 9), 1);
        assert!(state(3) > CLOSING && state(4) < CLOSING);
        all[3].idle();
        assert_eq!(registry.idle(), 2);
    }
}
