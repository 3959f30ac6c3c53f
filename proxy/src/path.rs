//! Path normalization: which route a path matches, and in which spelling it is forwarded.
//!
//! A proxy and the server behind it read one path, each in its own way. Where they differ, a request
//! is counted by one route and served as another. [`resolve`] chooses the route by the normalized
//! path, computes what other servers make of the spelling that is forwarded, and refuses it if one
//! of them would be of another route, or above the root.

use super::percent::{encode_raw, push_escape};
use std::borrow::Cow;

/// Computing all readings of a longer path would cost more than its request. RFC 9112 section 3
/// requires 8,000 bytes of a request line.
const MAX_RESOLVED: usize = 8 * 1024;

/// Why a path is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("the path has an encoded NUL")]
    Nul,
    #[error(
        "the path has escapes, parameters or segments to resolve, and more than {MAX_RESOLVED} bytes"
    )]
    TooLong,
    #[error("the path leads above its root")]
    AboveRoot,
    #[error(
        "the path leads to another route if its dot segments, empty segments, escapes or \
         parameters are resolved: send it without them"
    )]
    Ambiguous,
}

/// The values of `path.normalize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalize {
    /// Routes match the normalized path, and the client's spelling is forwarded.
    Match,
    /// Routes match the normalized path, which is forwarded.
    Rewrite,
    /// Routes match the client's spelling, which is forwarded.
    Off,
}

/// The route of a path, and the path to forward.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResolvedPath<'p, R> {
    /// What `route_of` made of it.
    pub(super) route: R,
    /// What the upstream gets.
    pub(super) path: Cow<'p, str>,
}

/// Finds the route of `path`, whose percent signs all stand before two hexadecimal digits.
///
/// `is_bounded`: whether the upstream of a route is limited to a base path.
pub(super) fn resolve<R: PartialEq>(
    path: &str,
    normalize: Normalize,
    route_of: impl Fn(&str) -> R,
    is_bounded: impl Fn(&R) -> bool,
) -> Result<ResolvedPath<'_, R>, PathError> {
    if is_plain(path) {
        let (route, path) = (route_of(path), path.into());
        return Ok(ResolvedPath { route, path });
    }
    if path.len() > MAX_RESOLVED {
        return Err(PathError::TooLong);
    }
    if normalize == Normalize::Off {
        let (route, spelling) = (route_of(path), path.into());
        if is_bounded(&route) {
            // Behind a base path no target begins with two slashes.
            let readings = Interpretation::all_of(path).filter(|reading| !reading.drops_authority);
            each(path, readings, |_| Ok(()))?;
        }
        return Ok(ResolvedPath {
            route,
            path: spelling,
        });
    }
    // C code ends a string there.
    if path.contains("%00") {
        return Err(PathError::Nul);
    }
    let normalized = Interpretation::NORMALIZED.of(path)?;
    let route = route_of(&normalized);
    let mut forwarded = match normalize {
        Normalize::Rewrite => Cow::Owned(normalized),
        _ => Cow::Borrowed(path),
    };
    each(
        &forwarded,
        Interpretation::all_of(&forwarded),
        |reading| match route_of(reading) == route {
            true => Ok(()),
            false => Err(PathError::Ambiguous),
        },
    )?;
    // A server that decodes nothing ahead of its routes, and may resolve or merge segments. To decode unreserved
    // characters changes nothing of what a URI means (RFC 3986 section 6.2.2.2).
    let agrees = |segments: SegmentRule| {
        let undecoded = segments.of(&forwarded);
        undecoded.is_ok_and(|undecoded| route_of(&undecoded) == route)
    };
    if !SegmentRule::ALL.into_iter().all(agrees) {
        forwarded = decode(path, EscapeRule::Unreserved).into();
    }
    Ok(ResolvedPath {
        route,
        path: forwarded,
    })
}

/// The spelling of a route's path that paths of requests are compared with: what a request cannot
/// have as it is percent-encoded, other escapes decoded.
///
/// Servers decode both `:` and `%3A` to a colon. So a route has both in one spelling, the decoded one, and
/// a request that escapes it is ambiguous. In a glob a decoded character is never a wildcard.
pub(super) fn pattern(path: &str, is_glob: bool) -> String {
    let encoded = match is_glob {
        // Those that mean something in a glob; the caret does at the start of a class.
        true => path
            .split("[^")
            .map(|part| encode_raw(part, b"{}\\"))
            .collect::<Vec<_>>()
            .join("[^")
            .into(),
        false => encode_raw(path, b""),
    };
    decode_with(&encoded, |byte, pattern| {
        match EscapeRule::Characters.decoded(byte) {
            Some(byte) => {
                if is_glob && RESERVED.contains(&byte) {
                    pattern.push('\\');
                }
                pattern.push(byte.into());
            }
            None => push_escape(pattern, byte),
        }
    })
}

