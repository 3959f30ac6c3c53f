//! State that belongs to one client's connection and ends with it.

use super::io::{ClientIo, Shared};
use crate::client_key::ClientKey;
use http::{HeaderMap, StatusCode};
use std::any::Any;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::task::AbortHandle;

/// What a service keeps for the connection that its requests come on.
pub trait Attachment: Any + Send + Sync {
    /// Ready when the connection must not serve another request.
    fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The same, at this moment.
    fn is_closing(&self) -> bool;
}

/// Extension of a request: the connection that it came on. It does not keep the connection open.
#[derive(Clone, Debug)]
pub struct ClientConnection(Weak<Shared>);

impl ClientConnection {
    pub(super) fn of(io: &ClientIo) -> Self {
        Self(io.downgrade())
    }

    /// Whose request the connection serves; none if nothing limits that client.
    pub(crate) fn set_holder(&self, holder: Option<ClientKey>) {
        if let Some(shared) = self.0.upgrade() {
            shared.entry().set_holder(holder);
        }
    }

    /// The task that the connection lives in once it has switched protocols.
    pub fn set_task(&self, task: AbortHandle) {
        if let Some(shared) = self.0.upgrade() {
            shared.entry().set_task(task);
        }
    }

    /// Sends an interim head to the client, or drops it: before the response is known, but not any more, and
    /// only to a client that knows such heads and reads what it gets.
    pub fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
        if let Some(shared) = self.0.upgrade() {
            shared.push_interim(status, headers);
        }
    }

    /// What is attached to the connection.
    pub fn attached<T: Attachment>(&self) -> Option<Arc<T>> {
        downcast(self.0.upgrade()?.attachment()?)
    }

    /// The same, made if there is none. Nothing if the connection has ended.
    pub fn attach<T: Attachment + Default>(&self) -> Option<Arc<T>> {
        let shared = self.0.upgrade()?;
        downcast(shared.attach(|| Arc::new(T::default())))
    }
}

fn downcast<T: Attachment>(attachment: Arc<dyn Attachment>) -> Option<Arc<T>> {
    let any: Arc<dyn Any + Send + Sync> = attachment;
    any.downcast().ok()
}
