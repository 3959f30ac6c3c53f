use super::*;
use Normalize::{Match, Off, Rewrite};
use proptest::prelude::*;

/// The longest of these that is a prefix of whole segments.
fn route_of(path: &str) -> &'static str {
    let is_prefix = |route: &str| {
        path.strip_prefix(route)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let routes = ["/admin", "/files", "/caf%C3%A9", "/m:ask"];
    routes
        .into_iter()
        .find(|route| is_prefix(route))
        .unwrap_or("/")
}

fn resolved(path: &str, normalize: Normalize) -> Result<(&'static str, String), PathError> {
    let resolved = resolve(path, normalize, route_of, |_| true)?;
    Ok((resolved.route, resolved.path.into_owned()))
}

#[test]
fn path_has_one_route_or_is_refused() {
    use PathError::{AboveRoot, Ambiguous, Nul};
    let to = |route, path: &str| Ok((route, path.to_owned()));
    for (path, matched, rewritten) in [
        // What all servers read alike.
        ("/admin", to("/admin", "/admin"), to("/admin", "/admin")),
        ("/admin/", to("/admin", "/admin/"), to("/admin", "/admin/")),
        ("/ADMIN", to("/", "/ADMIN"), to("/", "/ADMIN")),
        (
            "/administer",
            to("/", "/administer"),
            to("/", "/administer"),
        ),
        ("/", to("/", "/"), to("/", "/")),
        (
            "/.well-known/x",
            to("/", "/.well-known/x"),
            to("/", "/.well-known/x"),
        ),
        ("/...", to("/", "/..."), to("/", "/...")),
        // Escapes of unreserved characters mean nothing.
        ("/%61dmin", to("/admin", "/admin"), to("/admin", "/admin")),
        ("/adm%49n", to("/", "/adm%49n"), to("/", "/admIn")),
        ("/admin%2e", to("/", "/admin%2e"), to("/", "/admin.")),
        (
            "/files/%7ea%3a",
            to("/files", "/files/%7ea%3a"),
            to("/files", "/files/~a%3A"),
        ),
        (
            "/caf%c3%a9",
            to("/caf%C3%A9", "/caf%C3%A9"),
            to("/caf%C3%A9", "/caf%C3%A9"),
        ),
        ("/%2561dmin", to("/", "/%2561dmin"), to("/", "/%2561dmin")),
        // Where servers differ, all of their readings have to be of one route.
        (
            "/files//a",
            to("/files", "/files//a"),
            to("/files", "/files/a"),
        ),
        (
            "/files/./a",
            to("/files", "/files/./a"),
            to("/files", "/files/a"),
        ),
        (
            "/files/x/../a",
            to("/files", "/files/x/../a"),
            to("/files", "/files/a"),
        ),
        ("/a/../b", to("/", "/a/../b"), to("/", "/b")),
        ("/a/..", to("/", "/a/.."), to("/", "/")),
        ("//a", to("/", "//a"), to("/", "/a")),
        ("//admin", Err(Ambiguous), to("/admin", "/admin")),
        ("/./admin", Err(Ambiguous), to("/admin", "/admin")),
        ("/%2e/admin", Err(Ambiguous), to("/admin", "/admin")),
        ("/%2E%2e/../admin", Err(AboveRoot), Err(AboveRoot)),
        ("/x/../admin", Err(Ambiguous), to("/admin", "/admin")),
        ("/x/%2e%2e/admin", Err(Ambiguous), to("/admin", "/admin")),
        ("/admin/../x", Err(Ambiguous), to("/", "/x")),
        ("/admin/..", Err(Ambiguous), to("/", "/")),
        // The second `..` goes back from `/x`, or from the empty segment.
        ("/files/x//../../a", Err(Ambiguous), to("/", "/a")),
        // Escapes that some servers take for slashes.
        (
            "/files/a%2Fb",
            to("/files", "/files/a%2Fb"),
            to("/files", "/files/a%2Fb"),
        ),
        (
            "/files/a%5cb",
            to("/files", "/files/a%5cb"),
            to("/files", "/files/a%5Cb"),
        ),
        ("/admin%2Fx", Err(Ambiguous), Err(Ambiguous)),
        ("/admin%5Cx", Err(Ambiguous), Err(Ambiguous)),
        ("/%2Fadmin", Err(Ambiguous), Err(Ambiguous)),
        ("/x%2f..%2Fadmin", Err(Ambiguous), Err(Ambiguous)),
        ("/files/..%2fadmin", Err(Ambiguous), Err(Ambiguous)),
        (
            "/files/a%2F..%2Fb",
            to("/files", "/files/a%2F..%2Fb"),
            to("/files", "/files/a%2F..%2Fb"),
        ),
        // Path parameters, which some drop.
        (
            "/files/a;v=1/b",
            to("/files", "/files/a;v=1/b"),
            to("/files", "/files/a;v=1/b"),
        ),
        ("/admin;x", Err(Ambiguous), Err(Ambiguous)),
        ("/;x/admin", Err(Ambiguous), Err(Ambiguous)),
        ("/x/..;/admin", Err(Ambiguous), Err(Ambiguous)),
        ("/files/..;a=b/admin", Err(Ambiguous), Err(Ambiguous)),
        ("/%3badmin", to("/", "/%3badmin"), to("/", "/%3Badmin")),
        ("/admin%3bx", Err(Ambiguous), Err(Ambiguous)),
        (
            "/adm%3bin;x",
            to("/", "/adm%3bin;x"),
            to("/", "/adm%3Bin;x"),
        ),
        ("/;x%2f..%2fadmin", Err(Ambiguous), Err(Ambiguous)),
        // Escapes that all servers which decode take for another route's character.
        ("/m:ask", to("/m:ask", "/m:ask"), to("/m:ask", "/m:ask")),
        ("/%6d:ask", to("/m:ask", "/m:ask"), to("/m:ask", "/m:ask")),
        ("/m%3Aask", Err(Ambiguous), Err(Ambiguous)),
        ("/m%3aask/x", Err(Ambiguous), Err(Ambiguous)),
        ("/x/..%2fm%3aask", Err(Ambiguous), Err(Ambiguous)),
        ("/m%253Aask", to("/", "/m%253Aask"), to("/", "/m%253Aask")),
        (
            "/files/%21%24%26%27%28%29%2a%2b%2c%3b%3d%3a%40",
            to("/files", "/files/%21%24%26%27%28%29%2a%2b%2c%3b%3d%3a%40"),
            to("/files", "/files/%21%24%26%27%28%29%2A%2B%2C%3B%3D%3A%40"),
        ),
        (
            "/files/a%20b%3Fc%23%25%22",
            to("/files", "/files/a%20b%3Fc%23%25%22"),
            to("/files", "/files/a%20b%3Fc%23%25%22"),
        ),
        // URL parsers take what follows two slashes for a host.
        ("//x.test/admin", Err(Ambiguous), to("/", "/x.test/admin")),
        ("///x.test/admin", Err(Ambiguous), to("/", "/x.test/admin")),
        ("////x/admin", Err(Ambiguous), to("/", "/x/admin")),
        ("//u@h:1/admin", Err(Ambiguous), to("/", "/u@h:1/admin")),
        ("//h/%61dmin", Err(Ambiguous), to("/", "/h/admin")),
        ("//h/x/../admin", Err(Ambiguous), to("/", "/h/admin")),
        ("//h/m%3Aask", Err(Ambiguous), to("/", "/h/m%3Aask")),
        (
            "//admin/files",
            Err(Ambiguous),
            to("/admin", "/admin/files"),
        ),
        ("//files", Err(Ambiguous), to("/files", "/files")),
        ("//h/x", to("/", "//h/x"), to("/", "/h/x")),
        ("/h//admin", to("/", "/h//admin"), to("/", "/h/admin")),
        ("//h/../x", Err(AboveRoot), to("/", "/x")),
        // Nothing leads above the root.
        ("/..", Err(AboveRoot), Err(AboveRoot)),
        ("/../secret", Err(AboveRoot), Err(AboveRoot)),
        ("/%2e%2e/secret", Err(AboveRoot), Err(AboveRoot)),
        ("/.%2E/secret", Err(AboveRoot), Err(AboveRoot)),
        ("//../secret", Err(AboveRoot), Err(AboveRoot)),
        ("/a/../../secret", Err(AboveRoot), Err(AboveRoot)),
        ("/a//../../secret", Err(AboveRoot), Err(AboveRoot)),
        ("/..;/secret", Err(AboveRoot), Err(AboveRoot)),
        ("/..%2fsecret", Err(AboveRoot), Err(AboveRoot)),
        ("/..%5Csecret", Err(AboveRoot), Err(AboveRoot)),
        ("/a%2f..%2f..%2fsecret", Err(AboveRoot), Err(AboveRoot)),
        ("/a%2fb/../../secret", Err(AboveRoot), Err(AboveRoot)),
        ("/admin%00", Err(Nul), Err(Nul)),
    ] {
        assert_eq!(resolved(path, Match), matched, "match {path}");
        assert_eq!(resolved(path, Rewrite), rewritten, "rewrite {path}");
    }
}

