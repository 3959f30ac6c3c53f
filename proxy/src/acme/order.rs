//! One order of one certificate.

use super::cache::Cache;
use super::certificate::Certificate;
use super::challenge::{HttpChallenges, tls_alpn_key};
use super::directory::DirectoryClient;
use super::error::OrderError;
use crate::config::{Acme, AcmeChallenge};
use crate::off_thread::OffThread;
use crate::tls::ManagedKeys;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RenewalInfo, RetryPolicy,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Time limits for the CA to verify the name, and to issue the certificate.
const CA_TIMEOUT: Duration = Duration::from_secs(90);
/// Of an order as a whole.
const ORDER_TIMEOUT: Duration = Duration::from_secs(300);

/// What an order needs besides its name.
#[derive(Clone)]
pub(super) struct Orders {
    pub(super) config: Acme,
    pub(super) cache: Cache,
    pub(super) http: Arc<HttpChallenges>,
    /// Of the listeners, which answer challenges.
    pub(super) keys: Vec<Arc<ManagedKeys>>,
    pub(super) disk: OffThread,
}

/// The end of a challenge, whatever comes of the order.
struct PublishedChallenge<'a> {
    orders: &'a Orders,
    name: &'a str,
    token: String,
}

impl Drop for PublishedChallenge<'_> {
    fn drop(&mut self) {
        self.orders.http.remove(&self.token);
        for keys in &self.orders.keys {
            keys.set_challenge(self.name, None);
        }
    }
}

impl Orders {
    /// Orders a certificate in place of this one, and stores it.
    pub(super) async fn order(
        &self,
        name: &str,
        challenge: AcmeChallenge,
        before: Option<&Certificate>,
    ) -> Result<Certificate, OrderError> {
        let order = self.order_without_limit(name, challenge, before);
        match timeout(ORDER_TIMEOUT, order).await {
            Ok(result) => result,
            Err(_) => Err(OrderError::Timeout(ORDER_TIMEOUT.as_secs())),
        }
    }

    async fn order_without_limit(
        &self,
        name: &str,
        challenge: AcmeChallenge,
        before: Option<&Certificate>,
    ) -> Result<Certificate, OrderError> {
        let account = self.account().await?;
        let mut order = match self.begin(&account, name, before).await {
            // The account may be of another time of the CA, as of a trial; the next attempt gets a new one.
            Err(Error::Api(problem)) if is_unknown_account(problem.r#type.as_deref()) => {
                let cache = self.cache.clone();
                self.disk.run(move || cache.remove_account()).await??;
                return Err(Error::Api(problem).into());
            }
            order => order?,
        };
        self.verify(&mut order, name, challenge).await?;
        let policy = RetryPolicy::new().timeout(CA_TIMEOUT);
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&policy).await?;
        let pem = format!("{}\n{key}", chain.trim_end());
        let certificate = Certificate::from_pem(&pem, name)?;
        let (cache, stored) = (self.cache.clone(), name.to_owned());
        self.disk
            .run(move || cache.store_certificate(&stored, &pem))
            .await??;
        Ok(certificate)
    }

    /// The account of the cache, or a new one.
    async fn account(&self) -> Result<Account, OrderError> {
        let client = DirectoryClient::new(self.config.tls.config().clone());
        let builder = Account::builder_with_http(Box::new(client));
        let cache = self.cache.clone();
        if let Some(credentials) = self.disk.run(move || cache.account()).await?? {
            let credentials = serde_json::from_str(&credentials)?;
            return Ok(builder.from_credentials(credentials).await?);
        }
        let contact: Vec<&str> = self.config.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            // The config has none otherwise.
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let directory = self.config.directory.to_string();
        let (account, credentials) = builder.create(&new, directory, None).await?;
        let (cache, credentials) = (self.cache.clone(), serde_json::to_string(&credentials)?);
        self.disk
            .run(move || cache.store_account(&credentials))
            .await??;
        Ok(account)
    }

    async fn begin(
        &self,
        account: &Account,
        name: &str,
        before: Option<&Certificate>,
    ) -> Result<Order, Error> {
        let identifiers = [Identifier::Dns(name.to_owned())];
        if let Some(id) = before.and_then(Certificate::id) {
            let order = NewOrder::new(&identifiers).replaces(id);
            match account.new_order(&order).await {
                // It has no renewal information, or does not know the certificate, as that of another CA.
                Err(Error::Unsupported(_) | Error::Other(_)) => {}
                Err(Error::Api(problem)) if !is_unknown_account(problem.r#type.as_deref()) => {}
                order => return order,
            }
        }
        account.new_order(&NewOrder::new(&identifiers)).await
    }

    /// Answers the challenges of an order until the CA has verified the name.
    async fn verify(
        &self,
        order: &mut Order,
        name: &str,
        challenge: AcmeChallenge,
    ) -> Result<(), OrderError> {
        let kind = match challenge {
            AcmeChallenge::Http => ChallengeType::Http01,
            AcmeChallenge::TlsAlpn | AcmeChallenge::Auto => ChallengeType::TlsAlpn01,
        };
        let mut published = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut offered = authorization
                .challenge(kind.clone())
                .ok_or(OrderError::NotOffered(challenge))?;
            let answer = offered.key_authorization();
            published.push(PublishedChallenge {
                orders: self,
                name,
                token: offered.token.clone(),
            });
            if challenge == AcmeChallenge::Http {
                self.http.set(&offered.token, answer.as_str());
            } else {
                let key = tls_alpn_key(name, answer.digest().as_ref())?;
                for keys in &self.keys {
                    keys.set_challenge(name, Some(&key));
                }
            }
            offered.set_ready().await?;
        }
        let policy = RetryPolicy::new().timeout(CA_TIMEOUT);
        let refused = match order.poll_ready(&policy).await {
            Ok(OrderStatus::Ready) => return Ok(()),
            Ok(_) => OrderError::Refused,
            Err(error @ Error::Api(_)) => error.into(),
            Err(error) => return Err(error.into()),
        };
        Err(reason(order, challenge).await.unwrap_or(refused))
    }

    /// When the CA suggests to renew a certificate, and when to request that again; nothing if it does not support it.
    pub(super) async fn renewal_info(
        &self,
        certificate: &Certificate,
    ) -> Result<Option<(RenewalInfo, Duration)>, OrderError> {
        let Some(id) = certificate.id() else {
            return Ok(None);
        };
        match self.account().await?.renewal_info(&id).await {
            Err(Error::Unsupported(_)) => Ok(None),
            info => Ok(Some(info?)),
        }
    }
}

/// Why the CA has not verified the name: it is at the challenge, not at the order.
async fn reason(order: &mut Order, challenge: AcmeChallenge) -> Option<OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let mut problems = state.challenges.iter().filter_map(|it| it.error.clone());
        if let Some(problem) = problems.next() {
            return Some(OrderError::Validation(challenge, problem));
        }
    }
    None
}

fn is_unknown_account(kind: Option<&str>) -> bool {
    kind == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}
