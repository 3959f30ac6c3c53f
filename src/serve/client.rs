//! Properties of a request that affect its response.

use crate::head::list_has;
use http::header::{CONNECTION, TE, UPGRADE};
use http::{Method, Request, Version};

/// What a request says about the way its response is to come.
#[derive(Clone, Copy)]
pub(super) struct Client {
    pub(super) version: Version,
    /// It wants no other request on this connection.
    pub(super) closes: bool,
    pub(super) takes_trailers: bool,
    /// It wants another one, which in HTTP/1.0 has to be said.
    keeps: bool,
    may_leave: bool,
}

impl Client {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            version: request.version(),
            closes: list_has(headers, &CONNECTION, b"close"),
            takes_trailers: list_has(headers, &TE, b"trailers"),
            keeps: list_has(headers, &CONNECTION, b"keep-alive"),
            may_leave: request.method() != Method::CONNECT && !headers.contains_key(UPGRADE),
        }
    }

    /// Whether the connection can leave hyper while the response is awaited, or behind it: nothing
    /// that hyper knows of the request is lost with it.
    pub(super) fn may_leave(self) -> bool {
        self.may_leave
    }

    /// A request's head with all that hyper's way to write the response depends on.
    pub(super) fn head_for_hyper(self, method: &Method) -> Vec<u8> {
        let version = match self.version {
            Version::HTTP_10 => "0",
            _ => "1",
        };
        let mut head = format!("{method} / HTTP/1.{version}\r\n");
        if self.closes {
            head.push_str("connection: close\r\n");
        } else if self.keeps {
            head.push_str("connection: keep-alive\r\n");
        }
        if self.takes_trailers {
            head.push_str("te: trailers\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_counts_wherever_it_stands_and_however_it_is_spelt() {
        let request = Request::get("/")
            .header(CONNECTION, "keep-alive, TE")
            .header(CONNECTION, "foo ,Close")
            .header(TE, "trailers")
            .body(())
            .unwrap();
        let client = Client::of(&request);
        assert!(client.closes && client.takes_trailers);
        let request = Request::get("/").header(CONNECTION, "closed");
        let client = Client::of(&request.body(()).unwrap());
        assert!(!client.closes && !client.takes_trailers);
    }
}
