//! The addresses of an upstream's name.

use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use socket2::{Domain, Socket, Type};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tower_service::Service;

/// The system's resolver, with the right error when files are exhausted: the system reports an
/// unknown name then, or anything else.
#[derive(Clone, Debug)]
pub(super) struct Resolver(GaiResolver);

impl Resolver {
    pub(super) fn new() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<GaiAddrs>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = self.0.call(name);
        Box::pin(async move {
            match found.await {
                Ok(addresses) => Ok(addresses),
                // Without a socket no lookup was possible.
                Err(error) => match Socket::new(Domain::IPV4, Type::STREAM, None) {
                    Ok(_) => Err(error),
                    Err(cause) => Err(cause),
                },
            }
        })
    }
}
