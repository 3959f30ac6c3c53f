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
    type Admitted;
    type Policy: Policy;
    /// Its policies receive notices.
    const OBSERVES: bool;
    /// Its policies may inject bytes into a stream, or end it.
    const INJECTS: bool;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Admitted, Rejection>;

    /// Adds data of an admitted request to its extensions.
    fn extend(&self, admitted: &Self::Admitted, extensions: &mut Extensions) {
        let _ = (admitted, extensions);
    }

    fn open(
        &self,
        admitted: Self::Admitted,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<Self::Policy>, Rejection>;

    fn not_opened(&self, admitted: Self::Admitted, reason: &NotOpened) {
        let _ = (admitted, reason);
    }
}

/// A layer that may be switched off.
impl<L: StreamLayer> StreamLayer for Option<L> {
    type Admitted = Option<L::Admitted>;
    type Policy = L::Policy;
    const OBSERVES: bool = L::OBSERVES;
    const INJECTS: bool = L::INJECTS;

    fn admit<B>(
        &self,
        request: &Request<B>,
        request_info: &RequestInfo,
    ) -> Result<Self::Admitted, Rejection> {
        self.as_ref()
            .map(|layer| layer.admit(request, request_info))
            .transpose()
    }

    fn extend(&self, admitted: &Self::Admitted, extensions: &mut Extensions) {
        if let (Some(layer), Some(admitted)) = (self, admitted) {
            layer.extend(admitted, extensions);
        }
    }

    fn open(
        &self,
        admitted: Self::Admitted,
        head: &ResponseInfo<'_>,
    ) -> Result<Option<L::Policy>, Rejection> {
        match (self, admitted) {
            (Some(layer), Some(admitted)) => layer.open(admitted, head),
            _ => Ok(None),
        }
    }

    fn not_opened(&self, admitted: Self::Admitted, reason: &NotOpened) {
        if let (Some(layer), Some(admitted)) = (self, admitted) {
            layer.not_opened(admitted, reason);
        }
    }
}

/// Two layers, the outer first: it gets requests first and heads last.
impl<A: StreamLayer, B: StreamLayer> StreamLayer for (A, B) {
    type Admitted = (A::Admitted, B::Admitted);
    type Policy = (Option<A::Policy>, Option<B::Policy>);
    const OBSERVES: bool = A::OBSERVES || B::OBSERVES;
    const INJECTS: bool = A::INJECTS || B::INJECTS;

    fn admit<T>(
        &self,
        request: &Request<T>,
        request_info: &RequestInfo,
    ) -> Result<Self::Admitted, Rejection> {
        let outer = self.0.admit(request, request_info)?;
        match self.1.admit(request, request_info) {
            Ok(inner) => Ok((outer, inner)),
            Err(rejection) => {
                self.0.not_opened(outer, &NotOpened::Rejected);
                Err(rejection)
            }
        }
    }

    fn extend(&self, (outer, inner): &Self::Admitted, extensions: &mut Extensions) {
        self.0.extend(outer, extensions);
        self.1.extend(inner, extensions);
    }

    fn open(
        &self,
        (outer, inner): Self::Admitted,
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

    fn not_opened(&self, (outer, inner): Self::Admitted, reason: &NotOpened) {
        self.1.not_opened(inner, reason);
        self.0.not_opened(outer, reason);
    }
}
