//! The events that the origin sends, and how a client recognises one.
//!
//! On the wire an event is
//!
//! ```text
//! id: 17
//! data: s=17 t=123456789 xxxxxxxx
//!
//! ```
//!
//! `s` is the sequence number, `t` the time of sending ([`crate::clock::now_ns`]); `x` fills the
//! event up to the wanted size.

/// What an event of ours carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Sequence number.
    pub seq: u64,
    /// Time of sending in nanoseconds.
    pub t: u64,
}

/// Appends one whole event of `size` bytes, line ends included (or a little more if `size` has no
/// room for the numbers).
pub fn encode(out: &mut Vec<u8>, stamp: Stamp, size: usize) {
    let start = out.len();
    let mut seq = itoa::Buffer::new();
    let seq = seq.format(stamp.seq).as_bytes();
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(seq);
    out.extend_from_slice(b"\ndata: s=");
    out.extend_from_slice(seq);
    out.extend_from_slice(b" t=");
    out.extend_from_slice(itoa::Buffer::new().format(stamp.t).as_bytes());
    out.push(b' ');
    let fill = (start + size).saturating_sub(out.len() + 2);
    out.resize(out.len() + fill, b'x');
    out.extend_from_slice(b"\n\n");
}

/// Reads the stamp off the value of a `data` field; `None` if it is none of ours.
pub fn parse_payload(data: &[u8]) -> Option<Stamp> {
    let rest = data.strip_prefix(b"s=")?;
    let (seq, rest) = number(rest)?;
    let rest = rest.strip_prefix(b" t=")?;
    let (t, _) = number(rest)?;
    Some(Stamp { seq, t })
}

/// A decimal number at the start of `text`, and what follows it.
pub fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    let mut used = 0;
    for &b in text {
        if !b.is_ascii_digit() {
            break;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(b - b'0'))?;
        used += 1;
    }
    (used > 0).then(|| (value, &text[used..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_size_asked_for() {
        for size in [60, 61, 200, 4096] {
            let mut out = b"before".to_vec();
            encode(&mut out, Stamp { seq: 7, t: 123_456_789 }, size);
            assert_eq!(out.len() - 6, size);
            assert!(out.ends_with(b"\n\n"));
        }
    }

    #[test]
    fn an_event_too_small_for_its_numbers_is_still_whole() {
        let mut out = Vec::new();
        encode(&mut out, Stamp { seq: 1, t: 2 }, 0);
        assert_eq!(out, b"id: 1\ndata: s=1 t=2 \n\n");
    }

    #[test]
    fn stamps_round_trip() {
        for stamp in [Stamp { seq: 0, t: 0 }, Stamp { seq: u64::MAX, t: u64::MAX }] {
            let mut out = Vec::new();
            encode(&mut out, stamp, 100);
            let data = out.windows(6).position(|w| w == b"data: ").unwrap() + 6;
            assert_eq!(parse_payload(&out[data..]), Some(stamp));
        }
    }

    #[test]
    fn foreign_payloads_are_none() {
        let foreign: [&[u8]; 8] =
            [b"", b"s=", b"s=1", b"s=1 t=", b"s=x t=1", b"hello", b"s=1  t=2", b"s=99999999999999999999 t=1"];
        for data in foreign {
            assert_eq!(parse_payload(data), None, "{data:?}");
        }
    }
}
