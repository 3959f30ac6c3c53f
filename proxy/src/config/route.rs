//! Path patterns of routes.

use std::fmt;

use super::super::path;
use globset::{GlobBuilder, GlobMatcher};

/// The path pattern of a route: a prefix of whole segments, or a glob.
///
/// - `/v1` and `/v1/` are one prefix: they match `/v1`, `/v1/` and `/v1/chat`, but not `/v1x`.
///   `/` matches every path.
/// - A path with any of `*?[{` is a glob and matches a path as a whole: `*` and `?` stay within a
///   segment, `**` goes over any number of them. A slash at the end of the path or the glob makes no
///   difference.
///
/// Requests are compared by their normalized path: unreserved characters decoded, other escapes in
/// upper case, empty and dot segments removed. Case counts. Escapes in the path of the route are
/// decoded: `/models%3Aask` and `/models:ask` are one route. See `path.normalize`.
#[derive(Clone, Debug)]
pub struct RoutePath {
    text: String,
    matcher: Matcher,
}

/// The path of the route that matches everything.
pub(super) const EVERYTHING: &str = "/";

#[derive(Clone, Debug)]
enum Matcher {
    /// Without the slash at the end, so that `/` is the empty prefix.
    Prefix(String),
    /// Without the slash at the end.
    Glob {
        whole: GlobMatcher,
        /// Of `/v1/*` and `/v1/**`, which match `/v1/`: `/v1`, which is the same path.
        folder: Option<GlobMatcher>,
    },
}

fn glob(pattern: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| format!("is not a valid glob: {}", error.kind()))?;
    Ok(glob.compile_matcher())
}

impl RoutePath {
    /// Parses a path of a `[[route]]`.
    ///
    /// # Errors
    ///
    /// Why it is not one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("a path begins with a slash; write one such as \"/v1\"".to_owned());
        }
        if text.contains(|c: char| c == '#' || c.is_whitespace() || c.is_control()) {
            return Err("a path cannot have spaces, control characters or a fragment".to_owned());
        }
        if path::is_never_normalized(text) {
            return Err(
                "a path cannot have empty segments or dot segments, because requests are matched \
                 without them"
                    .to_owned(),
            );
        }
        if !has_whole_escapes(text) {
            return Err(
                "a percent sign must be followed by two hexadecimal digits; write %25 for the sign \
                 itself"
                    .to_owned(),
            );
        }
        let is_glob = text.contains(['*', '?', '[', '{']);
        let pattern = path::pattern(text, is_glob);
        let pattern = pattern.strip_suffix('/').unwrap_or(&pattern);
        let matcher = if is_glob {
            let folder = match pattern.rsplit_once('/') {
                Some((folder, "*" | "**")) => Some(glob(folder)?),
                _ => None,
            };
            Matcher::Glob {
                whole: glob(pattern)?,
                folder,
            }
        } else {
            Matcher::Prefix(pattern.to_owned())
        };
        Ok(Self {
            text: text.to_owned(),
            matcher,
        })
    }

    /// The path that matches everything, of the implicit last route.
    pub(super) fn everything() -> Self {
        Self {
            text: EVERYTHING.to_owned(),
            matcher: Matcher::Prefix(String::new()),
        }
    }

    /// Whether a request for this path (without its query) belongs to the route.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty()),
            // Many servers serve a path with and without a slash at its end alike.
            Matcher::Glob { whole, folder } => {
                let path = path.trim_end_matches('/');
                let folder = folder.as_ref();
                whole.is_match(path) || folder.is_some_and(|folder| folder.is_match(path))
            }
        }
    }

    /// The path as the config file spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this route matches every path of `later`; `false` if that is uncertain.
    pub(super) fn shadows(&self, later: &Self) -> bool {
        if let (Matcher::Glob { whole: first, .. }, Matcher::Glob { whole: later, .. }) =
            (&self.matcher, &later.matcher)
            && first.glob() == later.glob()
        {
            return true;
        }
        // It takes what is below each path that it takes.
        let takes_all_below = match &self.matcher {
            Matcher::Prefix(_) => true,
            Matcher::Glob { whole, .. } => whole.glob().glob().ends_with("/**"),
        };
        takes_all_below
            && match &later.matcher {
                Matcher::Prefix(prefix) => self.matches(prefix),
                Matcher::Glob { .. } => {
                    self.matches(&path::pattern(later.literal_segments(), false))
                }
            }
    }

    /// The segments of a glob that stand before the first wildcard.
    fn literal_segments(&self) -> &str {
        let end = self
            .text
            .find(['*', '?', '[', '{', '\\'])
            .unwrap_or(self.text.len());
        self.text[..end]
            .rsplit_once('/')
            .map_or("", |(segments, _)| segments)
    }
}

fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

impl PartialEq for RoutePath {
    fn eq(&self, other: &Self) -> bool {
        // The matcher is a function of the text.
        self.text == other.text
    }
}

impl Eq for RoutePath {}

impl fmt::Display for RoutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RoutePath {
        RoutePath::parse(text).unwrap()
    }

    #[test]
    fn paths_match_whole_segments() {
        let cases = [
            ("/v1", "/v1", true),
            ("/v1", "/v1/", true),
            ("/v1", "/v1/chat", true),
            ("/v1", "/v1x", false),
            ("/v1", "/", false),
            ("/v1/", "/v1", true),
            ("/v1/", "/v1/chat", true),
            ("/v1/", "/v1x", false),
            ("/", "/", true),
            ("/", "/anything/at/all", true),
            ("/", "*", true),
            ("/*/events", "/a/events", true),
            ("/*/events", "/a/b/events", false),
            ("/*/events", "/a/events/x", false),
            ("/v1/**", "/v1/a/b", true),
            ("/v1/**", "/v2/a", false),
            // A slash at the end makes no other path.
            ("/v1/*/events", "/v1/a/events/", true),
            ("/v1/*/events", "/v1/a/events//", true),
            ("/v1/*/events", "/v1/a/events/x", false),
            ("/v1/*/events/", "/v1/a/events", true),
            ("/v1/*/events/", "/v1/a/events/", true),
            ("/v1/*", "/v1", true),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1/a/", true),
            ("/v1/*", "/v1/a/b/", false),
            ("/v1/**", "/v1", true),
            ("/v1/**", "/v1/", true),
            ("/v1/**", "/v1/a/", true),
            ("/*", "/", true),
            ("/**", "/", true),
            // An escape is the same as its character, but never a wildcard.
            ("/m%3aask", "/m:ask", true),
            ("/m%3Aask/*", "/m:ask/x", true),
            ("/a%2ab", "/a*b", true),
            ("/a%2ab", "/axb", false),
            ("/a%2ab/*", "/a*b/x", true),
            ("/a%2ab/*", "/axb/x", false),
            ("/{a%2Cb,c}", "/a,b", true),
            ("/{a%2Cb,c}", "/a", false),
            ("/%5bx%5d", "/[x]", true),
            ("/a%20b%3f%25", "/a%20b%3F%25", true),
            ("/{a,b}/x", "/b/x", true),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/%61%2f", "/a%2F/b", true),
            ("/caf\u{e9}", "/caf%C3%A9", true),
            ("/caf\u{e9}/*", "/caf%C3%A9/x", true),
            // What RFC 3986 does not allow raw has one spelling, the escape.
            ("/a|b", "/a%7Cb", true),
            ("/a%7cb", "/a%7Cb", true),
            ("/a\"b/*", "/a%22b/x", true),
            ("/a\\b", "/a%5Cb", true),
            ("/[^a]|b", "/x%7Cb", true),
            ("/[^a]|b", "/a%7Cb", false),
        ];
        for (route, request, matches) in cases {
            assert_eq!(path(route).matches(request), matches, "{route} {request}");
        }
    }

    #[test]
    fn path_that_can_match_nothing_is_a_mistake() {
        for text in [
            "", "v1", "/a b", "/a#b", "/a\n", "/{a", "/[z-a]", "//a", "/a//b", "/./a", "/a/..",
            "/a%", "/a%4g",
        ] {
            assert!(RoutePath::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn route_shadows_narrower_routes_after_it() {
        let cases = [
            ("/v1", "/v1/chat", true),
            ("/v1", "/v1/", true),
            ("/v1/chat", "/v1", false),
            ("/v1", "/v1x", false),
            ("/v1", "/v1/*/x", true),
            ("/v1", "/v1*", false),
            ("/caf\u{e9}", "/caf\u{e9}/*", true),
            ("/", "/*/x", true),
            ("/**", "/v1", true),
            ("/*/x", "/*/x", true),
            ("/*/x", "/a/x", false),
            ("/%61/*", "/a/*/", true),
            ("/v1/*", "/v1/a", false),
            ("/v1/**", "/v1", true),
            ("/v1/**", "/v1/chat", true),
            ("/v1/**", "/v1/*/x", true),
            ("/v1/**", "/v1x", false),
            ("/v1/**", "/*/x", false),
            ("/*/a/**", "/v1/a/b", true),
            ("/{v1,v2}/**", "/v2/x", true),
            ("/**", "/", true),
            ("/**", "/*", true),
        ];
        for (first, later, shadows) in cases {
            assert_eq!(
                path(first).shadows(&path(later)),
                shadows,
                "{first} {later}"
            );
        }
    }
}
