//! Failures in a row, and what they show of the upstream.

use sse_guard::client_key::ClientKey;
use tokio::time::Instant;

/// Failures in a row that mark the upstream as unreachable.
pub(super) const FAILURE_THRESHOLD: u32 = 3;

/// Failures in a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Streak {
    /// Failures that do not depend on the client: it takes no connection, or fails a check.
    general: u32,
    /// Of single requests, which may be those requests' fault.
    of_requests: u32,
    clients: FailedClients,
    /// When the threshold was reached.
    pub(super) failing_since: Option<Instant>,
}

/// Clients with failed requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum FailedClients {
    #[default]
    None,
    One(Option<ClientKey>),
    Several,
}

impl Streak {
    pub(super) fn is_failing(&self) -> bool {
        self.failing_since.is_some()
    }

    /// Counts a failure that only the upstream can cause. Returns whether the threshold is reached.
    pub(super) fn grow(&mut self) -> bool {
        self.general += 1;
        self.settle()
    }

    /// One more request of this client's.
    pub(super) fn grow_by(&mut self, client: Option<&ClientKey>) -> bool {
        self.of_requests += 1;
        self.clients = match std::mem::take(&mut self.clients) {
            FailedClients::None => FailedClients::One(client.cloned()),
            FailedClients::One(known) if known.as_ref() == client => FailedClients::One(known),
            FailedClients::One(_) | FailedClients::Several => FailedClients::Several,
        };
        self.settle()
    }

    /// One client may send only requests that hang or fail: failures of one client alone are weak
    /// evidence against the upstream.
    fn settle(&mut self) -> bool {
        let of_requests = match self.clients {
            FailedClients::Several => self.of_requests,
            FailedClients::None | FailedClients::One(_) => 0,
        };
        let is_turn = self.general + of_requests >= FAILURE_THRESHOLD && !self.is_failing();
        if is_turn {
            self.failing_since = Some(Instant::now());
        }
        is_turn
    }
}