/// A server that resolves and merges segments as they stand, and decodes none: found by the fuzz target.
#[test]
fn escaped_dots_are_decoded_where_a_server_that_decodes_nothing_sees_another_route() {
    for (path, forwarded) in [
        ("/.//admin/%2E%2e", "/.//admin/.."),
        ("/a/%2e%2e/b", "/a/%2e%2e/b"),
    ] {
        assert_eq!(
            resolved(path, Match),
            Ok(("/", forwarded.to_owned())),
            "{path}"
        );
    }
}

#[test]
fn off_forwards_what_was_sent_but_nothing_above_a_base_path() {
    for path in [
        "//admin",
        "/x/../admin",
        "/admin%2Fx",
        "/admin;x",
        "/a%00",
        "/%61dmin",
    ] {
        assert_eq!(resolved(path, Off), Ok(("/", path.to_owned())));
    }
    assert_eq!(resolved("//h/../x", Off), Ok(("/", "//h/../x".to_owned())));
    for path in ["/../x", "/%2e%2e/x", "/..%2fx", "/..;/x", "//../x"] {
        assert_eq!(resolved(path, Off), Err(PathError::AboveRoot), "{path}");
        let resolved = resolve(path, Off, route_of, |_| false);
        assert_eq!(resolved.unwrap().path, path);
    }
}