/// Whether no normalized path is spelt so, as one of its segments is empty or made of dots.
pub(super) fn is_never_normalized(path: &str) -> bool {
    let (start, last) = path.rsplit_once('/').unwrap_or(("", path));
    let mut others = start.split('/').skip(1);
    is_dots(last) || others.any(|segment| segment.is_empty() || is_dots(segment))
}

/// Whether some server would resolve a part of the path.
pub(super) fn has_dot_segments(path: &str) -> bool {
    decode(path, EscapeRule::Slashes).split('/').any(is_dots)
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
enum SegmentRule {
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

impl SegmentRule {
    const ALL: [Self; 5] = [
        Self::Kept,
        Self::DotsRemoved,
        Self::Merged,
        Self::DotsRemovedThenMerged,
        Self::MergedThenDotsRemoved,
    ];

    fn of(self, path: &str) -> Result<String, PathError> {
        let mut segments: Vec<&str> = path.split('/').skip(1).collect();
        match self {
            Self::Kept => {}
            Self::DotsRemoved => segments = without_dots(&segments)?,
            Self::Merged => segments = merged(&segments),
            Self::DotsRemovedThenMerged => segments = merged(&without_dots(&segments)?),
            Self::MergedThenDotsRemoved => segments = without_dots(&merged(&segments))?,
        }
        let mut resolved = String::with_capacity(path.len());
        for segment in segments {
            resolved.push('/');
            resolved.push_str(segment);
        }
        Ok(resolved)
    }
}

/// Which escapes a server decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EscapeRule {
    /// Those of unreserved characters, which do not change what a URI means.
    Unreserved,
    /// Also `%2F` and `%5C`, and so a backslash, as slashes.
    Slashes,
    /// All but slashes: frameworks that split the path first.
    Characters,
    /// All: nginx, WSGI, servlet containers.
    All,
}

impl EscapeRule {
    const ALL: [Self; 4] = [Self::Unreserved, Self::Slashes, Self::Characters, Self::All];

    fn with_slashes(self) -> bool {
        matches!(self, Self::Slashes | Self::All)
    }

    fn with_characters(self) -> bool {
        matches!(self, Self::Characters | Self::All)
    }

    /// What the escape of this byte becomes. What cannot stand in a path unescaped stays escaped, so
    /// that a decoded path compares with the pattern of a route.
    fn decoded(self, byte: u8) -> Option<u8> {
        match byte {
            b'/' | b'\\' if self.with_slashes() => Some(b'/'),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => Some(byte),
            byte if self.with_characters() && RESERVED.contains(&byte) => Some(byte),
            _ => None,
        }
    }
}

/// What stands in a path both escaped and unescaped: RFC 3986 section 3.3, and `[ ]`, which browsers
/// send as they are.
const RESERVED: &[u8] = b"!$&'()*+,;=:@[]";

/// Whether a server drops what follows a semicolon in each segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParameterRule {
    Kept,
    /// As servlet containers do.
    Dropped,
    /// The next one does, after a proxy that forwards `%3B` as a semicolon.
    DroppedOnceDecoded,
}

impl ParameterRule {
    const ALL: [Self; 3] = [Self::Kept, Self::Dropped, Self::DroppedOnceDecoded];
}

/// One way to read a path.
#[derive(Clone, Copy, Debug)]
struct Interpretation {
    /// Takes what follows two or more slashes for a host: URL parsers resolve a target such as
    /// `//host/path` as a reference, RFC 3986 section 4.2.
    drops_authority: bool,
    escapes: EscapeRule,
    parameters: ParameterRule,
    segments: SegmentRule,
}

impl Interpretation {
    const NORMALIZED: Self = Self {
        drops_authority: false,
        escapes: EscapeRule::Unreserved,
        parameters: ParameterRule::Kept,
        segments: SegmentRule::MergedThenDotsRemoved,
    };

    fn all() -> impl Iterator<Item = Self> {
        let authorities = [false, true].into_iter();
        let readings = authorities.flat_map(|drops_authority| {
            let escapes = EscapeRule::ALL.into_iter();
            escapes.flat_map(move |escapes| {
                let parameters = ParameterRule::ALL.into_iter();
                parameters.flat_map(move |parameters| {
                    SegmentRule::ALL.map(|segments| Self {
                        drops_authority,
                        escapes,
                        parameters,
                        segments,
                    })
                })
            })
        });
        readings.filter(|reading| !reading.drops_authority || reading.is_of_a_url_parser())
    }

    /// Each reading costs time: URL parsers know no parameters, and decode slashes with the rest.
    fn is_of_a_url_parser(&self) -> bool {
        self.parameters == ParameterRule::Kept
            && matches!(self.escapes, EscapeRule::Unreserved | EscapeRule::All)
    }

