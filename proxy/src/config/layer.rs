//! The values that one source sets, before they are resolved.

use std::collections::BTreeMap;

use super::RoutePath;
use super::mistake::Place;
use super::value::Value;

/// A value, and where it was set.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// Values by the key's name, of one source or merged from several.
pub(super) type Layer = BTreeMap<&'static str, Given>;

/// A `[[route]]` of the file: its path, and what it overrides.
#[derive(Clone, Debug)]
pub(super) struct RouteLayer {
    pub(super) path: RoutePath,
    pub(super) place: Place,
    pub(super) given: Layer,
}
