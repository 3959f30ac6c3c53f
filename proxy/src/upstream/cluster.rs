//! The endpoints that serve a route, and the choice of one for each request.

use super::member::Member;
use sse_guard::resume::Admission;

/// The endpoints of a route; one or more.
#[derive(Debug)]
pub(crate) struct Cluster {
    members: Vec<Member>,
    picker: Picker,
}

/// Chooses the member for a request. Balancing and ejection belong here: a member has its URL's state by
/// [`Health::state`](super::health::Health::state).
#[derive(Debug)]
enum Picker {
    /// There is one.
    Only,
}

impl Picker {
    /// An index of `members`, which are not empty.
    fn pick(&self, _members: &[Member]) -> usize {
        match self {
            Self::Only => 0,
        }
    }
}

impl Cluster {
    pub(super) fn only(member: Member) -> Self {
        Self {
            members: vec![member],
            picker: Picker::Only,
        }
    }

    /// The member for the next request.
    pub(super) fn pick(&self) -> &Member {
        &self.members[self.picker.pick(&self.members)]
    }

    /// Whether requests go below a path of the upstream's.
    pub(super) fn has_base_path(&self) -> bool {
        self.members.iter().any(|member| !member.base().is_empty())
    }

    /// Streams wait in this queue when they have lost the upstream.
    pub(crate) fn wakes(&self, queue: &Admission) {
        for member in &self.members {
            member.endpoint().health().wakes(queue);
        }
    }
}
