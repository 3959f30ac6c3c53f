//! The certificate of one name, and when something is to be done about it.

use super::certificate::Certificate;
use super::schedule;
use crate::config::{AcmeChallenge, AcmeName};
use instant_acme::RenewalInfo;
use std::time::{Duration, SystemTime};

/// While another process orders, for certificates of which this one waits.
const LOCK_RETRY: Duration = Duration::from_secs(2);
/// Between two reads of the cache for the certificate of another process, while the own orders fail.
const CACHE_RETRY: Duration = Duration::from_secs(60);
/// Between two requests for renewal information, if one has failed.
const CHECK_RETRY: Duration = Duration::from_secs(6 * 60 * 60);

#[derive(Debug)]
pub(super) struct ManagedName {
    config: AcmeName,
    certificate: Option<Certificate>,
    /// When the next order is due.
    order_at: SystemTime,
    /// Failed orders in sequence.
    failures: u32,
    /// When to read the cache for the certificate of another process: the CA may reach that one alone.
    cache_at: Option<SystemTime>,
    /// When to request renewal information, if the CA has any.
    check_at: Option<SystemTime>,
    /// What the CA suggested last.
    window: Option<(SystemTime, SystemTime)>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Order,
    RenewalInfo,
    Cache,
}

impl ManagedName {
    /// With the certificate of the cache, if there is one.
    pub(super) fn new(config: AcmeName, certificate: Option<Certificate>, now: SystemTime) -> Self {
        let mut this = Self {
            config,
            certificate: None,
            order_at: now,
            failures: 0,
            cache_at: None,
            check_at: None,
            window: None,
        };
        if let Some(certificate) = certificate {
            this.set_certificate(certificate);
            this.check_at = Some(now + schedule::first_check());
        }
        this
    }

    /// With the settings of a reload.
    pub(super) fn with_config(self, config: AcmeName) -> Self {
        Self { config, ..self }
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// The challenge to answer now: after a failure another one, if there is one.
    pub(super) fn challenge(&self) -> AcmeChallenge {
        let failures = usize::try_from(self.failures).unwrap_or_default();
        let mut challenges = self.config.challenges.iter().cycle().skip(failures % 2);
        challenges.next().copied().unwrap_or(AcmeChallenge::Auto)
    }

    /// What is due next, and when.
    pub(super) fn next(&self) -> (SystemTime, Due) {
        let others = [
            (self.check_at, Due::RenewalInfo),
            (self.cache_at, Due::Cache),
        ];
        let others = others.into_iter().filter_map(|(at, due)| Some((at?, due)));
        let order = (self.order_at, Due::Order);
        others.fold(order, |first, other| match other.0 < first.0 {
            true => other,
            false => first,
        })
    }

    /// Sets a certificate, of an order or of the cache.
    pub(super) fn set_certificate(&mut self, certificate: Certificate) {
        self.order_at = schedule::renewal(&certificate);
        self.certificate = Some(certificate);
        self.failures = 0;
        self.cache_at = None;
        self.window = None;
        self.check_at = None;
    }

    /// The CA has issued a certificate.
    pub(super) fn issued(&mut self, certificate: Certificate, now: SystemTime) {
        self.set_certificate(certificate);
        self.check_at = Some(now);
    }

    /// The order has failed. Returns the delay of the next attempt.
    pub(super) fn failed(&mut self, now: SystemTime) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = schedule::retry_delay(self.failures);
        self.order_at = now + delay;
        self.cache_missed(now);
        delay
    }

    /// No other process has a certificate either.
    pub(super) fn cache_missed(&mut self, now: SystemTime) {
        self.cache_at = Some(now + CACHE_RETRY);
    }

    /// Another process orders.
    pub(super) fn wait_for_lock(&mut self, now: SystemTime) {
        self.order_at = now + LOCK_RETRY;
    }

    /// Whether this certificate of the cache replaces that of this process, which another one has renewed meanwhile.
    pub(super) fn is_replaced_by(&self, cached: &Certificate, now: SystemTime) -> bool {
        let own = self.certificate.as_ref();
        own.is_none_or(|own| cached.not_after > own.not_after) && cached.not_after > now
    }

    /// The CA's answer about the time of renewal; `None` if it has none for any certificate.
    pub(super) fn set_renewal_info(
        &mut self,
        info: Option<(RenewalInfo, Duration)>,
        now: SystemTime,
    ) {
        let Some((info, retry_after)) = info else {
            self.check_at = None;
            return;
        };
        self.check_at = Some(now + schedule::check_delay(retry_after));
        let window = info.suggested_window;
        let window = (window.start.into(), window.end.into());
        // The moment in a window is chosen once.
        if self.failures == 0
            && self.window != Some(window)
            && let Some(certificate) = &self.certificate
        {
            self.order_at = schedule::in_window(certificate, window.0, window.1);
            self.window = Some(window);
        }
    }

