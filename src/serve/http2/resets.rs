//! Bounds requests that a client resets before their responses.

/// Fewer resets are never too many: pages cancel requests when their user leaves.
const MIN_RESETS: u32 = 100;

/// Counts the requests of a connection, and those that were reset before their response began. A client that resets
/// requests faster than they can be served causes work without a bound on concurrent streams: CVE-2023-44487.
#[derive(Debug, Default)]
pub(super) struct ResetCount {
    requests: u32,
    resets: u32,
}

impl ResetCount {
    pub(super) fn add_request(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    pub(super) fn add_reset(&mut self) {
        self.resets = self.resets.saturating_add(1);
    }

    /// Returns true if most requests were reset.
    pub(super) fn is_flood(&self) -> bool {
        self.resets >= MIN_RESETS && self.resets > self.requests / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_a_flood_if_they_are_many_and_most() {
        let flood = |requests, resets| ResetCount { requests, resets }.is_flood();
        assert!(!flood(99, 99));
        assert!(flood(100, 100));
        assert!(!flood(1000, 500));
        assert!(flood(1000, 501));
    }
}
