//! The documentation: it agrees with the code, its links lead somewhere, and its words are plain; the layers of
//! modules are as documented.

mod defaults;
mod layers;
mod pages;
mod reference;
mod words;