#[test]
fn long_path_is_read_if_there_is_nothing_to_resolve() {
    let long = |part: &str| format!("/{}", part.repeat(60_000 / part.len()));
    let plain = long("a/b");
    assert_eq!(resolved(&plain, Match), Ok(("/", plain.clone())));
    for part in ["/a;", "%41", "/a/..", "//"] {
        for mode in [Match, Rewrite, Off] {
            assert_eq!(
                resolved(&long(part), mode),
                Err(PathError::TooLong),
                "{part}"
            );
        }
    }
}

/// Paths of what makes a difference, in any order.
fn paths() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "/", "/", "/", "admin", "files", "a", ".", "..", "%2e", "%2E", "%2f", "%5C", "%61", ";",
        ";x=1", "%3b", "%3a", ":", "m", "ask", "%25", "%c3%A9", "%00",
    ]);
    prop::collection::vec(part, 0..10).prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #[test]
    fn to_normalize_twice_is_to_normalize_once(path in paths()) {
        if let Ok(once) = Interpretation::NORMALIZED.of(&path) {
            prop_assert_eq!(Interpretation::NORMALIZED.of(&once), Ok(once));
        }
    }

    #[test]
    fn what_normalizes_alike_has_one_route(path in paths()) {
        let Ok(normalized) = Interpretation::NORMALIZED.of(&path) else {
            prop_assert!(resolved(&path, Match).is_err());
            return Ok(());
        };
        for mode in [Match, Rewrite] {
            if let Ok((route, forwarded)) = resolved(&path, mode) {
                prop_assert_eq!(route, route_of(&normalized));
                // A reader behind the proxy gets an equal path.
                prop_assert_eq!(Interpretation::NORMALIZED.of(&forwarded), Ok(normalized.clone()));
                for reading in Interpretation::all() {
                    prop_assert_eq!(route_of(&reading.of(&forwarded).unwrap()), route);
                }
                prop_assert_eq!(route_of(&forwarded), route);
            }
        }
    }

    #[test]
    fn no_reading_leaves_a_base_path(path in paths()) {
        for mode in [Match, Rewrite, Off] {
            if let Ok((_, forwarded)) = resolved(&path, mode) {
                for reading in Interpretation::all().filter(|reading| !reading.drops_authority) {
                    let whole = reading.of(&format!("/base{forwarded}")).unwrap();
                    let is_inside = whole == "/base" || whole.starts_with("/base/");
                    // A server that keeps dot segments serves what is spelt so.
                    prop_assert!(is_inside, "{} is {}", forwarded, whole);
                }
            }
        }
    }

    #[test]
    fn readings_that_are_left_out_differ_from_none(path in paths()) {
        let of = |readings: &mut dyn Iterator<Item = Interpretation>| {
            let readings = readings.map(|reading| reading.of(&path).ok());
            readings.collect::<std::collections::HashSet<_>>()
        };
        prop_assert_eq!(of(&mut Interpretation::all_of(&path)), of(&mut Interpretation::all()));
    }

    #[test]
    fn plain_path_has_one_reading(path in paths()) {
        if is_plain(&path) {
            for reading in Interpretation::all() {
                prop_assert_eq!(&reading.of(&path).unwrap(), &path);
            }
        }
    }
}
