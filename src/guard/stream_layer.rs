//! What a layer does with requests and response heads.

use super::policy::Policy;
use crate::rejection::Rejection;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::stream::Stream;
use http::{Extensions, HeaderMap, Request, StatusCode};

/// The response head.
pub struct ResponseInfo<'a> {
    pub(crate) request_info: &'a RequestInfo,
    /// The service's status, even if a response of this crate replaces it.
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) kind: ResponseKind,
    /// The record, if the response is a stream.
    pub(crate) stream: Option<&'a Stream>,
    pub(crate) rejected: bool,
}

impl<'a> ResponseInfo<'a> {
    /// The record, if the response is a stream into which events can be injected.
    pub(crate) fn readable(&self) -> Option<&'a Stream> {
        self.stream.filter(|_| self.kind == ResponseKind::Stream)
    }
}

/// Why an admitted request got no response from the service.
pub enum NotOpened {
    /// A layer inside has rejected it.
    Rejected,
    /// The service has failed.
    ServiceError,
}

/// A layer of this crate: admits requests, and opens a policy for each stream.
pub trait StreamLayer: Clone {
    /// What an admitted request holds until its response head arrives. Dropped if none does.
    type Ticket;
    type Policy: Policy;
    /// Its policies receive notices.
    const OBSERVES: bool;
    /// Its policies may inject bytes into a stream, or end it.
    const INJECTS: bool;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection>;

    /// Adds data of the ticket to the extensions of an admitted request.
    fn extend(&self, ticket: &Self::Ticket, extensions: &mut Extensions) {
        let _ = (ticket, extensions);
    }

    fn open(
        &self,
        ticket: Self::Ticket,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<Self::Policy>, Rejection>;

    fn not_opened(&self, ticket: Self::Ticket, reason: &NotOpened) {
        let _ = (ticket, reason);
    }
}

/// A layer that may be switched off.
impl<L: StreamLayer> StreamLayer for Option<L> {
    type Ticket = Option<L::Ticket>;
    type Policy = L::Policy;
    const OBSERVES: bool = L::OBSERVES;
    const INJECTS: bool = L::INJECTS;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection> {
        self.as_ref()
            .map(|layer| layer.admit(request, request_info))
            .transpose()
    }

    fn extend(&self, ticket: &Self::Ticket, extensions: &mut Extensions) {
        if let (Some(layer), Some(ticket)) = (self, ticket) {
            layer.extend(ticket, extensions);
        }
    }

    fn open(
        &self,
        ticket: Self::Ticket,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<L::Policy>, Rejection> {
        match (self, ticket) {
            (Some(layer), Some(ticket)) => layer.open(ticket, head),
            _ => Ok(None),
        }
    }

    fn not_opened(&self, ticket: Self::Ticket, reason: &NotOpened) {
        if let (Some(layer), Some(ticket)) = (self, ticket) {
            layer.not_opened(ticket, reason);
        }
    }
}

/// Two layers, the outer first: it gets requests first and heads last.
impl<A: StreamLayer, B: StreamLayer> StreamLayer for (A, B) {
    type Ticket = (A::Ticket, B::Ticket);
    type Policy = (Option<A::Policy>, Option<B::Policy>);
    const OBSERVES: bool = A::OBSERVES || B::OBSERVES;
    const INJECTS: bool = A::INJECTS || B::INJECTS;

    fn admit<T>(
        &self,
        request: &Request<T>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection> {
        let outer = self.0.admit(request, request_info)?;
        match self.1.admit(request, request_info) {
            Ok(inner) => Ok((outer, inner)),
            Err(rejection) => {
                self.0.not_opened(outer, &NotOpened::Rejected);
                Err(rejection)
            }
        }
    }

    fn extend(&self, (outer, inner): &Self::Ticket, extensions: &mut Extensions) {
        self.0.extend(outer, extensions);
        self.1.extend(inner, extensions);
    }

    fn open(
        &self,
        (outer, inner): Self::Ticket,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<Self::Policy>, Rejection> {
        let inner = match self.1.open(inner, head) {
            Ok(policy) => policy,
            Err(rejection) => {
                self.0.not_opened(outer, &NotOpened::Rejected);
                return Err(rejection);
            }
        };
        let outer = self.0.open(outer, head)?;
        Ok((outer.is_some() || inner.is_some()).then_some((outer, inner)))
    }

    fn not_opened(&self, (outer, inner): Self::Ticket, reason: &NotOpened) {
        self.1.not_opened(inner, reason);
        self.0.not_opened(outer, reason);
    }
}
