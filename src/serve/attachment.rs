//! State that belongs to one client's connection and ends with it.

use super::io::{ClientIo, Shared};
use std::any::Any;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// What a service keeps for the connection that its requests come on.
pub(crate) trait Attachment: Any + Send + Sync {
    /// Ready when the connection must not serve another request.
    fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The same, at this moment.
    fn is_closing(&self) -> bool;
}

/// Extension of a request: the connection that it came on. It does not keep the connection open.
#[derive(Clone, Debug)]
pub(crate) struct ClientConnection(Weak<Shared>);

impl ClientConnection {
    pub(super) fn of(io: &ClientIo) -> Self {
        Self(io.downgrade())
    }

    /// What is attached to the connection.
    pub(crate) fn attached<T: Attachment>(&self) -> Option<Arc<T>> {
        downcast(self.0.upgrade()?.attachment()?)
    }

    /// The same, made if there is none. Nothing if the connection has ended.
    pub(crate) fn attach<T: Attachment + Default>(&self) -> Option<Arc<T>> {
        let shared = self.0.upgrade()?;
        downcast(shared.attach(|| Arc::new(T::default())))
    }
}

fn downcast<T: Attachment>(attachment: Arc<dyn Attachment>) -> Option<Arc<T>> {
    let any: Arc<dyn Any + Send + Sync> = attachment;
    any.downcast().ok()
}
