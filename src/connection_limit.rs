//! Limits how many streams a client, and all clients, hold and how fast a client opens new ones.
//!
//! # When a slot is taken
//!
//! It is *streams* that are limited. A request whose `Accept` names `text/event-stream` takes its
//! slot before the inner service is called, and gives it back at the response head, with what it took of
//! its client's rate, if the response is not an event stream: calls of MCP accept JSON and a stream, and most
//! get JSON. This allows no client more requests: a request that accepts no stream takes no part of
//! the rate, and requests in flight have a limit of their own. Any other request takes a slot at the head
//! if its response turns out to be an event stream (also one in a content coding); over the limit that
//! response is dropped and replaced. A slot is held to the end or the drop of the body, and given back
//! whatever happens before: the client goes ahead of the head, the inner service fails or panics.
//!
//! Apart from that, the [requests](ConnectionLimitLayer::requests_per_client) that a client has in flight
//! can be limited, which cost as much: from their admission to the end of the response's body, or, if
//! that is a stream, to its head. CORS preflights take none of these places: a page cannot see why one
//! failed. A client may have as many of them in flight, apart from its other requests. A service that opens a tunnel keeps the request's place in the count by
//! the [`InFlight`] in its extensions.
//!
//! # What is counted
//!
//! The clients that the [`KeyExtractor`] names; IPv6 addresses by their first 64 bits by default
//! ([`ipv6_prefix`](ConnectionLimitLayer::ipv6_prefix)), IPv4-mapped ones as IPv4. Requests without a key count in all only. The table knows
//! clients that have a stream, or opened one so recently that their rate is not forgotten, and at
//! most [`max_clients`](ConnectionLimitLayer::max_clients) of them.
//!
//! # What the rejected get
//!
//! `429` (this client has too many, or opens too fast) or `503` (there are too many in all) with
//! `Retry-After`. An `EventSource` never comes back after either: with
//! [`Reject::RetryLater`] a request that accepts an event stream, and whose client
//! [comes back](crate::family::Family::client_reconnects), gets one that sends `retry:` and ends.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use sse_guard::client_key::PeerAddr;
//! use sse_guard::connection_limit::ConnectionLimitLayer;
//! use std::{convert::Infallible, net::SocketAddr};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut service = ServiceBuilder::new()
//!     .layer(ConnectionLimitLayer::new().per_client(1))
//!     .service(service_fn(|_: Request<()>| async {
//!         Ok::<_, Infallible>(
//!             Response::builder()
//!                 .header("content-type", "text/event-stream")
//!                 .body(Full::new(Bytes::from("data: 1\n\n")))
//!                 .unwrap(),
//!         )
//!     }));
//!
//! let request = || {
//!     Request::get("/")
//!         .extension(PeerAddr::from(SocketAddr::from(([192, 0, 2, 1], 5000))))
//!         .body(())
//!         .unwrap()
//! };
//! let first = service.ready().await?.call(request()).await?;
//! let second = service.ready().await?.call(request()).await?;
//! assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 429));
//! drop(first);
//! let third = service.ready().await?.call(request()).await?;
//! assert_eq!(third.status(), 200);
//! # Ok(())
//! # }
//! ```

mod gate;
mod permit;
mod table;
#[cfg(test)]
mod tests;

pub use crate::rejection::RejectReason;
pub use gate::Gate;
pub use permit::{AdmittedRequest, InFlight, InFlightGuard, Permit};

use crate::client_key::{ClientKey, IPV6_PREFIX, KeyExtractor, PeerIp};
use crate::cors;
use crate::guard::{Guard, ResponseInfo, StreamLayer};
use crate::jitter::jittered;
use crate::rate::Rate;
use crate::rejection::{CustomResponse, Rejection};
use crate::request_info::{RequestInfo, ResponseKind};
use bytes::Bytes;
use http::header::UPGRADE;
use http::{Extensions, Method, Request, Response};
use ipnet::IpNet;
use permit::StreamAdmission;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use table::{LimitTable, SlotRefusal, StreamSlot};
use tower_layer::Layer;

/// Default limit of streams per client: 100, since offices and campuses share an address.
pub const DEFAULT_PER_CLIENT: u32 = 100;
/// Default limit of streams in total.
pub const DEFAULT_TOTAL: u32 = 10_000;
/// Default size of the client table.
pub const DEFAULT_MAX_CLIENTS: usize = 65_536;

