//! The documentation: it agrees with the code, its links lead somewhere, and its words are plain.

mod pages;
mod reference;
mod words;
