//! Routes: the table of them, what a request gets before its layers, the layers, and the service that
//! connects these.

mod handler;
mod prepare;
mod redirect;
mod stack;
mod table;
#[cfg(test)]
mod tests;

pub(super) use handler::Handler;
pub(super) use table::{RouteView, Router};
