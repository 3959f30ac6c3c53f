//! `[ready]`: what readiness depends on.

use super::super::given::AllValues;
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::value::ReadyWhen;

pub(super) const TABLE: Table = Table {
    name: "ready",
    about: "When /readyz returns 200.",
    reference: "What readiness depends on.",
    keys: &[Key::proxy("ready.when", Shape::ReadyWhen)
        .default("any")
        .help(
            "Upstreams that /readyz requires to be reachable: any (at least one), all, or those of \
             a list of routes",
        )
        .advice(
            "With any, one dead upstream does not cut off the clients of the others. List the \
             routes that must work, with their paths as they are written here. Example: [\"/v1\", \
             \"/\"].",
        )],
};

/// Reads the upstreams that must be reachable; a route that does not exist is a problem.
pub(in super::super) fn when(
    values: &AllValues,
    problems: &mut Vec<Mistake>,
) -> Result<ReadyWhen, Mistake> {
    const KEY: &str = "ready.when";
    let proxy = values.proxy();
    let when = proxy.get(KEY)?;
    if let (ReadyWhen::Routes(named), Some(given)) = (&when, proxy.given(KEY)) {
        problems.extend(values.unknown_routes(KEY, &given.source, named));
    }
    Ok(when)
}

#[cfg(test)]
mod tests {
    use crate::config::ReadyWhen;
    use crate::config::source::tests::{config, problems};

    #[test]
    fn ready_when_names_routes_that_exist() {
        let routes = "upstream.url = 'http://app'\n[[route]]\npath = '/v1'";
        let with = |when: &str| format!("ready.when = {when}\n{routes}");
        assert_eq!(config(routes).ready_when, ReadyWhen::Any);
        let named = ReadyWhen::Routes(vec!["/v1".to_owned(), "/".to_owned()]);
        assert_eq!(config(&with("['/v1', '/']")).ready_when, named);
        assert_eq!(
            problems(&with("['/v2', '/', '/chat']")),
            [
                "sse-guard.toml:1: ready.when: no route has the path \"/v2\"; did you mean \"/v1\"?",
                "sse-guard.toml:1: ready.when: no route has the path \"/chat\"; name a route as its \
                 path is spelled",
            ]
        );
        // Nothing takes the other paths.
        let text = "ready.when = ['/']\n[[route]]\npath = '/v1'\nupstream.url = 'http://app'";
        assert_eq!(problems(text).len(), 1);
        // The route is there, and lacks a URL.
        let found = problems("ready.when = ['/v1']\n[[route]]\npath = '/v1'");
        assert!(
            found.len() == 1 && found[0].contains("upstream.url: missing"),
            "{found:?}"
        );
    }
}
