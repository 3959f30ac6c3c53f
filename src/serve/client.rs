//! What a request says about its response.

use http::header::{CONNECTION, TE};
use http::{HeaderMap, HeaderName, Request, Version};

/// What a request says about the way its response is to come.
#[derive(Clone, Copy)]
pub(super) struct Client {
    pub(super) version: Version,
    /// It wants no other request on this connection.
    pub(super) closes: bool,
    pub(super) takes_trailers: bool,
}

impl Client {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self {
            version: request.version(),
            closes: names(headers, &CONNECTION, b"close"),
            takes_trailers: names(headers, &TE, b"trailers"),
        }
    }
}

fn names(headers: &HeaderMap, name: &HeaderName, option: &[u8]) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| {
        let mut options = value.as_bytes().split(|&byte| byte == b',');
        options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option))
    })
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