    /// Those that may differ for this path.
    fn all_of(path: &str) -> impl Iterator<Item = Self> + use<> {
        let escaped = || {
            let digits = path.split('%').skip(1).filter_map(|rest| rest.get(..2));
            digits.filter_map(|digits| u8::from_str_radix(digits, 16).ok())
        };
        let has_authority = path.starts_with("//");
        let has_slashes = escaped().any(|byte| matches!(byte, b'/' | b'\\'));
        let has_reserved = escaped().any(|byte| RESERVED.contains(&byte));
        let has_parameters = path.contains(';');
        // If slashes are decoded, a parameter ends elsewhere.
        let has_later_parameters =
            escaped().any(|byte| byte == b';') || (has_parameters && has_slashes);
        Self::all().filter(move |reading| {
            (has_authority || !reading.drops_authority)
                && match reading.escapes {
                    EscapeRule::Unreserved => true,
                    EscapeRule::Slashes => has_slashes,
                    EscapeRule::Characters => has_reserved,
                    EscapeRule::All if reading.drops_authority => has_slashes || has_reserved,
                    // Without one of them, it is one of the two above.
                    EscapeRule::All => has_slashes && has_reserved,
                }
                && match reading.parameters {
                    ParameterRule::Kept => true,
                    ParameterRule::Dropped => has_parameters,
                    ParameterRule::DroppedOnceDecoded => has_later_parameters,
                }
        })
    }

    /// The path as such a server resolves it.
    fn of(self, path: &str) -> Result<String, PathError> {
        self.segments.of(&self.spelled(path))
    }

    /// The path ahead of its segments.
    fn spelled(self, path: &str) -> String {
        let path = match path.starts_with("//") && self.drops_authority {
            true => without_authority(path),
            false => path,
        };
        match self.parameters {
            ParameterRule::Dropped => decode(&without_parameters(path), self.escapes),
            ParameterRule::Kept => decode(path, self.escapes),
            ParameterRule::DroppedOnceDecoded => without_parameters(&decode(path, self.escapes)),
        }
    }
}

/// Calls `visit` with what each of these readings makes of `path`. Readings that differ in their
/// segments alone follow one another, and share their spelling; one spelling is visited once.
fn each(
    path: &str,
    readings: impl Iterator<Item = Interpretation>,
    mut visit: impl FnMut(&str) -> Result<(), PathError>,
) -> Result<(), PathError> {
    let mut spellings: Vec<String> = Vec::new();
    let mut is_new = false;
    for reading in readings {
        if reading.segments == SegmentRule::ALL[0] {
            let spelling = reading.spelled(path);
            is_new = !spellings.contains(&spelling);
            if is_new {
                spellings.push(spelling);
            }
        }
        if let (Some(spelling), true) = (spellings.last(), is_new) {
            visit(&reading.segments.of(spelling)?)?;
        }
    }
    Ok(())
}

/// Without the first segment that is not empty. The URL standard skips any number of slashes before a
/// host.
fn without_authority(path: &str) -> &str {
    let reference = path.trim_start_matches('/');
    let slash = reference.find('/');
    slash.map_or("/", |slash| &reference[slash..])
}

fn without_parameters(path: &str) -> String {
    let mut dropped = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        dropped.push('/');
        dropped.push_str(segment.split(';').next().unwrap_or_default());
    }
    dropped
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
fn without_dots<'s>(segments: &[&'s str]) -> Result<Vec<&'s str>, PathError> {
    let mut resolved = Vec::with_capacity(segments.len());
    for (index, &segment) in segments.iter().enumerate() {
        match segment {
            "." => {}
            ".." => drop(resolved.pop().ok_or(PathError::AboveRoot)?),
            _ => resolved.push(segment),
        }
        // `/a/..` is the folder, with its slash at the end.
        if is_dots(segment) && index + 1 == segments.len() {
            resolved.push("");
        }
    }
    Ok(resolved)
}

/// Decodes escapes once, and spells those that stay in upper case.
fn decode(path: &str, escapes: EscapeRule) -> String {
    decode_with(path, |byte, decoded| match escapes.decoded(byte) {
        Some(byte) => decoded.push(byte.into()),
        None => push_escape(decoded, byte),
    })
}

/// Replaces each escape by what `push` makes of its byte.
fn decode_with(path: &str, push: impl Fn(u8, &mut String)) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escape)) = rest.split_once('%') {
        decoded.push_str(before);
        let (digits, behind) = escape.split_at_checked(2).unwrap_or((escape, ""));
        rest = behind;
        match u8::from_str_radix(digits, 16) {
            Ok(byte) => push(byte, &mut decoded),
            Err(_) => {
                decoded.push('%');
                decoded.push_str(digits);
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests;
