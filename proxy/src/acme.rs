//! Certificates by ACME (RFC 8555): ordered, renewed, and swapped while listeners serve.
//!
//! One task orders one certificate at a time, a certificate for each name: a name that the CA refuses does not keep the
//! others from theirs.

mod cache;
mod certificate;
mod challenge;
mod directory;
mod error;
mod managed_name;
mod order;
mod schedule;

pub(crate) use challenge::HttpChallenges;

use crate::config::Acme;
use crate::off_thread::OffThread;
use crate::tls::ManagedKeys;
use cache::{Cache, CacheLock};
use certificate::Certificate;
use error::{OrderError, challenge_name};
use managed_name::{Due, ManagedName};
use metrics::Unit;
use order::Orders;
use rustls::sign::CertifiedKey;
use sse_guard::internal::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The task checks the clock at least this often: a machine may sleep, and clocks are set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// The certificates of ACME while the proxy serves. Dropped, no more are ordered.
pub(crate) struct CertificateManager {
    installed: Arc<Installed>,
    setup: watch::Sender<Setup>,
    task: JoinHandle<()>,
}

/// What the config sets.
#[derive(Clone, Default)]
struct Setup {
    acme: Option<Acme>,
    /// Of the listeners.
    keys: Vec<Arc<ManagedKeys>>,
}

/// The certificates in use by their names, for listeners that a reload opens.
#[derive(Default)]
struct Installed(Mutex<HashMap<String, Arc<CertifiedKey>>>);

impl Installed {
    fn set(&self, name: &str, certificate: &Certificate, keys: &[Arc<ManagedKeys>]) {
        lock(&self.0).insert(name.to_owned(), certificate.key.clone());
        for keys in keys {
            keys.set_certificate(name, &certificate.key);
        }
        let not_after = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH);
        not_after_gauge(name).set(not_after.unwrap_or_default().as_secs_f64());
    }

    /// All that are known, of these listeners.
    fn install(&self, keys: &[Arc<ManagedKeys>]) {
        for (name, certificate) in &*lock(&self.0) {
            for keys in keys {
                keys.set_certificate(name, certificate);
            }
        }
    }
}

fn not_after_gauge(name: &str) -> metrics::Gauge {
    metrics::gauge!("sse_guard_certificate_not_after_seconds", "name" => name.to_owned())
}

fn orders_counter(result: &'static str) -> metrics::Counter {
    metrics::counter!("sse_guard_acme_orders_total", "result" => result)
}

pub(crate) fn describe() {
    metrics::describe_gauge!(
        "sse_guard_certificate_not_after_seconds",
        Unit::Seconds,
        "When the certificate of a name expires, by listener.tls.acme, as a Unix time"
    );
    metrics::describe_counter!(
        "sse_guard_acme_orders_total",
        Unit::Count,
        "Orders of certificates at the CA, by result: issued or failed"
    );
    for result in ["issued", "failed"] {
        orders_counter(result).increment(0);
    }
}

impl CertificateManager {
    /// Installs the certificates of the cache, and begins to order the others.
    pub(crate) async fn start(
        acme: Option<Acme>,
        keys: Vec<Arc<ManagedKeys>>,
        http: Arc<HttpChallenges>,
    ) -> Self {
        let installed = Arc::<Installed>::default();
        let (setup, receiver) = watch::channel(Setup { acme, keys });
        let mut task = Task {
            installed: installed.clone(),
            http,
            disk: OffThread::default(),
            orders: None,
            names: Vec::new(),
            setup: receiver,
        };
        task.apply().await;
        Self {
            installed,
            setup,
            task: tokio::spawn(task.run()),
        }
    }

    /// These settings count from now on, for these listeners.
    pub(crate) fn reload(&self, acme: Option<Acme>, keys: Vec<Arc<ManagedKeys>>) {
        self.installed.install(&keys);
        self.setup.send_replace(Setup { acme, keys });
    }
}

impl Drop for CertificateManager {
    fn drop(&mut self) {
        // Which also gives the lock of the cache to the next process.
        self.task.abort();
    }
}

