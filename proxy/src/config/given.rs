//! The values that sources set, before they become the typed config.

use std::collections::BTreeMap;

use super::mistake::{Mistake, ValueSource};
use super::route::{EVERYTHING, RoutePath};
use super::suggest;
use super::value::{FromValue, Value};

/// The server of a route; a route without one is a mistake.
pub(super) const URL: &str = "upstream.url";

/// A value, and where it was set.
#[derive(Clone, Debug)]
pub(super) struct SourcedValue {
    pub(super) value: Value,
    pub(super) source: ValueSource,
}

/// Values by the key's name, of one source or merged from several.
pub(super) type Values = BTreeMap<&'static str, SourcedValue>;

/// A `[[route]]` of the file: its path, and what it overrides.
#[derive(Clone, Debug)]
pub(super) struct RouteValues {
    pub(super) path: RoutePath,
    pub(super) source: ValueSource,
    pub(super) values: Values,
}

/// A `[[listener]]` of the file.
#[derive(Clone, Debug)]
pub(super) struct ListenerValues {
    pub(super) source: ValueSource,
    pub(super) values: Values,
}

/// The values of all sources: of the whole proxy, merged by rank, and what each route overrides.
#[derive(Clone, Debug, Default)]
pub(super) struct AllValues {
    pub(super) global: Values,
    pub(super) routes: Vec<RouteValues>,
    pub(super) listeners: Vec<ListenerValues>,
}

impl AllValues {
    /// The values of the proxy as a whole.
    pub(super) fn proxy(&self) -> Scope<'_> {
        Scope {
            global: &self.global,
            route: None,
        }
    }

    /// The values of a route.
    pub(super) fn route<'a>(&'a self, route: &'a RouteValues) -> Scope<'a> {
        Scope {
            global: &self.global,
            route: Some(&route.values),
        }
    }

    /// The values of a listener.
    pub(super) fn listener<'a>(&'a self, listener: &'a ListenerValues) -> Scope<'a> {
        Scope {
            global: &self.global,
            route: Some(&listener.values),
        }
    }

    /// The mistakes of a list of routes in which some do not exist.
    pub(super) fn unknown_routes(
        &self,
        key: &str,
        source: &ValueSource,
        named: &[String],
    ) -> Vec<Mistake> {
        // Also those without a URL, which is a mistake of its own.
        let paths = self.routes.iter().map(|route| route.path.as_str());
        let all_others = self.global.contains_key(URL).then_some(EVERYTHING);
        let paths: Vec<&str> = paths.chain(all_others).collect();
        let unknown = named.iter().filter(|name| !paths.contains(&name.as_str()));
        let mistake = |name: &String| {
            let hint = match suggest::nearest(name, paths.iter().copied()) {
                Some(path) => format!("; did you mean \"{path}\"?"),
                None => "; name a route as its path is spelled".to_owned(),
            };
            let problem = format!("no route has the path {name:?}{hint}");
            Mistake::new(source.clone(), key, problem)
        };
        unknown.map(mistake).collect()
    }

    /// The values of each route that has an upstream; last those of the paths that no route of the
    /// file matches.
    pub(super) fn routes(&self) -> impl Iterator<Item = Scope<'_>> {
        let routes = self.routes.iter().map(|route| self.route(route));
        let all = routes.chain([self.proxy()]);
        all.filter(|scope| scope.given(URL).is_some())
    }

    /// The values of the route that matches every path, if there is one.
    pub(super) fn catch_all(&self) -> Option<Scope<'_>> {
        if self.global.contains_key(URL) {
            return Some(self.proxy());
        }
        let last = self.routes.last()?;
        (last.path == RoutePath::everything()).then(|| self.route(last))
    }

    /// Routes that no request reaches.
    pub(super) fn shadowed_routes(&self) -> impl Iterator<Item = Mistake> {
        let routes = self.routes.iter().enumerate();
        routes.filter_map(|(index, route)| {
            let mut earlier = self.routes[..index].iter();
            let first = earlier.find(|first| first.path.shadows(&route.path))?;
            let problem = format!(
                "no request reaches {}: route {} ({}) comes first and matches all its paths; put \
                 the narrower route first, or remove one",
                route.path, first.path, first.source
            );
            Some(Mistake::new(route.source.clone(), "route.path", problem))
        })
    }
}

/// The values that apply to a route, or to the proxy as a whole.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    global: &'a Values,
    route: Option<&'a Values>,
}

impl<'a> Scope<'a> {
    /// The value of a key, and where it was set; none for a key without a default that is not set.
    pub(super) fn given(self, name: &str) -> Option<&'a SourcedValue> {
        self.route
            .and_then(|route| route.get(name))
            .or_else(|| self.global.get(name))
    }

    /// Whether the route itself sets the key.
    pub(super) fn overrides(self, name: &str) -> bool {
        self.route.is_some_and(|route| route.contains_key(name))
    }

    /// The value of a key that is set or has a default.
    pub(super) fn get<T: FromValue>(self, name: &str) -> Result<T, Mistake> {
        let missing = || Mistake::new(ValueSource::Config, name, "missing");
        let given = self.given(name).ok_or_else(missing)?;
        T::from_value(&given.value)
            .ok_or_else(|| Mistake::new(given.source.clone(), name, "is of another kind"))
    }

    /// A mistake in the value of a key, where that was set.
    pub(super) fn mistake(self, name: &str, problem: impl AsRef<str>) -> Mistake {
        let source = self.given(name).map(|given| given.source.clone());
        Mistake::new(source.unwrap_or(ValueSource::Config), name, problem)
    }

    /// The value of a key without a default, if it is set.
    pub(super) fn get_if_set<T: FromValue>(self, name: &str) -> Result<Option<T>, Mistake> {
        self.given(name).map(|_| self.get(name)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::{from_file, problems};

    #[test]
    fn route_that_no_request_reaches_is_a_mistake_that_names_the_one_before() {
        let text = |first: &str, later: &str| {
            format!(
                "upstream.url = 'http://app'\n[[route]]\npath = '{first}'\n[[route]]\npath = '{later}'"
            )
        };
        let lines = problems(&text("/v1", "/v1/chat"));
        let told = "sse-guard.toml:4: route.path: no request reaches /v1/chat: route /v1 \
                    (sse-guard.toml:2) comes first and matches all its paths; put the narrower \
                    route first, or remove one";
        assert_eq!(lines, [told]);
        assert_eq!(problems(&text("/v1/*", "/v1/*")).len(), 1);
        assert!(from_file(&text("/v1/chat", "/v1")).is_ok());
        // The routes of the file stand before the one that takes all other paths.
        let all = "upstream.url = 'http://app'\n[[route]]\npath = '/'";
        assert!(from_file(all).is_ok());
    }
}