/// The form of a rejection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reject {
    /// 429 or 503.
    #[default]
    Status,
    /// For requests that accept an event stream, and whose clients
    /// [come back](crate::family::Family::client_reconnects), and for MCP's GET stream, 200, `retry:` and the
    /// end; the status for others.
    RetryLater,
}

/// Limits concurrent streams per client and in total, and the rate of new ones. See the [module
/// docs](self).
///
/// Clones, and the services made by them, share one table.
#[derive(Clone, Debug)]
pub struct ConnectionLimitLayer<K = PeerIp> {
    config: LimitConfig,
    extractor: K,
    /// Of the limits as they were when it was made; replaced with them.
    table: Arc<LimitTable>,
}

#[derive(Clone, Debug)]
struct LimitConfig {
    limits: Limits,
    ipv6_prefix: u8,
    allow: Arc<[IpNet]>,
    reject: Reject,
    retry_after: Duration,
    custom: Option<CustomResponse>,
    gate: Gate,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    per_client: Option<u32>,
    requests: Option<u32>,
    total: Option<u32>,
    rate: Option<Rate>,
    max_clients: usize,
}

/// What a layer counts apart from the one that it [shares](ConnectionLimitLayer::sharing) counts with;
/// nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeparateCounts {
    /// The streams of each client.
    pub per_client: bool,
    /// The requests of each client.
    pub requests: bool,
    /// The streams in all.
    pub total: bool,
    /// How fast each client opens streams.
    pub rate: bool,
}

impl Default for ConnectionLimitLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl ConnectionLimitLayer {
    /// Creates a layer that admits 100 streams per peer address and 10,000 in total, at any rate.
    pub fn new() -> Self {
        Self::with_extractor(PeerIp::new())
    }
}

impl<K> ConnectionLimitLayer<K> {
    /// Creates a layer with the default limits that identifies clients by `extractor`.
    pub fn with_extractor(extractor: K) -> Self {
        let limits = Limits {
            per_client: Some(DEFAULT_PER_CLIENT),
            requests: None,
            total: Some(DEFAULT_TOTAL),
            rate: None,
            max_clients: DEFAULT_MAX_CLIENTS,
        };
        Self {
            config: LimitConfig {
                limits,
                ipv6_prefix: IPV6_PREFIX,
                allow: Arc::new([]),
                reject: Reject::Status,
                retry_after: Duration::from_secs(5),
                custom: None,
                gate: Gate::new(),
            },
            extractor,
            table: Arc::new(LimitTable::new(limits)),
        }
    }

    fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.config.limits);
        self.table = Arc::new(LimitTable::new(self.config.limits));
        self
    }

    /// Limits the streams of one client; `None` for no limit.
    #[must_use]
    pub fn per_client(self, streams: impl Into<Option<u32>>) -> Self {
        let streams = streams.into();
        self.limits(|limits| limits.per_client = streams)
    }

    /// Limits the requests that one client has in flight, apart from its streams: those that wait for
    /// their head, uploads, downloads and tunnels, and a request for a stream until it is one. CORS
    /// preflights, which a browser sends by itself, count apart, up to the same number. `None`, the
    /// default, for no limit.
    #[must_use]
    pub fn requests_per_client(self, requests: impl Into<Option<u32>>) -> Self {
        let requests = requests.into();
        self.limits(|limits| limits.requests = requests)
    }

    /// Limits the streams of all clients together; `None` for no limit.
    #[must_use]
    pub fn total(self, streams: impl Into<Option<u32>>) -> Self {
        let streams = streams.into();
        self.limits(|limits| limits.total = streams)
    }

    /// Limits the rate at which one client opens streams: `streams` in each `per`, `burst` at once.
    /// Counted by the generic cell rate algorithm. Off by default.
    ///
    /// # Panics
    ///
    /// If `per` is shorter than `streams` nanoseconds.
    #[must_use]
    pub fn rate(self, streams: NonZeroU32, per: Duration, burst: NonZeroU32) -> Self {
        let rate = Rate::new(streams, per, burst);
        self.limits(|limits| limits.rate = Some(rate))
    }

    /// Limits the size of the client table; a client for which it has no room gets a 503. 65,536 by
    /// default.
    #[must_use]
    pub fn max_clients(self, clients: usize) -> Self {
        self.limits(|limits| limits.max_clients = clients)
    }

    /// Sets how many leading bits of an IPv6 address identify a client. 64 by default, the least that
    /// one customer gets.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.config.ipv6_prefix = bits;
        self
    }

    /// Exempts addresses from all limits and counts. None by default.
    #[must_use]
    pub fn allow(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.config.allow = networks.into_iter().collect();
        self
    }

    /// Sets the form of a rejection.
    #[must_use]
    pub fn reject(mut self, reject: Reject) -> Self {
        self.config.reject = reject;
        self
    }

    /// Sets body and headers of 429 and 503 responses: `f` gets the reason and the default response, with its
    /// status, `Retry-After` and a line of text, and returns the one to send. Streams of
    /// [`Reject::RetryLater`] are sent as they are.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use http::header::CONTENT_TYPE;
    /// use sse_guard::connection_limit::ConnectionLimitLayer;
    ///
    /// let limit = ConnectionLimitLayer::new().rejection_response(|reason, mut response| {
    ///     let json = HeaderValue::from_static("application/problem+json");
    ///     response.headers_mut().insert(CONTENT_TYPE, json);
    ///     response.map(|_| format!(r#"{{"title":"rejected","limit":"{}"}}"#, reason.as_str()).into())
    /// });
    /// # let _ = limit;
    /// ```
    #[must_use]
    pub fn rejection_response(
        mut self,
        f: impl Fn(RejectReason, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.config.custom = Some(CustomResponse::new(f));
        self
    }

    /// Sets when rejected clients are to retry; those over their rate no earlier than it allows. 5 s by
    /// default; jittered by half either way where it is sent as `retry:`.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.config.retry_after = time;
        self
    }

    /// Sets a gate that rejects all new streams but those of [allowed](Self::allow) addresses while it
    /// is closed. A GET that accepts an event stream then gets a stream that has it retry later, whatever
    /// [`reject`](Self::reject) is set to: it may have been here a moment ago.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.config.gate = gate.clone();
        self
    }

    /// Counts together with `other`: for limits that change while streams live. What clients have
    /// used up of a rate is forgotten if the rate is another one.
    #[must_use]
    pub fn counting_with<L>(mut self, other: &ConnectionLimitLayer<L>) -> Self {
        self.table = Arc::new(other.table.with(self.config.limits));
        self
    }

    /// Shares the counts of `other`, but for those that are `separate`: for limits of a part of a service
    /// that differ in some points from those of the whole. What is shared counts once, however many layers
    /// count it; its bounds remain those of this layer.
    #[must_use]
    pub fn sharing<L>(mut self, other: &ConnectionLimitLayer<L>, separate: SeparateCounts) -> Self {
        self.table = Arc::new(self.table.sharing(&other.table, separate));
        self
    }

    /// Returns true if a service, a stream or another layer counts in this table, too.
    #[doc(hidden)]
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.table) > 1 || self.table.is_in_use()
    }

    /// Returns the number of streams that hold a slot.
    pub fn active(&self) -> u64 {
        self.table.active()
    }

    /// Returns the number of clients in the table.
    pub fn clients(&self) -> usize {
        self.table.clients()
    }
}

/// The service that [`ConnectionLimitLayer`] makes.
pub type ConnectionLimit<S, K = PeerIp> = Guard<S, ConnectionLimitLayer<K>>;

impl<S, K: Clone> Layer<S> for ConnectionLimitLayer<K> {
    type Service = ConnectionLimit<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard::new(inner, self.clone())
    }
}

impl<K: KeyExtractor> ConnectionLimitLayer<K> {
    /// Clients on the list have no limit.
    fn allowed(&self, key: Option<&ClientKey>) -> bool {
        match key {
            Some(ClientKey::Ip(ip)) => self.config.allow.iter().any(|net| net.contains(ip)),
            _ => false,
        }
    }