struct Task {
    installed: Arc<Installed>,
    http: Arc<HttpChallenges>,
    disk: OffThread,
    /// None without ACME.
    orders: Option<Orders>,
    names: Vec<ManagedName>,
    setup: watch::Receiver<Setup>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let now = SystemTime::now();
            let next = self.names.iter().enumerate();
            let next = next.map(|(index, name)| (name.next(), index));
            let next = next.min_by_key(|((at, _), _)| *at);
            let until = next.map(|((at, _), _)| at.duration_since(now).unwrap_or_default());
            let wait = sleep(until.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP));
            tokio::select! {
                changed = self.setup.changed() => match changed {
                    Ok(()) => self.apply().await,
                    Err(_) => return,
                },
                () = wait => {
                    let Some(((at, due), index)) = next else {
                        continue;
                    };
                    if at > SystemTime::now() {
                        continue;
                    }
                    // To its end, whatever is reloaded meanwhile: a CA counts orders.
                    match due {
                        Due::Order => self.renew(index).await,
                        Due::RenewalInfo => self.check(index).await,
                        Due::Cache => drop(self.take_from_cache(index).await),
                    }
                }
            }
        }
    }

    /// Reads the settings, and the certificates of the cache for names that are new.
    async fn apply(&mut self) {
        let Setup { acme, keys } = self.setup.borrow_and_update().clone();
        let mut before = std::mem::take(&mut self.names);
        let Some(acme) = acme else {
            self.orders = None;
            forget(&before);
            return;
        };
        let orders = Orders {
            cache: Cache::new(&acme.cache, &acme.directory),
            config: acme,
            http: self.http.clone(),
            keys,
            disk: self.disk.clone(),
        };
        let is_same_ca = self.orders.as_ref().is_some_and(|it| {
            (&it.config.directory, &it.config.cache)
                == (&orders.config.directory, &orders.config.cache)
        });
        for config in &orders.config.names {
            let known = before.iter().position(|known| known.name() == config.name);
            match known.map(|index| before.swap_remove(index)) {
                Some(known) if is_same_ca => self.names.push(known.with_config(config.clone())),
                _ => {
                    let certificate = self.cached(&orders.cache, &config.name).await;
                    match &certificate {
                        Some(certificate) => {
                            self.installed.set(&config.name, certificate, &orders.keys);
                        }
                        None => tracing::warn!(
                            name = config.name,
                            "no certificate yet: TLS handshakes fail until the CA has issued one"
                        ),
                    }
                    let name = ManagedName::new(config.clone(), certificate, SystemTime::now());
                    self.names.push(name);
                }
            }
        }
        forget(&before);
        self.orders = Some(orders);
    }

    /// One that cannot be read is ordered anew.
    async fn cached(&self, cache: &Cache, name: &str) -> Option<Certificate> {
        let (cache, name) = (cache.clone(), name.to_owned());
        let read = self.disk.run(move || cache.certificate(&name)).await;
        match read.map_err(OrderError::from).and_then(|read| Ok(read?)) {
            Ok(certificate) => certificate,
            Err(error) => {
                tracing::warn!("a certificate of the cache is not used: {error}");
                None
            }
        }
    }

    async fn lock(&self, cache: &Cache) -> Result<Option<CacheLock>, OrderError> {
        let cache = cache.clone();
        Ok(self.disk.run(move || cache.lock()).await??)
    }

    /// Gets a certificate: that of another process, or one of an order.
    async fn renew(&mut self, index: usize) {
        let Some(orders) = self.orders.clone() else {
            return;
        };
        let name = self.names[index].name().to_owned();
        let locked = self.lock(&orders.cache).await;
        if self.take_from_cache(index).await.is_some() {
            return;
        }
        let challenge = self.names[index].challenge();
        let ordered = match locked {
            Ok(None) => return self.names[index].wait_for_lock(SystemTime::now()),
            Err(error) => Err(error),
            Ok(Some(_lock)) => {
                let before = self.names[index].certificate();
                orders.order(&name, challenge, before).await
            }
        };
        let now = SystemTime::now();
        match ordered {
            Ok(certificate) => {
                // Of the listeners that there are now.
                let keys = self.setup.borrow().keys.clone();
                self.installed.set(&name, &certificate, &keys);
                orders_counter("issued").increment(1);
                tracing::info!(
                    name,
                    challenge = challenge_name(challenge),
                    expires = %humantime::format_rfc3339_seconds(certificate.not_after),
                    "certificate issued"
                );
                self.names[index].issued(certificate, now);
            }
            Err(error) => {
                orders_counter("failed").increment(1);
                let expires = self.names[index].certificate().map(|it| it.not_after);
                let expires = expires.map(|at| humantime::format_rfc3339_seconds(at).to_string());
                let retry = self.names[index].failed(now);
                // Its rate is that of the attempts.
                tracing::error!(
                    name,
                    challenge = challenge_name(challenge),
                    %error,
                    remedy = error.remedy(),
                    expires,
                    retry_seconds = retry.as_secs(),
                    "cannot get a certificate"
                );
            }
        }
    }

    /// Uses the certificate that another process has ordered meanwhile, if one has.
    async fn take_from_cache(&mut self, index: usize) -> Option<()> {
        let orders = self.orders.as_ref()?;
        let name = self.names.get(index)?.name().to_owned();
        let cached = self.cached(&orders.cache, &name).await;
        let now = SystemTime::now();
        self.names[index].cache_missed(now);
        let cached = cached.filter(|it| self.names[index].is_replaced_by(it, now))?;
        self.installed.set(&name, &cached, &orders.keys);
        tracing::info!(
            name,
            "using the certificate that another process has ordered"
        );
        self.names[index].set_certificate(cached);
        Some(())
    }

    /// Requests renewal information.
    async fn check(&mut self, index: usize) {
        let name = &mut self.names[index];
        let (Some(orders), Some(certificate)) = (&self.orders, name.certificate()) else {
            return;
        };
        match orders.renewal_info(certificate).await {
            Ok(info) => name.set_renewal_info(info, SystemTime::now()),
            Err(error) => {
                tracing::debug!(name = name.name(), %error, "no renewal information of the CA");
                name.renewal_info_failed(SystemTime::now());
            }
        }
    }
}

/// Names that the config does not have any more.
fn forget(names: &[ManagedName]) {
    for name in names {
        // An alert on its expiry must not fire.
        not_after_gauge(name.name()).set(f64::NAN);
    }
}
