//! What a layer does with requests and heads.

use super::policy::Policy;
use crate::rejection::Rejection;
use crate::request_info::{RequestInfo, ResponseKind};
use crate::stream::Stream;
use http::{Extensions, HeaderMap, Request, StatusCode};

/// The response head, as a rule sees it.
pub struct Head<'a> {
    pub(crate) request_info: &'a RequestInfo,
    /// Of the service, also where an answer of this crate stands in its place.
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) kind: ResponseKind,
    /// The record, if the response is a stream.
    pub(crate) stream: Option<&'a Stream>,
    pub(crate) rejected: bool,
}

impl<'a> Head<'a> {
    /// The record, if the response is a stream whose bytes can be read, and others put between them.
    pub(crate) fn readable(&self) -> Option<&'a Stream> {
        self.stream.filter(|_| self.kind == ResponseKind::Stream)
    }
}

/// Why a ticket came to nothing.
pub enum Failure {
    Rejected,
    Service,
}

/// What a layer does with requests, and which policy it has for a stream.
pub trait Rule: Clone {
    /// What an admitted request holds until its head comes. Dropped if it never does.
    type Ticket;
    type Policy: Policy;
    /// Its policies need to know what passes.
    const READS: bool;
    /// Its policies may put bytes of their own into the stream, or end it.
    const SPEAKS: bool;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection>;

    /// Adds to an admitted request what the inner service may want of its ticket.
    fn extend(&self, ticket: &Self::Ticket, extensions: &mut Extensions) {
        let _ = (ticket, extensions);
    }

    fn open(
        &self,
        ticket: Self::Ticket,
        head: &Head<'_>,
    ) -> Result<Option<Self::Policy>, Rejection>;

    fn failed(&self, ticket: Self::Ticket, failure: &Failure) {
        let _ = (ticket, failure);
    }
}

/// A rule that may be switched off.
impl<R: Rule> Rule for Option<R> {
    type Ticket = Option<R::Ticket>;
    type Policy = R::Policy;
    const READS: bool = R::READS;
    const SPEAKS: bool = R::SPEAKS;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection> {
        self.as_ref()
            .map(|rule| rule.admit(request, request_info))
            .transpose()
    }

    fn extend(&self, ticket: &Self::Ticket, extensions: &mut Extensions) {
        if let (Some(rule), Some(ticket)) = (self, ticket) {
            rule.extend(ticket, extensions);
        }
    }

    fn open(&self, ticket: Self::Ticket, head: &Head<'_>) -> Result<Option<R::Policy>, Rejection> {
        match (self, ticket) {
            (Some(rule), Some(ticket)) => rule.open(ticket, head),
            _ => Ok(None),
        }
    }

    fn failed(&self, ticket: Self::Ticket, failure: &Failure) {
        if let (Some(rule), Some(ticket)) = (self, ticket) {
            rule.failed(ticket, failure);
        }
    }
}

/// Two rules, the outer first: it sees requests first and heads last.
impl<A: Rule, B: Rule> Rule for (A, B) {
    type Ticket = (A::Ticket, B::Ticket);
    type Policy = (Option<A::Policy>, Option<B::Policy>);
    const READS: bool = A::READS || B::READS;
    const SPEAKS: bool = A::SPEAKS || B::SPEAKS;

    fn admit<T>(
        &self,
        request: &Request<T>,
        request_info: &RequestInfo,
    ) -> Result<Self::Ticket, Rejection> {
        let outer = self.0.admit(request, request_info)?;
        match self.1.admit(request, request_info) {
            Ok(inner) => Ok((outer, inner)),
            Err(rejection) => {
                self.0.failed(outer, &Failure::Rejected);
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
        head: &Head<'_>,
    ) -> Result<Option<Self::Policy>, Rejection> {
        let inner = match self.1.open(inner, head) {
            Ok(policy) => policy,
            Err(rejection) => {
                self.0.failed(outer, &Failure::Rejected);
                return Err(rejection);
            }
        };
        let outer = self.0.open(outer, head)?;
        Ok((outer.is_some() || inner.is_some()).then_some((outer, inner)))
    }

    fn failed(&self, (outer, inner): Self::Ticket, failure: &Failure) {
        self.1.failed(inner, failure);
        self.0.failed(outer, failure);
    }
}
