//! Properties of a whole stream: its family, and which layers handle what.

use super::Stream;
use crate::family::{Family, is_keepalive};
use crate::wire::RawEvent;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A layer inside cuts the stream at event boundaries.
const ALIGNED: u8 = 1;
/// A layer inside applies the idle timeouts.
const IDLE_WATCHED: u8 = 1 << 1;
/// The bytes are in a content coding, or a part of the stream.
const OPAQUE: u8 = 1 << 2;
/// The application has set the family: the first event does not change it.
const FAMILY_FIXED: u8 = 1 << 3;
/// A layer uses the time since the last event.
const EVENT_CLOCK: u8 = 1 << 4;
/// The bits above count the waker slots in use.
pub(super) const FLAG_BITS: u32 = 5;
const _: () =
    assert!(ALIGNED | IDLE_WATCHED | OPAQUE | FAMILY_FIXED | EVENT_CLOCK == (1 << FLAG_BITS) - 1);
/// The stream is to end at once, as its memory is needed. A bit of the family's byte.
const SHED: u8 = 1 << 7;

impl Stream {
    /// Returns whether the flag was set before.
    fn set(&self, flag: u8) -> bool {
        self.0.flags.fetch_or(flag, Relaxed) & flag != 0
    }

    fn is(&self, flag: u8) -> bool {
        self.0.flags.load(Relaxed) & flag != 0
    }

    /// Returns the family of the client: by its request, until the first event shows more.
    pub fn family(&self) -> Family {
        let family = usize::from(self.0.family.load(Relaxed) & !SHED);
        Family::ALL.get(family).copied().unwrap_or(Family::Raw)
    }

    #[doc(hidden)]
    pub fn set_family(&self, family: Family, is_fixed: bool) {
        self.store_family(family);
        if is_fixed {
            self.set(FAMILY_FIXED);
        }
    }

    /// Refines the family by the first event with data.
    pub(crate) fn detect_family(&self, event: &RawEvent<'_>) {
        if self.is(FAMILY_FIXED) || !event.has_data {
            return;
        }
        if let Some(family) = self.family().learnt_from(event) {
            self.store_family(family);
        }
    }

    fn store_family(&self, family: Family) {
        let keep_shed = |byte: u8| Some((byte & SHED) | family as u8);
        // The update function never returns `None`.
        let _ = self.0.family.fetch_update(Relaxed, Relaxed, keep_shed);
    }

    /// A layer uses the time since the last event that is not a ping.
    pub(crate) fn set_event_clock(&self) {
        self.set(EVENT_CLOCK);
    }

    /// Whether a layer uses that time, as the completion layer may for any answer of a model. Else events need
    /// not be checked for pings.
    pub(crate) fn has_event_clock(&self) -> bool {
        self.is(EVENT_CLOCK) || self.family().is_model_api()
    }

    /// A layer inside applies the idle timeouts from now on.
    pub(crate) fn set_idle_watched(&self) {
        self.set(IDLE_WATCHED);
    }

    pub(crate) fn is_idle_watched(&self) -> bool {
        self.is(IDLE_WATCHED)
    }

    #[doc(hidden)]
    pub fn set_opaque(&self) {
        self.set(OPAQUE);
    }

    /// Returns true if the events are not readable: the stream is in a content coding, or a range of bytes. Such a
    /// stream passes unchanged. Its events are not counted and it has no event boundary; a layer that ends it
    /// breaks it off.
    pub fn is_opaque(&self) -> bool {
        self.is(OPAQUE)
    }

    /// A layer aligns the stream from now on. Returns whether one did before.
    pub(crate) fn set_aligned(&self) -> bool {
        self.set(ALIGNED)
    }

    pub(crate) fn set_pings(&self, pings: &Arc<Vec<String>>) {
        let _ = self.0.pings.set(pings.clone());
    }

    /// Returns true if an event only shows that the upstream is alive.
    pub(crate) fn is_ping(&self, event: &RawEvent<'_>) -> bool {
        let is_named = match (self.0.pings.get(), event.name) {
            (Some(pings), Some(name)) => pings.iter().any(|ping| ping.as_bytes() == name),
            _ => false,
        };
        is_named || is_keepalive(event, self.family())
    }

    /// Returns true if the stream must end at once, even if the client does not read.
    #[cfg(feature = "serve")]
    pub(crate) fn is_shed(&self) -> bool {
        self.0.family.load(Relaxed) & SHED != 0
    }

    pub(super) fn set_shed(&self) {
        self.0.family.fetch_or(SHED, Relaxed);
    }
}

#[cfg(all(test, feature = "serve"))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shed_flag_survives_waker_slots_and_a_change_of_family() {
        let stream = Stream::open();
        for _ in 0..9 {
            let _slot = stream.waker_slot();
        }
        assert!(!stream.is_shed() && !stream.is_opaque());
        stream.shed();
        stream.store_family(Family::OpenAi);
        assert!(stream.is_shed());
        assert_eq!(stream.family(), Family::OpenAi);
    }
}
