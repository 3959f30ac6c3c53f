//! Reads the events that pass, in place.

#[cfg(test)]
mod tests;

use memchr::memchr2;

/// Bytes that are kept of a line or value that is split between two calls: more than the longest id that is used
/// to reconnect, so that a truncated id is too long as well.
pub(crate) const MAX_KEPT: usize = 1024 + 64;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// An event as it stood on the wire, borrowed from the bytes that were scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// Its lines and the blank line. Of an event in several calls, the part in the last one.
    pub raw: &'a [u8],
    /// The last `id` field without a NUL; one with a NUL is ignored.
    pub id: Option<&'a [u8]>,
    /// The last `event` field.
    pub name: Option<&'a [u8]>,
    /// The last `retry` field, which is valid only if it consists of digits.
    pub retry: Option<&'a [u8]>,
    /// Whether it has a `data` field. Clients dispatch only events that have one.
    pub has_data: bool,
}

impl<'a> RawEvent<'a> {
    /// Returns the value of its first `data` field in [`raw`](Self::raw), or an empty one.
    pub fn data(&self) -> &'a [u8] {
        self.data_lines().next().unwrap_or_default()
    }

    /// Returns the values of its `data` fields in [`raw`](Self::raw).
    pub fn data_lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let end = line_len(rest).unwrap_or(rest.len());
                let (line, behind) = rest.split_at(end);
                rest = behind.get(1..).unwrap_or_default();
                if let Some(data) = line.strip_prefix(b"data").and_then(value) {
                    return Some(data);
                }
            }
            None
        })
    }

    /// The fields in the first part of an incomplete event.
    pub(crate) fn begun(part: &'a [u8]) -> Self {
        let mut fields = Fields::default();
        let mut rest = part;
        while !rest.is_empty() {
            let end = line_len(rest).unwrap_or(rest.len());
            let (line, behind) = rest.split_at(end);
            fields.take(line);
            rest = behind.get(1..).unwrap_or_default();
        }
        // A truncated value is ignored, but data that has begun counts.
        Self {
            raw: part,
            id: fields.id,
            name: fields.name,
            retry: fields.retry,
            has_data: fields.has_data,
        }
    }
}

/// A finding of a scan.
pub(crate) enum Scanned<'a> {
    /// An event that ends here.
    Event(RawEvent<'a>),
    /// A part of an event that does not end here. The [`raw`](RawEvent::raw) of such an event has the last part
    /// only.
    Part { bytes: &'a [u8], is_first: bool },
}

/// Finds the events in the bytes that pass.
///
/// Reads in place. Allocates only while an event is split between two calls: little more than the first KiB of
/// the split line and of each value. Bytes beyond that are not read, so a NUL there does not make an `id`
/// invalid.
///
/// ```
/// use sse_guard::wire::Scanner;
///
/// let mut names = Vec::new();
/// Scanner::default().scan(b"event: ping\ndata\n\n: comment\n\ndata: x\n\n", |event| {
///     names.push((event.name.map(<[u8]>::to_vec), event.has_data));
/// });
/// assert_eq!(names, [(Some(b"ping".to_vec()), true), (None, false), (None, true)]);
/// ```
#[derive(Debug, Default)]
pub struct Scanner {
    /// The start of the stream, with or without a byte order mark, is passed.
    started: bool,
    /// Bytes of a byte order mark so far.
    mark: u8,
    is_after_cr: bool,
    cut: Option<Box<IncompleteEvent>>,
}

/// The fields of an incomplete event.
#[derive(Debug, Default)]
struct IncompleteEvent {
    line: Vec<u8>,
    id: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    retry: Option<Vec<u8>>,
    has_data: bool,
}

/// The fields of the lines so far.
#[derive(Clone, Copy, Default)]
struct Fields<'a> {
    id: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    retry: Option<&'a [u8]>,
    has_data: bool,
}

impl<'a> Fields<'a> {
    fn has_something(&self) -> bool {
        self.has_data || self.name.is_some() || self.id.is_some() || self.retry.is_some()
    }

    fn take(&mut self, line: &'a [u8]) {
        match line {
            [b'd', b'a', b't', b'a', rest @ ..] if value(rest).is_some() => self.has_data = true,
            [b'e', b'v', b'e', b'n', b't', rest @ ..] => self.name = value(rest).or(self.name),
            [b'i', b'd', rest @ ..] => {
                let id = value(rest).filter(|id| !id.contains(&0));
                self.id = id.or(self.id);
            }
            [b'r', b'e', b't', b'r', b'y', rest @ ..] => self.retry = value(rest).or(self.retry),
            _ => {}
        }
    }
}

