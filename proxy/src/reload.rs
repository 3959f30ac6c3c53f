//! A reload under way: the config is read while the proxy continues to serve, and may be stopped.

use super::control::ReloadResult;
use std::pin::Pin;
use tokio::sync::oneshot;

type PendingRead<T> = Pin<Box<dyn Future<Output = T>>>;
type ReplySender = oneshot::Sender<ReloadResult>;

/// Reads the config, once for all requests that come before a read begins.
pub(super) struct PendingReload<T> {
    start: Box<dyn Fn() -> PendingRead<T>>,
    read: Option<PendingRead<T>>,
    /// Where to send the result.
    requesters: Vec<ReplySender>,
    /// Requests that came since the read began: the config may have changed, so one more read follows.
    next: Option<Vec<ReplySender>>,
}

impl<T> PendingReload<T> {
    /// `start` begins a read.
    pub(super) fn new<F: Future<Output = T> + 'static>(start: impl Fn() -> F + 'static) -> Self {
        Self {
            start: Box::new(move || Box::pin(start())),
            read: None,
            requesters: Vec::new(),
            next: None,
        }
    }

    /// Requests a reload, whose result goes to the requester, if there is one.
    pub(super) fn request(&mut self, requester: Option<ReplySender>) {
        if self.read.is_some() {
            self.next.get_or_insert_default().extend(requester);
            return;
        }
        self.requesters.extend(requester);
        self.read = Some((self.start)());
    }

    pub(super) fn is_reading(&self) -> bool {
        self.read.is_some()
    }

    /// Waits for the config that is being read; forever if none is.
    pub(super) async fn read(&mut self) -> T {
        match &mut self.read {
            Some(read) => read.await,
            None => std::future::pending().await,
        }
    }

    /// Ends the reload, and begins the next one if there were more requests.
    pub(super) fn finish(&mut self, result: &ReloadResult) {
        self.read = None;
        for requester in self.requesters.drain(..) {
            // The requester may have disconnected.
            let _ = requester.send(result.clone());
        }
        if let Some(next) = self.next.take() {
            self.request(None);
            self.requesters = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// A reload whose reads are counted and give their number, and the count.
    fn reload() -> (PendingReload<u32>, Rc<Cell<u32>>) {
        let reads = Rc::new(Cell::new(0));
        let count = reads.clone();
        let reload = PendingReload::new(move || {
            count.set(count.get() + 1);
            std::future::ready(count.get())
        });
        (reload, reads)
    }

    fn changed(key: &'static str) -> ReloadResult {
        Ok((vec![key], Vec::new()))
    }

    #[tokio::test]
    async fn reload_result_goes_to_each_requester() {
        let (mut reload, reads) = reload();
        assert!(!reload.is_reading());
        let (sender, result) = oneshot::channel();
        reload.request(Some(sender));
        assert!(reload.is_reading());
        assert_eq!(reload.read().await, 1);
        reload.finish(&changed("threads"));
        assert_eq!(result.await.unwrap(), changed("threads"));
        assert!(!reload.is_reading());
        assert_eq!(reads.get(), 1);
    }

    #[tokio::test]
    async fn reload_requests_during_a_read_share_one_more_read() {
        let (mut reload, reads) = reload();
        let (first, first_result) = oneshot::channel();
        reload.request(Some(first));
        let mut results = Vec::new();
        for _ in 0..3 {
            let (sender, result) = oneshot::channel();
            reload.request(Some(sender));
            results.push(result);
        }
        // As a signal has no requester.
        reload.request(None);
        assert_eq!(reload.read().await, 1);
        reload.finish(&changed("first"));
        assert_eq!(first_result.await.unwrap(), changed("first"));
        assert!(results.iter_mut().all(|result| result.try_recv().is_err()));
        assert_eq!(reload.read().await, 2);
        reload.finish(&Err("second".to_owned()));
        for result in results {
            assert_eq!(result.await.unwrap(), Err("second".to_owned()));
        }
        assert!(!reload.is_reading());
        assert_eq!(reads.get(), 2);
    }

    #[tokio::test]
    async fn reload_that_is_dropped_fails_its_requesters() {
        let (mut reload, _) = reload();
        let (sender, result) = oneshot::channel();
        reload.request(Some(sender));
        drop(reload);
        assert!(result.await.is_err());
    }

    #[tokio::test]
    async fn reload_continues_after_a_requester_has_gone() {
        let (mut reload, reads) = reload();
        let (sender, result) = oneshot::channel();
        reload.request(Some(sender));
        drop(result);
        reload.finish(&changed("threads"));
        reload.request(None);
        assert_eq!(reads.get(), 2);
    }
}
