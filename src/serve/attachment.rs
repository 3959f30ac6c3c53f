//! State that a service attaches to a client's connection.

use super::client_io::{ClientIo, ClientSocket};
use crate::client_key::ClientKey;
use http::{HeaderMap, StatusCode};
use std::any::Any;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use tokio::task::AbortHandle;

/// State of a service for one client's connection, dropped with it.
pub trait Attachment: Any + Send + Sync {
    /// Ready when the connection must not serve another request.
    fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns true if the connection must not serve another request.
    fn is_closing(&self) -> bool;
}

/// Extension of a request: a weak handle to the connection that it was received on.
#[derive(Clone, Debug)]
pub struct ClientConnection(Weak<ClientSocket>);

impl ClientConnection {
    pub(super) fn of(io: &ClientIo) -> Self {
        Self(io.downgrade())
    }

    /// Sets the client of the connection's request; `None` if no limit applies to it.
    pub(crate) fn set_client(&self, client: Option<ClientKey>) {
        if let Some(socket) = self.0.upgrade() {
            socket.entry().set_client(client);
        }
    }

    /// Sets the task that runs the connection after it has switched protocols.
    pub fn set_task(&self, task: AbortHandle) {
        if let Some(socket) = self.0.upgrade() {
            socket.entry().set_task(task);
        }
    }

    /// Sends an interim head, or drops it: if the response is known, if the client's HTTP version has no interim
    /// heads, or if the client does not read.
    pub fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
        if let Some(socket) = self.0.upgrade() {
            socket.push_interim(status, headers);
        }
    }

    /// Returns the attachment of the connection.
    pub fn attached<T: Attachment>(&self) -> Option<Arc<T>> {
        downcast(self.0.upgrade()?.attachment()?)
    }

    /// Returns the attachment, made if there is none; `None` if the connection has ended.
    pub fn attach<T: Attachment + Default>(&self) -> Option<Arc<T>> {
        let socket = self.0.upgrade()?;
        downcast(socket.attach(|| Arc::new(T::default())))
    }
}

fn downcast<T: Attachment>(attachment: Arc<dyn Attachment>) -> Option<Arc<T>> {
    let any: Arc<dyn Any + Send + Sync> = attachment;
    any.downcast().ok()
}
