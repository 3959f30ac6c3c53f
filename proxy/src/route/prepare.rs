//! What a request gets before the layers of its route: family, user, client, and whether it requires a stream.

use crate::config::{Config, ListenerConfig, Settings};
use crate::headers;
use crate::json_stream_flag::{self, StreamFlag};
use crate::request_context::RequestContext;
use http::{HeaderName, Request};
use sse_guard::client_key::{ForwardedIp, PeerAddr};
use sse_guard::early::StreamRequested;
use sse_guard::internal::{ClientConnection, ListenerName, User, is_json};
use sse_guard::serve::RequestBody;
use std::sync::Arc;

/// A longer name of a user does not count.
const MAX_USER_BYTES: usize = 256;

/// Prepares requests for the layers of their route.
#[derive(Debug)]
pub(super) struct Prepare {
    user_header: Option<HeaderName>,
    /// Which peers' headers count.
    clients: ForwardedIp,
    ipv6_prefix: u8,
}

impl Prepare {
    pub(super) fn new(config: &Config, clients: ForwardedIp) -> Self {
        Self {
            user_header: config.admin.user_header.clone(),
            clients,
            ipv6_prefix: config.limit.ipv6_prefix,
        }
    }

    /// Adds to the request what the layers read from its extensions.
    pub(super) async fn prepare(
        &self,
        request: &mut Request<RequestBody>,
        settings: &Settings,
        context: &RequestContext,
    ) {
        request.extensions_mut().insert(context.clone());
        if let Some(listener) = context.listener() {
            let listener = ListenerName(listener.clone());
            request.extensions_mut().insert(listener);
        }
        if let Some(family) = settings.family {
            request.extensions_mut().insert(family);
        }
        if let Some(user) = context.user() {
            request.extensions_mut().insert(User(user.clone()));
        }
        if let Some(client) = context.client() {
            // For metrics and health, which detect failures of a single client.
            let network = client.clone().network(self.ipv6_prefix);
            request.extensions_mut().insert(network);
        }
        let is_watched = settings.early.enabled && is_json(request.headers());
        if json_stream_flag::settle_coding(request, is_watched).await && is_watched {
            watch_for_flag(request);
        }
    }

    /// The user, if a trusted proxy names exactly one. Other values do not reach the upstream, which may trust
    /// the header.
    pub(super) fn user(&self, request: &mut Request<RequestBody>) -> Option<Arc<str>> {
        let name = self.user_header.as_ref()?;
        let is_trusted = self.is_by_trusted(request);
        headers::remove_field(request.headers_mut(), name, is_trusted);
        let mut users = request.headers().get_all(name).iter();
        let user = users.next()?.to_str().ok()?;
        (users.next().is_none() && user.len() <= MAX_USER_BYTES).then(|| user.into())
    }

    /// Whether the peer of a request may name users and requests.
    pub(super) fn is_by_trusted(&self, request: &Request<RequestBody>) -> bool {
        let peer: Option<&PeerAddr> = request.extensions().get();
        peer.is_some_and(|peer| self.clients.is_trusted_peer(*peer))
    }
}

/// The subject of the certificate by which the client has connected, if the listener requests certificates.
pub(super) fn client_subject(
    request: &Request<RequestBody>,
    listener: &ListenerConfig,
) -> Option<Arc<str>> {
    let tls = listener.tls.as_ref()?;
    let connection: &ClientConnection = request.extensions().get()?;
    let certificate = match tls.requests_certificates() {
        true => connection.client_certificate()?,
        false => return None,
    };
    crate::tls::client_subject(&certificate).map(Into::into)
}

/// Clients of LLM APIs request a stream in the body, and not all of them in the head as well.
fn watch_for_flag(request: &mut Request<RequestBody>) {
    let requested = StreamRequested::new();
    request.extensions_mut().insert(requested.clone());
    let mut flag = StreamFlag::default();
    request.body_mut().inspect(move |bytes| {
        let is_set = flag.take(bytes);
        if is_set {
            requested.set();
        }
        is_set
    });
}
