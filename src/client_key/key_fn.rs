//! Extractors from closures.

use super::{ClientKey, KeyExtractor, RequestHead};
use http::Request;
use std::fmt;

/// A [`KeyExtractor`] from a closure over the head of the request.
///
/// The rules in the documentation of [`KeyExtractor`] apply to the closure.
///
/// ```
/// use sse_guard::client_key::{ClientKey, KeyFn};
/// use std::sync::Arc;
///
/// /// Left in the extensions by the layer that checks logins.
/// #[derive(Clone)]
/// struct Account(Arc<str>);
///
/// let by_account = KeyFn::new(|request| {
///     let Account(name) = request.extensions.get()?;
///     Some(ClientKey::Name(name.clone()))
/// });
/// # use sse_guard::client_key::KeyExtractor;
/// # let request = http::Request::builder().extension(Account("acme".into())).body(()).unwrap();
/// # assert_eq!(by_account.key(&request), Some(ClientKey::from("acme")));
///
/// // The first segment of the path names the tenant.
/// let by_tenant = KeyFn::new(|request| {
///     let tenant = request.uri.path().split('/').nth(1)?;
///     Some(ClientKey::from(tenant))
/// });
/// # let request = http::Request::get("/acme/events").body(()).unwrap();
/// # assert_eq!(by_tenant.key(&request), Some(ClientKey::from("acme")));
/// ```
#[derive(Clone, Copy)]
pub struct KeyFn<F> {
    function: F,
}

impl<F> KeyFn<F>
where
    F: Fn(RequestHead<'_>) -> Option<ClientKey> + Clone + Send + Sync + 'static,
{
    /// Calls `function` once for each request; `None` is a request without a key.
    #[must_use]
    pub fn new(function: F) -> Self {
        Self { function }
    }
}

impl<F> KeyExtractor for KeyFn<F>
where
    F: Fn(RequestHead<'_>) -> Option<ClientKey> + Clone + Send + Sync + 'static,
{
    fn key<B>(&self, request: &Request<B>) -> Option<ClientKey> {
        (self.function)(RequestHead::of(request))
    }
}

impl<F> fmt::Debug for KeyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyFn")
            .field(&format_args!("{}", std::any::type_name::<F>()))
            .finish()
    }
}
