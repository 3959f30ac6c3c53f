//! Which upstreams readiness requires.

use super::echo;
use crate::config::suggest;

/// Upstreams that must be reachable for the proxy to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// One of them.
    Any,
    /// Each of them.
    All,
    /// Those of these routes, at least one, by their paths.
    Routes(Vec<String>),
}

/// Whether a route has the path is checked once all routes are read.
pub(super) fn ready_when(items: &[&str]) -> Result<ReadyWhen, String> {
    const WORDS: [&str; 2] = ["any", "all"];
    match items {
        [] => return Err("lists no route; write \"any\" or \"all\"".to_owned()),
        ["any"] => return Ok(ReadyWhen::Any),
        ["all"] => return Ok(ReadyWhen::All),
        _ => {}
    }
    if let Some(item) = items.iter().find(|item| !item.starts_with('/')) {
        if WORDS.contains(item) {
            return Err(format!("{} cannot be combined with others", echo(item)));
        }
        let hint = match suggest::nearest(item, WORDS) {
            Some(word) => format!("; did you mean \"{word}\"?"),
            None => "; write \"any\", \"all\", or paths of routes such as \"/v1\"".to_owned(),
        };
        return Err(format!("{} is not the path of a route{hint}", echo(item)));
    }
    let routes = items.iter().map(|item| (*item).to_owned());
    Ok(ReadyWhen::Routes(routes.collect()))
}
