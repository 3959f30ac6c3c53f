//! The bytes of an event stream: positions, events, and the encoding of events of this crate.
//!
//! The only module that knows what an event looks like on the wire
//! ([WHATWG HTML, section 9.2.5](https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream)).
//!
//! - [`Aligner`] cuts a stream of chunks so that what leaves it are whole events;
//! - [`Scanner`] reads the events that pass, without a copy;
//! - `encode` encodes comments and events of this crate, in the line end of the stream;
//! - `timestamped` adds the time to them.

mod align;
mod encode;
mod position;
#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod reference;
mod scan;
mod timestamped;

pub use align::{Aligner, DEFAULT_HOLD};
pub(crate) use encode::Encoded;
pub use encode::EventError;
pub use position::LineEnd;
pub(crate) use scan::{MAX_KEPT, Scanned};
pub use scan::{RawEvent, Scanner};
pub(crate) use timestamped::Timestamped;
