//! Which listeners stay at a reload, which are opened, and which go.

use crate::config::{ListenAddress, ListenerConfig};

/// A listener whose socket is open.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// With which it was opened.
    pub(crate) config: ListenerConfig,
    /// The socket is the service manager's, whatever the address of the config is.
    pub(crate) is_inherited: bool,
}

impl Bound {
    /// The service manager has passed the socket in place of the address of the config, and this is the next one.
    fn is_in_place_of(&self, wanted: &ListenAddress) -> bool {
        let names_socket = |address: &ListenAddress| address.passed().is_some();
        self.is_inherited && !names_socket(&self.config.address) && !names_socket(wanted)
    }
}

/// What a listener of the new config gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The socket with this index.
    Keep(usize),
    /// The same, although the address differs: another socket requires a restart.
    Hold(usize),
    Open,
}

/// Plans a reload. Sockets that no step names are to be closed.
///
/// An address on the port of a socket that goes is held: this process has the port until that socket is
/// closed, and clients would be refused in between.
pub(crate) fn plan(bound: &[Bound], wanted: &[ListenerConfig]) -> Vec<Step> {
    let mut is_free = vec![true; bound.len()];
    let mut take = |is_right: &dyn Fn(&Bound) -> bool| {
        let mut indices = 0..bound.len();
        let index = indices.find(|&index| is_free[index] && is_right(&bound[index]))?;
        is_free[index] = false;
        Some(index)
    };
    let kept: Vec<_> = wanted
        .iter()
        .map(|wanted| take(&|bound| bound.config.address == wanted.address))
        .collect();
    let steps = wanted.iter().zip(kept).map(|(wanted, kept)| match kept {
        Some(index) => Step::Keep(index),
        None => {
            let is_held = |bound: &Bound| {
                bound.is_in_place_of(&wanted.address) || is_same_port(bound, &wanted.address)
            };
            take(&is_held).map_or(Step::Open, Step::Hold)
        }
    });
    steps.collect()
}

fn is_same_port(bound: &Bound, wanted: &ListenAddress) -> bool {
    let port = |address: &ListenAddress| address.tcp().map(|address| address.port());
    port(wanted).is_some() && port(wanted) == port(&bound.config.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_file;

    fn listeners(addresses: &[&str]) -> Vec<ListenerConfig> {
        let tables: String = addresses
            .iter()
            .enumerate()
            .map(|(n, address)| format!("[[listener]]\nname = '{n}'\naddress = '{address}'\n"))
            .collect();
        let text = format!("upstream.url = 'http://app'\n{tables}");
        from_file(&text).unwrap().config.listeners
    }

    #[test]
    fn listeners_keep_their_sockets_by_address_and_hold_those_of_their_port() {
        use Step::{Hold, Keep, Open};
        const A: &str = "127.0.0.1:8001";
        const B: &str = "127.0.0.1:8002";
        const SAME_PORT: &str = "127.0.0.2:8001";
        const UNIX: &str = "unix:/run/a.sock";
        const ANY: &str = "127.0.0.1:0";
        for (before, after, steps) in [
            (&[A, B][..], &[B, A][..], &[Keep(1), Keep(0)][..]),
            (&[A], &[B, A], &[Open, Keep(0)]),
            (&[A, B], &[B], &[Keep(1)]),
            (&[A], &[SAME_PORT], &[Hold(0)]),
            (&[A], &[SAME_PORT, A], &[Open, Keep(0)]),
            (&[A], &[UNIX], &[Open]),
            (&[UNIX], &["unix:/run/b.sock"], &[Open]),
            (&[ANY, ANY], &[ANY, ANY], &[Keep(0), Keep(1)]),
        ] {
            let bound = listeners(before).into_iter().map(|config| Bound {
                config,
                is_inherited: false,
            });
            let bound: Vec<_> = bound.collect();
            assert_eq!(
                plan(&bound, &listeners(after)),
                steps,
                "{before:?} {after:?}"
            );
        }
    }

    #[test]
    fn inherited_socket_is_held_whatever_its_listener_becomes() {
        let bound = listeners(&["127.0.0.1:8001"])
            .into_iter()
            .map(|config| Bound {
                config,
                is_inherited: true,
            });
        let bound: Vec<_> = bound.collect();
        let after = listeners(&["127.0.0.1:8002", "127.0.0.1:8003"]);
        assert_eq!(plan(&bound, &after), [Step::Hold(0), Step::Open]);
    }
}
