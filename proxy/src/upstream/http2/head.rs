//! Heads of HTTP/1.1, which the proxy handles, as HTTP/2 has them: RFC 9113 section 8.

use super::super::http1::normalize_length;
use super::error::Http2Error;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, Method, Request, Uri, Version, request};

/// Fields of one connection, which make a message of HTTP/2 malformed: RFC 9113 section 8.2.2. The target has the host.
static NOT_SENT: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    HOST,
];

/// The head of a request. Its `Host` becomes `:authority`.
pub(super) fn request(parts: &request::Parts, scheme: &Scheme) -> Result<Request<()>, http::Error> {
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = target(parts, scheme)?;
    let headers = head.headers_mut();
    *headers = parts.headers.clone();
    for name in &NOT_SENT {
        headers.remove(name);
    }
    Ok(head)
}

fn target(parts: &request::Parts, scheme: &Scheme) -> Result<Uri, http::Error> {
    let path = parts.uri.path_and_query();
    let path = path.map_or("/", PathAndQuery::as_str);
    let host = parts
        .headers
        .get(HOST)
        .map(|host| Authority::try_from(host.as_bytes()));
    let mut target = http::uri::Parts::default();
    target.scheme = Some(scheme.clone());
    target.authority = Some(match host.transpose()? {
        Some(host) => host,
        // An upstream always has one: this is of no request of a client.
        None => Authority::from_static("localhost"),
    });
    target.path_and_query = Some(match (path, &parts.method) {
        // RFC 9113 section 8.3.1: the crate writes it as `*`.
        ("*", &Method::OPTIONS) => PathAndQuery::from_static("*"),
        (path, _) => PathAndQuery::try_from(path)?,
    });
    Ok(Uri::from_parts(target)?)
}

/// Checks the head of a response, and writes its length once.
pub(super) fn check(headers: &mut HeaderMap, max_bytes: usize) -> Result<(), Http2Error> {
    // As HTTP/1.1 has them: `name: value` and the end of the line.
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    if bytes.sum::<usize>() > max_bytes {
        return Err(Http2Error::LongHead(max_bytes));
    }
    if headers.contains_key(CONTENT_LENGTH) {
        normalize_length(headers).map_err(Http2Error::BodyLength)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn request_has_its_host_in_the_target_and_no_fields_of_a_connection() {
        let request = Request::post("/a?b=c")
            .header("host", "a.test:81")
            .header("connection", "keep-alive")
            .header("keep-alive", "timeout=5")
            .header("transfer-encoding", "chunked")
            .header("te", "trailers")
            .header("cookie", "a=1; b=2")
            .header("x-end", "1");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let head = super::request(&parts, &Scheme::HTTPS).unwrap();
        assert_eq!(head.uri(), "https://a.test:81/a?b=c");
        let names: Vec<_> = head.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["cookie", "x-end"]);
        let (parts, ()) = Request::options("*")
            .header("host", "a.test")
            .body(())
            .unwrap()
            .into_parts();
        let head = super::request(&parts, &Scheme::HTTP).unwrap();
        assert_eq!(head.uri().path_and_query().unwrap(), "*");
    }

    #[test]
    fn response_head_has_a_bound_and_one_length() {
        let mut headers = HeaderMap::new();
        for length in ["9", "09"] {
            headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        assert!(check(&mut headers, 64).is_ok());
        let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["9"]);
        assert!(check(&mut headers, 19).is_ok());
        assert!(matches!(
            check(&mut headers, 18),
            Err(Http2Error::LongHead(18))
        ));
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("8"));
        assert!(matches!(
            check(&mut headers, 64),
            Err(Http2Error::BodyLength(_))
        ));
    }
}
