//! `[ready]`: what readiness depends on.

use super::super::given::{RouteValues, Scope, URL};
use super::super::key::{Key, Table};
use super::super::kind::Shape;
use super::super::mistake::Mistake;
use super::super::route::RoutePath;
use super::super::suggest;
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
    proxy: Scope<'_>,
    overrides: &[RouteValues],
    problems: &mut Vec<Mistake>,
) -> Result<ReadyWhen, Mistake> {
    const KEY: &str = "ready.when";
    // Also those without a URL, which is a mistake of its own.
    let mut paths: Vec<&str> = overrides.iter().map(|over| over.path.as_str()).collect();
    let everything = RoutePath::everything();
    if proxy.given(URL).is_some() {
        paths.push(everything.as_str());
    }
    let when = proxy.get(KEY)?;
    if let (ReadyWhen::Routes(named), Some(given)) = (&when, proxy.given(KEY)) {
        for name in named.iter().filter(|name| !paths.contains(&name.as_str())) {
            let hint = match suggest::nearest(name, paths.iter().copied()) {
                Some(path) => format!("; did you mean \"{path}\"?"),
                None => "; name a route as its path is spelled".to_owned(),
            };
            let problem = format!("no route has the path {name:?}{hint}");
            problems.push(Mistake::new(given.source.clone(), KEY, problem));
        }
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