/// The value of a field, given the bytes after its name; `None` if the name is longer.
fn value(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// The length of the first line, if its end is there.
fn line_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        // In most streams every other line is blank.
        [b'\r' | b'\n', ..] => Some(0),
        _ => memchr2(b'\r', b'\n', bytes),
    }
}

impl Scanner {
    /// Whether an event is incomplete.
    pub(crate) fn is_inside(&self) -> bool {
        self.cut.is_some()
    }

    /// Its last complete `id` field.
    pub(crate) fn id_so_far(&self) -> Option<&[u8]> {
        self.cut.as_ref()?.id.as_deref()
    }

    /// Calls `found` for each event that ends in `bytes`, which follow those of the last call.
    pub fn scan(&mut self, bytes: &[u8], mut found: impl FnMut(RawEvent<'_>)) {
        self.scan_parts(bytes, |seen| {
            if let Scanned::Event(event) = seen {
                found(event);
            }
        });
    }

    /// As [`scan`](Self::scan), with the parts of split events.
    pub(crate) fn scan_parts(&mut self, bytes: &[u8], mut seen: impl FnMut(Scanned<'_>)) {
        // Decides neither about a mark nor about the LF after a CR.
        if bytes.is_empty() {
            return;
        }
        let mut rest = bytes;
        if !self.started {
            let Some(behind) = self.after_mark(rest) else {
                return;
            };
            rest = behind;
        }
        if std::mem::take(&mut self.is_after_cr) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        let cut = self.cut.take();
        let mut kept_line = &[][..];
        let mut fields = Fields::default();
        let joined;
        if let Some(cut) = &cut {
            fields = Fields {
                id: cut.id.as_deref(),
                name: cut.name.as_deref(),
                retry: cut.retry.as_deref(),
                has_data: cut.has_data,
            };
            kept_line = &cut.line;
        }
        let mut event = rest;
        let mut is_first = cut.is_none();
        if !kept_line.is_empty() {
            let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let mut line = kept_line.to_vec();
            line.extend_from_slice(&rest[..end.min(MAX_KEPT.saturating_sub(line.len()))]);
            joined = line;
            if end == rest.len() {
                seen(Scanned::Part {
                    bytes: rest,
                    is_first: false,
                });
                self.keep(fields, &joined);
                return;
            }
            fields.take(&joined);
            rest = self.after_line_end(&rest[end..]);
        }
        while let Some(end) = line_len(rest) {
            let line = &rest[..end];
            rest = self.after_line_end(&rest[end..]);
            if line.is_empty() {
                seen(Scanned::Event(RawEvent {
                    raw: &event[..event.len() - rest.len()],
                    id: fields.id,
                    name: fields.name,
                    retry: fields.retry,
                    has_data: fields.has_data,
                }));
                is_first = true;
                fields = Fields::default();
                event = rest;
            } else {
                fields.take(line);
            }
        }
        if !event.is_empty() {
            seen(Scanned::Part {
                bytes: event,
                is_first,
            });
        }
        if !event.is_empty() || fields.has_something() {
            self.keep(fields, &rest[..rest.len().min(MAX_KEPT)]);
        }
    }

    /// The bytes after the byte order mark, if there is one; `None` while it is incomplete.
    fn after_mark<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (came, missing) = BOM.split_at(self.mark.into());
        if bytes.len() < missing.len() && missing.starts_with(bytes) {
            // At most three bytes.
            self.mark += bytes.len() as u8;
            return None;
        }
        self.started = true;
        let behind = bytes.strip_prefix(missing);
        if behind.is_none() && !came.is_empty() {
            // The bytes were the start of the first line.
            self.cut = Some(Box::new(IncompleteEvent {
                line: came.to_vec(),
                ..IncompleteEvent::default()
            }));
        }
        Some(behind.unwrap_or(bytes))
    }

    /// The bytes after the line end with which `at` starts.
    fn after_line_end<'a>(&mut self, at: &'a [u8]) -> &'a [u8] {
        match at {
            [b'\r', b'\n', rest @ ..] => rest,
            [b'\r'] => {
                self.is_after_cr = true;
                &[]
            }
            _ => &at[1..],
        }
    }

    fn keep(&mut self, fields: Fields<'_>, line: &[u8]) {
        let short = |value: &[u8]| value[..value.len().min(MAX_KEPT)].to_vec();
        // Comments leave no state.
        if line.is_empty() && !fields.has_something() {
            return;
        }
        self.cut = Some(Box::new(IncompleteEvent {
            line: line.to_vec(),
            id: fields.id.map(short),
            name: fields.name.map(short),
            retry: fields.retry.map(short),
            has_data: fields.has_data,
        }));
    }
}