    pub(super) fn renewal_info_failed(&mut self, now: SystemTime) {
        self.check_at = Some(now + CHECK_RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::issued;
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn name() -> AcmeName {
        AcmeName {
            name: "a.test".to_owned(),
            challenges: vec![AcmeChallenge::TlsAlpn, AcmeChallenge::Http],
        }
    }

    /// Of 90 days, from the first of January 2026 on.
    fn certificate() -> Certificate {
        let pem = issued("a.test", |params| {
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        });
        Certificate::from_pem(&pem, "a.test").unwrap()
    }

    fn info(start: SystemTime, end: SystemTime) -> Option<(RenewalInfo, Duration)> {
        let text = |time| humantime::format_rfc3339_seconds(time).to_string();
        let json = format!(
            r#"{{"suggestedWindow":{{"start":"{}","end":"{}"}}}}"#,
            text(start),
            text(end)
        );
        Some((serde_json::from_str(&json).unwrap(), DAY / 4))
    }

    #[test]
    fn order_without_a_certificate_is_due_now_and_challenges_alternate_after_failures() {
        let now = SystemTime::now();
        let mut name = ManagedName::new(name(), None, now);
        assert_eq!(name.next(), (now, Due::Order));
        for challenge in [
            AcmeChallenge::TlsAlpn,
            AcmeChallenge::Http,
            AcmeChallenge::TlsAlpn,
        ] {
            assert_eq!(name.challenge(), challenge);
            let delay = name.failed(now);
            assert_eq!(name.order_at, now + delay);
            // Another process may get one.
            assert_eq!(name.next(), (now + CACHE_RETRY, Due::Cache));
            name.cache_missed(now + delay);
            assert_eq!(name.next(), (now + delay, Due::Order));
        }
        name.issued(certificate(), now);
        assert_eq!(name.challenge(), AcmeChallenge::TlsAlpn);
    }

    #[test]
    fn certificate_of_the_cache_is_used_until_a_third_of_its_lifetime_is_left() {
        let certificate = certificate();
        let (start, end) = (certificate.not_before, certificate.not_after);
        let mut name = ManagedName::new(name(), Some(certificate), start);
        let (check_at, due) = name.next();
        assert!(due == Due::RenewalInfo && check_at > start && check_at < start + DAY);
        name.set_renewal_info(None, check_at);
        let (order_at, due) = name.next();
        assert!(due == Due::Order && order_at <= end - 30 * DAY && order_at >= end - 33 * DAY);
    }

    #[test]
    fn window_of_the_ca_moves_the_renewal_once() {
        let certificate = certificate();
        let start = certificate.not_before;
        let mut name = ManagedName::new(name(), None, start);
        name.issued(certificate, start);
        assert_eq!(name.next(), (start, Due::RenewalInfo));
        let order_at = |name: &ManagedName| name.order_at;
        name.set_renewal_info(info(start + 10 * DAY, start + 20 * DAY), start);
        let first = order_at(&name);
        assert!(first >= start + 10 * DAY && first <= start + 20 * DAY);
        assert_eq!(name.next(), (start + DAY / 4, Due::RenewalInfo));
        for _ in 0..20 {
            name.set_renewal_info(info(start + 10 * DAY, start + 20 * DAY), start);
            assert_eq!(order_at(&name), first);
        }
        // As after a revocation.
        name.set_renewal_info(info(start, start), start);
        assert_eq!(order_at(&name), start + 90 * DAY / 100);
        // A failed renewal is repeated by its own delay.
        let delay = name.failed(start);
        name.set_renewal_info(info(start, start + DAY), start);
        assert_eq!(order_at(&name), start + delay);
    }

    #[test]
    fn certificate_that_another_process_has_renewed_replaces_the_own() {
        let (now, own) = (SystemTime::now(), certificate());
        let of = |until: i32| {
            let pem = issued("a.test", |params| {
                params.not_after = rcgen::date_time_ymd(until, 1, 1);
            });
            Certificate::from_pem(&pem, "a.test").unwrap()
        };
        let name = ManagedName::new(name(), Some(own.clone()), now);
        assert!(name.is_replaced_by(&of(2999), now));
        assert!(!name.is_replaced_by(&own, now));
        assert!(!name.is_replaced_by(&of(2000), now));
    }
}
