//! The readings of a path: by which route it goes, and in which spelling.
//!
//! A proxy and the server behind it read one path, each in its own way. Where they differ, a request
//! is counted by one route and served as another. [`resolve`] chooses the route by the normalized
//! path, computes what other servers make of the spelling that is forwarded, and refuses it if one
//! of them would be of another route, or above the root.

use std::borrow::Cow;
use std::fmt::Write as _;

/// All readings of a longer path would cost more than its request. RFC 9112 section 3 asks for 8,000
/// bytes of a request line.
const MAX_RESOLVED: usize = 8 * 1024;

/// Why a path has no one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPath {
    #[error("the path has an encoded NUL")]
    Nul,
    #[error(
        "the path has escapes, parameters or segments to resolve, and more than {MAX_RESOLVED} bytes"
    )]
    TooLong,
    #[error("the path leads above its root")]
    AboveRoot,
    #[error(
        "the path leads to another route if its dot segments, empty segments, encoded slashes or \
         parameters are resolved: send it without them"
    )]
    Ambiguous,
}

/// How the path of a request is taken: the values of `path.normalize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Routes match the normalized path, and the client's spelling is forwarded.
    Match,
    /// Routes match the normalized path, which is forwarded.
    Rewrite,
    /// Routes match the client's spelling, which is forwarded.
    Off,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved<'p, R> {
    /// What `route_of` made of it.
    pub(super) route: R,
    /// What the upstream gets.
    pub(super) path: Cow<'p, str>,
}

/// Finds the route of `path`, whose percent signs all stand before two hexadecimal digits.
///
/// `is_bounded` tells whether the upstream of a route serves us a part of its paths alone.
pub(super) fn resolve<R: PartialEq>(
    path: &str,
    normalize: Normalize,
    route_of: impl Fn(&str) -> R,
    is_bounded: impl Fn(&R) -> bool,
) -> Result<Resolved<'_, R>, BadPath> {
    if is_plain(path) {
        let (route, path) = (route_of(path), path.into());
        return Ok(Resolved { route, path });
    }
    if path.len() > MAX_RESOLVED {
        return Err(BadPath::TooLong);
    }
    if normalize == Normalize::Off {
        let (route, spelling) = (route_of(path), path.into());
        if is_bounded(&route) {
            for reading in Reading::all_of(path) {
                reading.of(path)?;
            }
        }
        return Ok(Resolved {
            route,
            path: spelling,
        });
    }
    // C code ends a string there.
    if path.contains("%00") {
        return Err(BadPath::Nul);
    }
    let normalized = Reading::NORMALIZED.of(path)?;
    let route = route_of(&normalized);
    let mut forwarded = match normalize {
        Normalize::Rewrite => Cow::Owned(normalized),
        _ => Cow::Borrowed(path),
    };
    for reading in Reading::all_of(&forwarded) {
        if route_of(&reading.of(&forwarded)?) != route {
            return Err(BadPath::Ambiguous);
        }
    }
    // A server that compares what it gets byte by byte. To decode unreserved characters changes
    // nothing of what a URI means (RFC 3986 section 6.2.2.2).
    if route_of(&forwarded) != route {
        forwarded = decode(path, false).into();
    }
    Ok(Resolved {
        route,
        path: forwarded,
    })
}

/// The spelling of a route's path that normalized paths are compared with: what a request cannot
/// have as it is percent-encoded, unreserved characters decoded, other escapes in upper case.
pub(super) fn pattern(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte.is_ascii() {
            true => encoded.push(byte.into()),
            // Writing to a string does not fail.
            false => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    decode(&encoded, false)
}

/// Whether no normalized path is spelt so, as one of its segments is empty or made of dots.
pub(super) fn is_never_normalized(path: &str) -> bool {
    let (start, last) = path.rsplit_once('/').unwrap_or(("", path));
    let mut others = start.split('/').skip(1);
    is_dots(last) || others.any(|segment| segment.is_empty() || is_dots(segment))
}

/// Whether some server would resolve a part of the path.
pub(super) fn has_dot_segments(path: &str) -> bool {
    decode(path, true).split('/').any(is_dots)
}

/// Whether all servers read it alike, as far as is known.
fn is_plain(path: &str) -> bool {
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let is_empty = segment.is_empty() && !is_last;
        if is_empty || is_dots(segment) || segment.contains(['%', ';']) {
            return false;
        }
    }
    true
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// What a server makes of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Segments {
    /// Leaves them as they are: many frameworks.
    Kept,
    /// Removes dot segments alone, and takes an empty segment for one: RFC 3986 section 5.2.4.
    DotsRemoved,
    /// Merges slashes alone.
    Merged,
    /// The first two of these, one after the other.
    DotsRemovedThenMerged,
    MergedThenDotsRemoved,
}

