//! Clients that hold more than their share of the connections in use, and closing their requests.

use super::entry::{CLOSING, ConnectionRecord, IN_USE, TUNNEL};
use super::{CloseReason, ConnectionRegistry};
use crate::client_key::ClientKey;
use crate::lock::lock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A client with this many connections in use, or fewer, does not exceed its share.
const MIN_SHARE: usize = 8;

/// The connections in use by client.
#[derive(Debug, Default)]
pub struct ConnectionShares {
    /// The clients that exceed the fair share, the largest first.
    excessive: Vec<(ClientKey, usize)>,
    fair_share: usize,
    total: usize,
}

impl ConnectionShares {
    /// The fair share is twice that of the median client: if most clients hold equally many, none exceeds it. A single
    /// client never exceeds it, because no other client would benefit.
    pub(crate) fn of(counts: HashMap<ClientKey, usize>) -> Self {
        let total = counts.values().sum();
        let mut sorted: Vec<usize> = counts.values().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len().saturating_sub(1) / 2);
        let fair_share = match (sorted.len(), median) {
            (2.., Some(median)) => median.saturating_mul(2).max(MIN_SHARE),
            _ => usize::MAX,
        };
        let mut excessive: Vec<_> = counts
            .into_iter()
            .filter(|(_, count)| *count > fair_share)
            .collect();
        excessive.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self {
            excessive,
            fair_share,
            total,
        }
    }

    /// Returns the clients that exceed their share.
    pub fn clients(&self) -> HashSet<ClientKey> {
        self.excessive
            .iter()
            .map(|(client, _)| client.clone())
            .collect()
    }

    /// Returns the client that holds the most and its excess, if it exceeds its share.
    pub fn largest(&self) -> Option<(&ClientKey, usize)> {
        let (client, count) = self.excessive.first()?;
        Some((client, count - self.fair_share))
    }

    /// Returns true if that client holds more than all others together.
    pub fn is_majority(&self) -> bool {
        self.excessive
            .first()
            .is_some_and(|(_, count)| count * 2 > self.total)
    }
}

impl ConnectionRecord {
    /// Returns true for a request or a tunnel, and false for a stream.
    fn is_request(&self) -> bool {
        [IN_USE, TUNNEL].contains(&self.state.load(Relaxed))
    }

    fn close_request(&self) -> bool {
        self.close_from(IN_USE) || self.close_from(TUNNEL)
    }
}

impl ConnectionRegistry {
    /// Returns the connections in use by client. Clients without limits do not count.
    pub fn shares(&self) -> ConnectionShares {
        let table = lock(&self.0.table);
        let mut counts: HashMap<ClientKey, usize> = HashMap::new();
        let in_use = |record: &&Arc<ConnectionRecord>| record.state.load(Relaxed) > CLOSING;
        for record in table.connections.values().filter(in_use) {
            if let Some(client) = &*lock(&record.client) {
                *counts.entry(client.clone()).or_default() += 1;
            }
        }
        drop(table);
        ConnectionShares::of(counts)
    }

    /// Closes at most `max` requests, downloads and tunnels of one client, the youngest first. Returns how many.
    pub fn close_requests(&self, client: &ClientKey, max: usize) -> usize {
        let table = lock(&self.0.table);
        let is_eligible = |record: &&Arc<ConnectionRecord>| {
            record.is_request() && lock(&record.client).as_ref() == Some(client)
        };
        let mut records: Vec<_> = table.connections.values().filter(is_eligible).collect();
        records.sort_unstable_by_key(|record| std::cmp::Reverse(record.id));
        let records: Vec<_> = records.into_iter().cloned().collect();
        drop(table);
        let closed = records
            .iter()
            .filter(|record| record.close_request())
            .take(max)
            .count();
        if closed > 0 {
            metrics::counter!("sse_guard_connections_closed_total", "reason" => CloseReason::Share.as_str())
                .increment(closed as u64);
            self.0.log_limits.of(CloseReason::Share).write(
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

#[cfg(test)]
mod tests {
    use super::super::tests::admit;
    use super::*;

    fn client(number: u8) -> ClientKey {
        ClientKey::Ip([192, 0, 2, number].into())
    }

    fn shares(counts: &[usize]) -> ConnectionShares {
        let counts = (1..).zip(counts).map(|(n, count)| (client(n), *count));
        ConnectionShares::of(counts.collect())
    }

    #[test]
    fn largest_client_exceeds_twice_the_median() {
        for (counts, largest, is_majority) in [
            (&[][..], None, false),
            // A single client.
            (&[500], None, false),
            // Similar clients.
            (&[100, 120], None, false),
            (&[20, 25, 30], None, false),
            // At most MIN_SHARE.
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
    async fn close_requests_closes_the_youngest_of_one_client_and_no_stream() {
        let registry = ConnectionRegistry::default();
        let all: Vec<_> = (0..5)
            .map(|_| admit(&registry, "192.0.2.1", 100).unwrap())
            .collect();
        let other = admit(&registry, "192.0.2.2", 100).unwrap();
        for connection in all.iter().take(4).chain([&other]) {
            connection.begin_request();
        }
        all[1].set_tunnel();
        all[3].set_stream();
        let state = |n: usize| all[n].record.state.load(Relaxed);
        assert_eq!(registry.close_requests(&client(1), 2), 2);
        assert_eq!([state(0), state(1), state(2)], [IN_USE, CLOSING, CLOSING]);
        // The client differs from the peer.
        other.set_client(Some(client(1)));
        assert_eq!(registry.close_requests(&client(1), 1), 1);
        assert_eq!(other.record.state.load(Relaxed), CLOSING);
        assert_eq!(registry.close_requests(&client(1), 9), 1);
        assert!(state(3) > CLOSING && state(4) < CLOSING);
        all[3].set_idle();
        assert_eq!(registry.idle(), 2);
    }
}
