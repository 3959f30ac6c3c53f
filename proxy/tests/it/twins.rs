//! The faults of HTTP/1.1 in plain text over TLS and HTTP/2: one scenario runs over each way to connect.

#[cfg(target_os = "linux")]
mod certificates;
mod clients;
#[cfg(target_os = "linux")]
mod pressure;
#[cfg(target_os = "linux")]
mod takeover;
mod uploads;
mod upstreams;

use crate::faults::answer;
use crate::support::tls::{Authority, Files, server_config};
use crate::support::ways::{Death, Peer, Way, Ways};
use crate::support::{Answer, End, Origin, PATIENCE, ReceivedRequest, gate, wait_until};
use rustls::ALL_VERSIONS;

/// A proxy that lets one stream of a client in, so that what is left of another shows.
struct Watched {
    ways: Ways,
    origin: Origin,
    #[cfg(target_os = "linux")]
    files: usize,
}

impl Watched {
    /// The origin has to answer `/held` with a stream that it holds, and `/short` with one that it ends.
    fn start(
        flags: &[&str],
        answer: impl Fn(ReceivedRequest, &mut Answer) + Send + Sync + 'static,
    ) -> Self {
        Self::before(Upstream::Plain, flags, answer)
    }

    fn before(
        upstream: Upstream,
        flags: &[&str],
        answer: impl Fn(ReceivedRequest, &mut Answer) + Send + Sync + 'static,
    ) -> Self {
        let authority = Authority::new("test CA");
        let (origin, scheme) = match upstream {
            Upstream::Plain => (Origin::start(answer), "http"),
            Upstream::Tls => {
                let config = server_config(&authority.issue(&["127.0.0.1"]), ALL_VERSIONS);
                (Origin::over_tls(config, answer), "https")
            }
        };
        let mut all = vec![
            "--limit-per-ip=1",
            "--limit-rate=off",
            // It follows limit.per_ip, and these tests open and drop many connections at once.
            "--client-max-connections=off",
            "--upstream-unavailable=status",
        ];
        all.extend(flags);
        let url = format!("{scheme}://{}", origin.addr);
        let ways = Ways::with_authority(authority, &url, &all);
        let mut client = ways.get(Way::Http1, "/held");
        client.opened("\n\n");
        let watched = Self {
            // Less the client's connection and the upstream's.
            #[cfg(target_os = "linux")]
            files: ways.proxy.files() - 2,
            ways,
            origin,
        };
        drop(client);
        watched.wait_for_a_slot();
        watched
    }

    fn get(&self, way: Way, path: &str) -> Peer {
        self.ways.get(way, path)
    }

    /// Begins an upload of ten bytes, of which it sends the first half.
    fn post_half(&self, way: Way, path: &str) -> Peer {
        let mut peer = self.ways.connect(way);
        peer.post(path, 10);
        // HTTP/2 ends the stream of an upload whose response is complete.
        let _ = peer.upload(crate::faults::HALF.as_bytes());
        peer
    }

    /// Until the next client is let in. Its own slot is free when this is back.
    fn wait_for_a_slot(&self) {
        wait_until("a slot", || {
            let mut client = self.get(Way::Http1, "/short");
            let is_in = client.status() == Some(200);
            if is_in {
                assert_eq!(client.rest(), (b"data: 1\n\n".to_vec(), End::Clean));
            }
            is_in
        });
    }

    fn assert_nothing_is_left(mut self) {
        self.origin.wait_for_open(0);
        self.wait_for_a_slot();
        #[cfg(target_os = "linux")]
        wait_until("the files of the start", || {
            self.ways.proxy.files() == self.files
        });
        let last = self.ways.proxy.stop();
        assert_eq!((&last["active"], &last["slots"]), (&0.into(), &0.into()));
        assert_eq!(last["cut_off"], 0, "{last}");
        let log = self.ways.proxy.log();
        assert!(!log.contains("panicked"), "{log}");
        let ends = log.matches("\"stream ended\"").count();
        assert_eq!(last["opened"], ends);
    }
}

/// How the proxy connects to its upstream.
#[derive(Clone, Copy, Debug)]
enum Upstream {
    Plain,
    Tls,
}