/// One way to read a path.
#[derive(Clone, Copy, Debug)]
struct Reading {
    segments: Segments,
    /// Takes `%2F`, `%5C` and so a backslash for a slash.
    decodes_slashes: bool,
    /// Drops what follows a semicolon in each segment, as servlet containers do.
    drops_parameters: bool,
}

impl Reading {
    const NORMALIZED: Self = Self {
        segments: Segments::MergedThenDotsRemoved,
        decodes_slashes: false,
        drops_parameters: false,
    };

    fn all() -> impl Iterator<Item = Self> {
        let segments = [
            Segments::Kept,
            Segments::DotsRemoved,
            Segments::Merged,
            Segments::DotsRemovedThenMerged,
            Segments::MergedThenDotsRemoved,
        ];
        segments.into_iter().flat_map(|segments| {
            let flags = [(false, false), (false, true), (true, false), (true, true)];
            flags.map(|(decodes_slashes, drops_parameters)| Self {
                segments,
                decodes_slashes,
                drops_parameters,
            })
        })
    }

    /// Those that may differ for this path.
    fn all_of(path: &str) -> impl Iterator<Item = Self> + use<> {
        let mut escapes = path.split('%').skip(1);
        let has_slashes = escapes.any(|rest| {
            let digits = rest.get(..2).unwrap_or_default();
            digits.eq_ignore_ascii_case("2f") || digits.eq_ignore_ascii_case("5c")
        });
        let has_parameters = path.contains(';');
        Self::all().filter(move |reading| {
            (has_slashes || !reading.decodes_slashes)
                && (has_parameters || !reading.drops_parameters)
        })
    }

    /// The path as such a server resolves it.
    fn of(self, path: &str) -> Result<String, BadPath> {
        let decoded = decode(path, self.decodes_slashes);
        let mut segments: Vec<&str> = decoded.split('/').skip(1).collect();
        if self.drops_parameters {
            for segment in &mut segments {
                *segment = segment.split(';').next().unwrap_or_default();
            }
        }
        match self.segments {
            Segments::Kept => {}
            Segments::DotsRemoved => segments = without_dots(&segments)?,
            Segments::Merged => segments = merged(&segments),
            Segments::DotsRemovedThenMerged => segments = merged(&without_dots(&segments)?),
            Segments::MergedThenDotsRemoved => segments = without_dots(&merged(&segments))?,
        }
        let mut path = String::with_capacity(decoded.len());
        for segment in segments {
            path.push('/');
            path.push_str(segment);
        }
        Ok(path)
    }
}

/// Without empty segments, but for the one behind the last slash.
fn merged<'s>(segments: &[&'s str]) -> Vec<&'s str> {
    let Some((&last, others)) = segments.split_last() else {
        return Vec::new();
    };
    let others = others.iter().copied();
    let mut merged: Vec<_> = others.filter(|segment| !segment.is_empty()).collect();
    merged.push(last);
    merged
}

/// Fails where `..` has nothing to go back to.
fn without_dots<'s>(segments: &[&'s str]) -> Result<Vec<&'s str>, BadPath> {
    let mut resolved = Vec::with_capacity(segments.len());
    for (index, &segment) in segments.iter().enumerate() {
        match segment {
            "." => {}
            ".." => drop(resolved.pop().ok_or(BadPath::AboveRoot)?),
            _ => resolved.push(segment),
        }
        // `/a/..` is the folder, with its slash at the end.
        if is_dots(segment) && index + 1 == segments.len() {
            resolved.push("");
        }
    }
    Ok(resolved)
}

/// Decodes unreserved characters (RFC 3986 section 2.3), perhaps slashes and backslashes too, and
/// spells what stays encoded in upper case.
fn decode(path: &str, slashes: bool) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escape)) = rest.split_once('%') {
        decoded.push_str(before);
        let (digits, behind) = escape.split_at_checked(2).unwrap_or((escape, ""));
        rest = behind;
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                decoded.push(byte.into());
            }
            Ok(b'/' | b'\\') if slashes => decoded.push('/'),
            _ => {
                decoded.push('%');
                decoded.push_str(&digits.to_ascii_uppercase());
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests;
