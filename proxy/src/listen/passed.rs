//! Which listener gets which socket of the service manager.

use crate::activation::PassedSocket;
use crate::config::{ListenAddress, ListenerConfig};

/// Why the sockets of the service manager do not fit the listeners.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassedError {
    #[error(
        "{key} = \"{address}\": the service manager passes no socket of this name or number \
         (LISTEN_FDS, LISTEN_FDNAMES): it passes {passed}"
    )]
    Missing {
        key: &'static str,
        address: ListenAddress,
        passed: String,
    },
    #[error(
        "the service manager passes the socket {socket} (LISTEN_FDS), which no listener uses, so that \
         its clients would wait: write \"fd:{name}\" as an address, or remove it from the socket unit"
    )]
    Unused { socket: String, name: String },
}

/// The socket of each listener. A listener names its socket by `fd:`. A single one that does not gets the single socket
/// that is left, in place of its address: so a socket unit needs no change of the config.
pub(crate) fn assign(
    listeners: &[ListenerConfig],
    mut sockets: Vec<PassedSocket>,
) -> Result<Vec<Option<PassedSocket>>, PassedError> {
    let all: Vec<_> = sockets.iter().map(ToString::to_string).collect();
    let mut assigned = Vec::new();
    for listener in listeners {
        let ListenAddress::Passed(name) = &listener.address else {
            assigned.push(None);
            continue;
        };
        let found = sockets.iter().position(|socket| socket.is_called(name));
        let found = found.ok_or_else(|| PassedError::Missing {
            key: listener.key,
            address: listener.address.clone(),
            passed: match all.as_slice() {
                [] => "none; start it by a socket unit".to_owned(),
                all => all.join(", "),
            },
        })?;
        assigned.push(Some(sockets.remove(found)));
    }
    let is_left = |listener: &&ListenerConfig| listener.address.passed().is_none();
    let left = listeners.iter().filter(is_left).count();
    if left == 1
        && sockets.len() == 1
        && let Some(place) = assigned.iter_mut().find(|place| place.is_none())
    {
        *place = sockets.pop();
    }
    match sockets.into_iter().next() {
        None => Ok(assigned),
        Some(unused) => Err(PassedError::Unused {
            socket: unused.to_string(),
            name: match unused.name.is_empty() {
                true => unused.number.to_string(),
                false => unused.name,
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::StreamSocket;
    use crate::config::from_file;
    use std::net::TcpListener;

    /// The names of the sockets that listeners get, of these sockets.
    fn assigned(addresses: &[&str], names: &[&str]) -> Result<Vec<String>, String> {
        let addresses: Vec<_> = addresses.iter().map(|it| format!("'{it}'")).collect();
        let text = format!(
            "upstream.url = 'http://app'\nlisten = [{}]",
            addresses.join(",")
        );
        let listeners = from_file(&text).unwrap().config.listeners;
        let sockets = names.iter().enumerate().map(|(index, name)| PassedSocket {
            name: (*name).to_owned(),
            number: 3 + index,
            socket: StreamSocket::Tcp(TcpListener::bind("127.0.0.1:0").unwrap()),
        });
        let assigned = assign(&listeners, sockets.collect());
        let names = assigned.map_err(|error| error.to_string())?.into_iter();
        Ok(names
            .map(|socket| socket.map_or("-".to_owned(), |socket| socket.name))
            .collect())
    }

    #[test]
    fn sockets_go_to_the_listeners_that_name_them_and_a_single_one_to_a_single_listener() {
        for (addresses, names, expected) in [
            (&[":80"][..], &[][..], &["-"][..]),
            (&[":80"], &["web"], &["web"]),
            (&["fd:b", "fd:a"], &["a", "b"], &["b", "a"]),
            (&["fd:4", "fd:3"], &["", "b"], &["b", ""]),
            (&["fd:a", ":80"], &["a"], &["a", "-"]),
            (&[":80", "fd:a"], &["a", "b"], &["b", "a"]),
        ] {
            assert_eq!(
                assigned(addresses, names).unwrap(),
                expected,
                "{addresses:?}"
            );
        }
    }

    #[test]
    fn sockets_that_are_missing_or_not_used_are_errors() {
        for (addresses, names, expected) in [
            (
                &["fd:web"][..],
                &[][..],
                "it passes none; start it by a socket unit",
            ),
            (
                &["fd:web"],
                &["a", "b"],
                "it passes \"a\" (fd 3), \"b\" (fd 4)",
            ),
            (
                &[":80"],
                &["a", "b"],
                "passes the socket \"a\" (fd 3) (LISTEN_FDS), which no listener",
            ),
            (&[":80", ":81"], &["a"], "write \"fd:a\" as an address"),
            (&["fd:3"], &["a", ""], "write \"fd:4\" as an address"),
        ] {
            let error = assigned(addresses, names).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
