//! Properties of a request that affect how its response is written.

use crate::head::list_has;
use http::header::{CONNECTION, TE, UPGRADE};
use http::{Method, Request, Version};

#[derive(Clone, Copy)]
pub(super) struct RequestOptions {
    pub(super) version: Version,
    /// `Connection: close`.
    pub(super) has_close: bool,
    /// `TE: trailers`.
    pub(super) accepts_trailers: bool,
    /// `Connection: keep-alive`, which HTTP/1.0 requires for another request on the connection.
    has_keep_alive: bool,
    may_leave_hyper: bool,
}

impl RequestOptions {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            version: request.version(),
            has_close: list_has(headers, &CONNECTION, b"close"),
            accepts_trailers: list_has(headers, &TE, b"trailers"),
            has_keep_alive: list_has(headers, &CONNECTION, b"keep-alive"),
            may_leave_hyper: request.method() != Method::CONNECT && !headers.contains_key(UPGRADE),
        }
    }

    /// Returns true if the connection can leave hyper before or after the response: hyper has no state of the request
    /// that would be lost.
    pub(super) fn may_leave_hyper(self) -> bool {
        self.may_leave_hyper
    }

    /// Returns a head for which hyper writes a response in the same way as for this request.
    pub(super) fn replay_head(self, method: &Method) -> Vec<u8> {
        let version = match self.version {
            Version::HTTP_10 => "0",
            _ => "1",
        };
        let mut head = format!("{method} / HTTP/1.{version}\r\n");
        if self.has_close {
            head.push_str("connection: close\r\n");
        } else if self.has_keep_alive {
            head.push_str("connection: keep-alive\r\n");
        }
        if self.accepts_trailers {
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
    fn request_options_are_read_from_any_place_of_a_list_in_any_case() {
        let request = Request::get("/")
            .header(CONNECTION, "keep-alive, TE")
            .header(CONNECTION, "foo ,Close")
            .header(TE, "trailers")
            .body(())
            .unwrap();
        let options = RequestOptions::of(&request);
        assert!(options.has_close && options.accepts_trailers);
        let request = Request::get("/").header(CONNECTION, "closed");
        let options = RequestOptions::of(&request.body(()).unwrap());
        assert!(!options.has_close && !options.accepts_trailers);
    }
}
