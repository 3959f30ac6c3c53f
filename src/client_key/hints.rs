//! Warnings about peers that are missing or untrusted.

use super::{ForwardedHeader, PeerAddr, peer_addr};
use http::{Extensions, HeaderMap};
use ipnet::IpNet;
use std::sync::atomic::{AtomicBool, Ordering};

/// The warnings that are already logged. Each is logged once, as warnings per request could fill the disk.
#[derive(Debug, Default)]
pub(super) struct LoggedHints {
    untrusted_proxy: AtomicBool,
    no_peer: AtomicBool,
}

impl LoggedHints {
    /// Returns the peer. Logs once how to provide it if it is missing.
    pub(super) fn peer(&self, extensions: &Extensions) -> Option<PeerAddr> {
        let peer = peer_addr(extensions);
        if peer.is_none() && is_first_call(&self.no_peer) {
            tracing::warn!(
                "requests carry no peer address, so limits per client cannot distinguish clients. \
                 With axum, enable the feature `axum` of sse-guard and serve by \
                 `into_make_service_with_connect_info::<SocketAddr>()`; with any other server, \
                 insert `PeerAddr` into the extensions of each request. (Logged once.)"
            );
        }
        peer
    }

    /// Logs once how to trust a peer, if a request by an untrusted one may come from a proxy.
    pub(super) fn note_untrusted(&self, peer: PeerAddr, headers: &HeaderMap) {
        let addresses = ForwardedHeader::ALL.iter().map(|header| header.name());
        // A proxy that terminates TLS may send only this one.
        let header = addresses
            .chain(["x-forwarded-proto"])
            .find(|name| headers.contains_key(*name));
        // The header may also be forged by a client that tries to be trusted.
        if let Some(header) = header
            && is_first_call(&self.untrusted_proxy)
        {
            let (peer, network) = match peer.ip().map(|ip| ip.to_canonical()) {
                Some(ip) => (ip.to_string(), IpNet::from(ip).to_string()),
                None => (peer.to_string(), "unix".to_owned()),
            };
            let in_code = match network.as_str() {
                "unix" => "ForwardedIp::unix",
                _ => "ForwardedIp::new",
            };
            tracing::warn!(
                %peer,
                header,
                "a peer that is not trusted sends `{header}`. If {peer} is a proxy of yours, limits \
                 per IP count all clients behind it as one, and the upstream does not get its \
                 `X-Forwarded-Proto`: behind TLS that makes apps redirect to https endlessly. Set \
                 `trusted_proxies = [\"{network}\"]` (in code: `{in_code}`). If it is not, \
                 the header is forged and ignored. (Logged once.)",
            );
        }
    }
}

/// True for the first caller. The load keeps all later ones from writing to a shared cache line.
fn is_first_call(logged: &AtomicBool) -> bool {
    !logged.load(Ordering::Relaxed) && !logged.swap(true, Ordering::Relaxed)
}
