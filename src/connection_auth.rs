//! Authentication schemes that authenticate a connection, not a request.
//!
//! NTLM and Negotiate (RFC 4559) log in the TCP connection: the legs of one login share it, and a
//! later request on it needs no credentials. RFC 9110 section 11.6.2 forbids that, and clients and
//! servers do it all the same. A connection that has seen one of these schemes serves one client
//! only.

use http::header::{AUTHORIZATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName};

/// Matched as prefixes, since servers differ in how they delimit a scheme. `Nego2` and `CredSSP`
/// are variants that Microsoft's servers offer.
const SCHEMES: [&[u8]; 5] = [b"ntlm", b"negotiate", b"kerberos", b"nego2", b"credssp"];

/// IIS sends it with a response whose connection stays authenticated.
const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

/// Whether a request carries credentials of such a scheme.
pub fn in_request(headers: &HeaderMap) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION]
        .iter()
        .any(|name| names_scheme(headers, name))
}

/// Whether a response offers such a scheme, continues its handshake, or confirms it.
pub fn in_response(headers: &HeaderMap) -> bool {
    headers.contains_key(PERSISTENT_AUTH)
        || [WWW_AUTHENTICATE, PROXY_AUTHENTICATE]
            .iter()
            .any(|name| names_scheme(headers, name))
}

/// One field can list several challenges. A comma in a quoted string counts as well: a scheme that
/// is found too often costs a connection, one that is missed shares a login.
fn names_scheme(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut elements = value.as_bytes().split(|&byte| byte == b',');
        elements.any(|element| {
            // Some servers trim more than blanks.
            let start = element.iter().position(u8::is_ascii_alphanumeric);
            let element = &element[start.unwrap_or(element.len())..];
            SCHEMES.iter().any(|scheme| {
                let start = element.get(..scheme.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            })
        })
    })
}

/// Extension of a response that came over a connection of its client's own: a request for it over
/// another connection would lack the login.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionBound;

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_count_in_any_spelling_and_any_line() {
        for value in [
            "NTLM TlRMTVNTUAABAAAA",
            "ntlm",
            "Negotiate YII=",
            "NEGOTIATE",
            "  \tnTlM x",
            "Kerberos YII=",
            "Nego2 x",
            "CredSSP x",
            "Basic YTpi, NTLM x",
            "NTLM\tx",
            "\"NTLM\" x",
        ] {
            for name in [AUTHORIZATION, PROXY_AUTHORIZATION] {
                assert!(in_request(&headers(&[(name.clone(), value)])), "{value:?}");
                let second = headers(&[(name.clone(), "Basic YTpi"), (name, value)]);
                assert!(in_request(&second), "{value:?}");
            }
        }
    }

    #[test]
    fn scheme_is_found_after_bytes_that_only_some_servers_trim() {
        let value = HeaderValue::from_bytes(b"\xA0Negotiate YII=").unwrap();
        assert!(in_request(&HeaderMap::from_iter([(AUTHORIZATION, value)])));
    }

    #[test]
    fn credentials_of_a_request_do_not_count() {
        for value in [
            "",
            "Basic bnRsbQ==",
            "Bearer ntlm",
            "Digest a=\"b\"",
            "NTL",
            "xNTLM",
        ] {
            assert!(
                !in_request(&headers(&[(AUTHORIZATION, value)])),
                "{value:?}"
            );
        }
        assert!(!in_request(&headers(&[(WWW_AUTHENTICATE, "NTLM")])));
    }

    #[test]
    fn offer_counts_at_any_position() {
        for value in [
            "NTLM",
            "Negotiate",
            "Basic realm=\"a, b\", negotiate",
            "Basic realm=x ,\tNTLM TlRMTVNTUAACAAAA",
        ] {
            for name in [WWW_AUTHENTICATE, PROXY_AUTHENTICATE] {
                let offer = [(name.clone(), "Bearer"), (name, value)];
                assert!(in_response(&headers(&offer)), "{value:?}");
            }
        }
        assert!(in_response(&headers(&[(PERSISTENT_AUTH, "true")])));
        let basic = [(WWW_AUTHENTICATE, "Basic realm=\"ntlm\", Bearer")];
        assert!(!in_response(&headers(&basic)));
    }
}
