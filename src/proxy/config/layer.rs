//! What one place has set, before anything is made of it.

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

/// What one place, or several with the stronger on top, set; by the key's name.
pub(super) type Layer = BTreeMap<&'static str, Given>;

/// A `[[route]]` of the file: its path, and what it overrides.
#[derive(Clone, Debug)]
pub(super) struct RouteLayer {
    pub(super) path: RoutePath,
    pub(super) place: Place,
    pub(super) given: Layer,
}
