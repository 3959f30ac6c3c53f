//! The bytes of an event stream: where in it are we, and what has passed.
//!
//! The only module that knows what an event looks like on the wire
//! ([WHATWG HTML, section 9.2.5](https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream)).
//!
//! - [`Aligner`] cuts a stream of chunks so that what leaves it are whole events;
//! - [`Scanner`] looks into the events that pass, without a copy;
//! - `timestamped` writes an event of ours with the time in it;
//! - `words` writes what we say ourselves, in the stream's own line end.

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
pub(crate) use scan::{KEEP, Seen};
pub use scan::{RawEvent, Scanner};
pub(crate) use timestamped::Timestamped;