    fn take(
        &self,
        key: Option<&ClientKey>,
        request_info: &RequestInfo,
    ) -> Result<Option<StreamSlot>, Rejection> {
        if self.allowed(key) {
            return Ok(None);
        }
        let key = self.network(key);
        let taken = match self.config.gate.closed() {
            Some(reason) => Err(reason.into()),
            None => self.table.take(key),
        };
        taken
            .map(Some)
            .map_err(|refused| self.refuse(&refused, request_info))
    }

    fn network(&self, key: Option<&ClientKey>) -> Option<ClientKey> {
        key.map(|key| key.clone().network(self.config.ipv6_prefix))
    }

    fn take_request(
        &self,
        key: Option<&ClientKey>,
        request_info: &RequestInfo,
        is_preflight: bool,
    ) -> Result<Option<Arc<table::RequestSlot>>, Rejection> {
        if self.config.limits.requests.is_none() || self.allowed(key) {
            return Ok(None);
        }
        let key = self.network(key);
        let taken = self.table.take_request(key.as_ref(), is_preflight);
        taken
            .map(|request| request.map(Arc::new))
            .map_err(|refused| self.refuse(&refused, request_info))
    }

    fn refuse(&self, refused: &SlotRefusal, request_info: &RequestInfo) -> Rejection {
        let reason = refused.reason;
        metrics::counter!("sse_guard_rejections_total", "reason" => reason.as_str()).increment(1);
        let retries = self.config.reject == Reject::RetryLater || reason.is_shortage();
        let client_reconnects =
            request_info.family.client_reconnects() && request_info.accepts_stream;
        let as_stream = retries && (client_reconnects || request_info.takes_retry_later());
        let retry_after = match as_stream {
            true => jittered(self.config.retry_after),
            false => self.config.retry_after,
        };
        Rejection {
            reason,
            // A client that comes before its rate allows is rejected again.
            retry_after: retry_after.max(refused.wait),
            as_stream,
            custom: self.config.custom.clone(),
        }
    }
}

impl<K: KeyExtractor> StreamLayer for ConnectionLimitLayer<K> {
    type Admitted = AdmittedRequest;
    type Policy = Permit;
    const OBSERVES: bool = false;
    const INJECTS: bool = false;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<AdmittedRequest, Rejection> {
        let key = self.extractor.key(request);
        let is_allowed = self.allowed(key.as_ref());
        let holder = self.network(key.as_ref()).filter(|_| !is_allowed);
        if let Some(reason) = self.config.gate.closed_to(holder.as_ref()) {
            return Err(self.refuse(&reason.into(), request_info));
        }
        #[cfg(feature = "serve")]
        if let Some(connection) = request.extensions().get::<crate::serve::ClientConnection>() {
            connection.set_client(holder);
        }
        let may_tunnel =
            request.headers().contains_key(UPGRADE) || request.method() == Method::CONNECT;
        let request = self.take_request(key.as_ref(), request_info, cors::is_preflight(request))?;
        let stream = if request_info.accepts_stream {
            StreamAdmission::Holds(self.take(key.as_ref(), request_info)?)
        } else {
            StreamAdmission::May
        };
        Ok(AdmittedRequest {
            stream,
            client: key,
            request,
            may_tunnel,
        })
    }

    fn extend(&self, admitted: &AdmittedRequest, extensions: &mut Extensions) {
        // A fourth extension would double the map, in memory that all requests of a burst hold at once.
        if let (Some(request), true) = (&admitted.request, admitted.may_tunnel) {
            extensions.insert(InFlight(Arc::downgrade(request)));
        }
    }

    fn open(
        &self,
        admitted: AdmittedRequest,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<Permit>, Rejection> {
        let slot = match (head.kind, admitted.stream) {
            (ResponseKind::Other, stream) => {
                // What an inner limit has rejected came too fast.
                if let (StreamAdmission::Holds(Some(slot)), false) = (stream, head.rejected) {
                    self.table.refund(&slot);
                }
                return Ok(admitted
                    .request
                    .map(|held| Permit::Request(InFlightGuard(held))));
            }
            (_, StreamAdmission::Holds(slot)) => slot,
            (_, StreamAdmission::May) => self.take(admitted.client.as_ref(), head.request_info)?,
        };
        if let (Some(stream), Some(_), Some(key)) = (head.stream, &slot, admitted.client) {
            stream.set_client(key);
        }
        Ok(Some(Permit::Stream(slot)))
    }
}
