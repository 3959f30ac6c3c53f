//! Fields by which a proxy tells the server behind it who the client is, and what it asked for.
//!
//! From a client itself they are claims that nobody has checked. Servers act on them: they log the
//! address, build links from the host, skip the redirect to HTTPS, serve another path, or take the
//! user for logged in.

use http::{HeaderMap, HeaderName};

/// What all names of a family of such fields begin with.
const FAMILIES: &[&str] = &[
    // The standard, and what it replaced: For, Host, Proto, Port, Prefix, User, Client-Cert, ...
    "forwarded",
    "x-forwarded",
    // The target ahead of a rewrite: URL, URI, Host, Proto, For, Remote, Forwarded-For.
    "x-original-",
    "x-envoy-original-",
    // Users as gateways name them.
    "x-auth-request-",
    "x-authentik-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-amzn-oidc-",
    "x-webauth-",
    // Certificates of clients.
    "ssl-client-",
    "x-ssl-client-",
    "x-amzn-mtls-",
];

/// Such fields without a family.
const FIELDS: &[&str] = &[
    // The client's address.
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "proxy-client-ip",
    "remote-addr",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-nf-client-connection-ip",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-vercel-forwarded-for",
    // The protocol.
    "cf-visitor",
    "fastly-ssl",
    "fly-forwarded-port",
    "fly-forwarded-proto",
    "fly-forwarded-ssl",
    "front-end-https",
    "x-arr-ssl",
    "x-scheme",
    "x-url-scheme",
    // The host, and the path.
    "x-host",
    "x-http-host-override",
    "x-real-host",
    "x-rewrite-url",
    // The user.
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "x-authenticated-user",
    "x-remote-user",
    // CGI makes it `HTTP_PROXY`, by which HTTP clients choose their proxy.
    "proxy",
];

/// What the fields that this proxy writes begin with.
const WRITTEN: &[&str] = &["forwarded", "x-forwarded", "x-real-ip"];

/// The bytes of a name as CGI and its heirs see it: what is no letter or digit is alike there.
/// Some look fields up by CGI's own names, `HTTP_X_FORWARDED_FOR`.
fn bytes(name: &str) -> impl Iterator<Item = u8> + Clone {
    let alike = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte,
        false => b'-',
    };
    let all = name.bytes().map(alike);
    let skipped = match all.clone().take(5).eq(*b"http-") {
        true => 5,
        false => 0,
    };
    all.skip(skipped)
}

fn is_alike(name: &str, other: &str) -> bool {
    bytes(name).eq(other.bytes())
}

fn is_of_family(name: &str, family: &str) -> bool {
    bytes(name).take(family.len()).eq(family.bytes())
}

/// Whether a server may take the field for a proxy's report.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str();
    FAMILIES.iter().any(|family| is_of_family(name, family))
        || FIELDS.iter().any(|field| is_alike(name, field))
}

/// Whether the field is one of those that this proxy writes, in a spelling that no proxy uses.
fn is_misspelt(field: &HeaderName) -> bool {
    let name = field.as_str();
    let has_dashes_alone = name
        .bytes()
        .all(|byte| byte == b'-' || byte.is_ascii_alphanumeric());
    let is_plain = has_dashes_alone && !name.starts_with("http-");
    !is_plain && is_written(field)
}

/// Whether this proxy reads or writes the field, in any spelling.
pub(super) fn is_written(name: &HeaderName) -> bool {
    let name = name.as_str();
    WRITTEN.iter().any(|family| is_of_family(name, family))
}

/// Removes all that a client that is no trusted proxy claims.
pub(super) fn remove(headers: &mut HeaderMap) {
    remove_if(headers, is_claim);
}

/// Removes the fields that this proxy writes in spellings other than its own. A trusted proxy sets
/// the usual spelling, and passes these on as it got them.
pub(super) fn remove_misspelt(headers: &mut HeaderMap) {
    remove_if(headers, is_misspelt);
}

/// Removes this field, but for its own spelling if `keeps_own`.
pub(in crate::proxy) fn remove_field(headers: &mut HeaderMap, field: &HeaderName, keeps_own: bool) {
    remove_if(headers, |name| {
        let is_same = bytes(name.as_str()).eq(bytes(field.as_str()));
        is_same && !(keeps_own && name == field)
    });
}

fn remove_if(headers: &mut HeaderMap, is_gone: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<_> = headers
        .keys()
        .filter(|name| is_gone(name))
        .cloned()
        .collect();
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(names: &[&'static str], remove: impl Fn(&mut HeaderMap)) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for name in names {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, http::HeaderValue::from_static("x"));
        }
        remove(&mut headers);
        let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn claims_are_known_in_every_spelling_that_a_server_takes_for_theirs() {
        for claim in [
            "Forwarded",
            "forwarded_",
            "Forwarded-For",
            "X-Forwarded",
            "X-Forwarded-For",
            "X_Forwarded_For",
            "X-Forwarded_For",
            "x.forwarded.for",
            "X!Forwarded~For",
            "HTTP_X_FORWARDED_FOR",
            "HTTP-Forwarded",
            "X-Forwarded-Anything",
            "X-ForwardedFor",
            "X-Real-IP",
            "x_real_ip",
            "True-Client-IP",
            "TRUE_CLIENT_IP",
            "CF-Connecting-IP",
            "X-Client-IP",
            "Client-IP",
            "HTTP_CLIENT_IP",
            "X-Cluster-Client-IP",
            "X-Original-URL",
            "X_ORIGINAL_URL",
            "X-Original-Host",
            "X-Rewrite-URL",
            "Front-End-Https",
            "X-Url-Scheme",
            "X-Remote-User",
            "REMOTE_USER",
            "X-Auth-Request-Email",
            "X-SSL-Client-Verify",
            "Proxy",
        ] {
            assert!(left(&[claim], remove).is_empty(), "{claim}");
        }
    }

    #[test]
    fn other_fields_stay() {
        let names = [
            "accept",
            "authorization",
            "client-ipx",
            "cookie",
            "host",
            "last-event-id",
            "proxy-mode",
            "x-api-key",
            "x-http-method-override",
            "x-original",
            "x-request-id",
            "x-user",
            "x_custom_field",
        ];
        assert_eq!(left(&names, remove), names);
        assert_eq!(left(&names, remove_misspelt), names);
    }

    #[test]
    fn a_trusted_proxy_writes_no_underscores() {
        let names = [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_proto",
            "http-x-forwarded-for",
            "forwarded",
            "forwarded_",
            "x-real-ip",
            "x_real_ip",
            "true_client_ip",
        ];
        let expected = [
            "forwarded",
            "true_client_ip",
            "x-forwarded-for",
            "x-real-ip",
        ];
        assert_eq!(left(&names, remove_misspelt), expected);
    }

    #[test]
    fn a_field_goes_in_all_of_its_spellings() {
        let user = HeaderName::from_static("x-user");
        let names = ["x-user", "x_user", "http-x-user", "x-users"];
        assert_eq!(
            left(&names, |headers| remove_field(headers, &user, false)),
            ["x-users"]
        );
        let own = left(&names, |headers| remove_field(headers, &user, true));
        assert_eq!(own, ["x-user", "x-users"]);
    }
}
