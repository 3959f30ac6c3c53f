//! Fields by which a proxy describes the client and its request to the server behind it.
//!
//! From a client itself they are unverified claims. Servers act on them: they log the address,
//! build links from the host, skip the redirect to HTTPS, serve another path, or take the user for
//! logged in.

use http::{HeaderMap, HeaderName};
use std::sync::LazyLock;

/// What all names of a family of such fields begin with.
const FAMILIES: &[&str] = &[
    // The standard, and what it replaced: For, Host, Proto, Port, Prefix, User, Client-Cert, ...
    "forwarded",
    "x-forwarded",
    // The target ahead of a rewrite: URL, URI, Host, Proto, For, Remote, Forwarded-For.
    "x-original-",
    "x-envoy-original-",
    "x-real-",
    "x-remote-",
    // Clients and protocols as content delivery networks and hosts name them.
    "cloudfront-",
    "x-appengine-",
    "x-arr-",
    "x-vercel-ip-",
    "wl-proxy-",
    // Users as gateways name them. The credentials of a client, such as `X-Auth-Token` or
    // `Cf-Access-Client-Id`, are not among them.
    "cf-access-authenticated-user-",
    "iv-user",
    "oidc-",
    "sm-user",
    "tailscale-",
    "x-amzn-oidc-",
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-consumer-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-pomerium-",
    "x-vouch-",
    "x-webauth-",
    // Certificates of clients: RFC 9440, and what preceded it.
    "client-cert",
    "ssl-client-",
    "tls-client-",
    "x-amzn-mtls-",
    "x-amzn-tls-",
    "x-client-cert",
    "x-ssl-cert",
    "x-ssl-client-",
    "x-tls-client-",
];

/// Such fields without a family.
const FIELDS: &[&str] = &[
    // The client's address.
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "incap-client-ip",
    "iv-remote-address",
    "proxy-client-ip",
    "remote-addr",
    "remote-host",
    "true-client-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-nf-client-connection-ip",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-sucuri-clientip",
    "x-vercel-forwarded-for",
    // The protocol.
    "cf-visitor",
    "fastly-ssl",
    "fly-forwarded-port",
    "fly-forwarded-proto",
    "fly-forwarded-ssl",
    // The host, and the path.
    "x-host",
    "x-http-host-override",
    "x-rewrite-url",
    // The user.
    "cf-access-jwt-assertion",
    "iv-creds",
    "iv-groups",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "sm-authtype",
    "sm-universalid",
    "x-auth-email",
    "x-auth-groups",
    "x-auth-roles",
    "x-auth-subject",
    "x-auth-userid",
    "x-auth-username",
    "x-client-dn",
    "x-client-verify",
    // CGI makes it `HTTP_PROXY`, by which HTTP clients choose their proxy.
    "proxy",
];

/// Fields that repeat the protocol, after which they are written too, if the request has them.
pub(super) static SCHEMES: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-protocol"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-url-scheme"),
    HeaderName::from_static("x-scheme"),
];
/// The same as `on` and `off`.
pub(super) static IS_SECURE: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-ssl"),
    HeaderName::from_static("front-end-https"),
    HeaderName::from_static("x-forwarded-https"),
    HeaderName::from_static("x-https"),
];

/// What the fields that this proxy writes begin with. It also writes [`SCHEMES`] and [`IS_SECURE`].
const WRITTEN: &[&str] = &["forwarded", "x-forwarded", "x-real-ip"];

/// The bytes of a name as CGI and its successors see it: all characters other than letters and
/// digits are equal there. Some look fields up by CGI's own names, `HTTP_X_FORWARDED_FOR`.
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

/// All claims by their first byte, by which most fields of a request are ruled out.
static CLAIMS: LazyLock<[Claims; 256]> = LazyLock::new(|| {
    let mut claims = [const { Claims::NONE }; 256];
    for family in WRITTEN.iter().chain(FAMILIES) {
        claims[usize::from(family.as_bytes()[0])]
            .families
            .push(family);
    }
    let repeated = SCHEMES.iter().chain(&IS_SECURE).map(HeaderName::as_str);
    for field in FIELDS.iter().copied().chain(repeated) {
        claims[usize::from(field.as_bytes()[0])].fields.push(field);
    }
    claims
});

struct Claims {
    families: Vec<&'static str>,
    fields: Vec<&'static str>,
}

impl Claims {
    const NONE: Self = Self {
        families: Vec::new(),
        fields: Vec::new(),
    };
}

/// Whether a server may take the field for a proxy's report.
pub(super) fn is_claim(name: &HeaderName) -> bool {
    let text = name.as_str();
    let Some(first) = bytes(text).next() else {
        return false;
    };
    let claims = &CLAIMS[usize::from(first)];
    claims
        .families
        .iter()
        .any(|family| is_of_family(text, family))
        || claims.fields.iter().any(|field| is_alike(text, field))
}

/// Whether CGI's view of the name is another spelling than the name itself.
pub(super) fn is_unusual(name: &str) -> bool {
    let is_usual = |byte: u8| byte == b'-' || byte.is_ascii_alphanumeric();
    name.starts_with("http-") || !name.bytes().all(is_usual)
}

/// Whether CGI and its successors take a field of this name for that one.
pub(super) fn is_spelling_of(name: &HeaderName, field: &HeaderName) -> bool {
    bytes(name.as_str()).eq(bytes(field.as_str()))
}

/// Whether this proxy reads or writes the field, in any spelling.
fn is_written(name: &HeaderName) -> bool {
    let name = name.as_str();
    let mut repeated = SCHEMES.iter().chain(&IS_SECURE);
    WRITTEN.iter().any(|family| is_of_family(name, family))
        || repeated.any(|field| is_alike(name, field.as_str()))
}

/// Removes all claims of a client that is not a trusted proxy.
pub(super) fn remove(headers: &mut HeaderMap) {
    remove_if(headers, is_claim);
}

/// Removes claims in spellings that let a client contradict a trusted proxy, which sets the usual
/// spelling and may forward others unchanged: all spellings except the usual one of the fields that
/// this proxy writes, and other claims that are also present in the usual one. Names such as
/// `SM_USER`, which have no other spelling, stay.
pub(super) fn remove_misspelt(headers: &mut HeaderMap) {
    let is_usual = |name: &&HeaderName| !is_unusual(name.as_str());
    let usual: Vec<_> = match headers.keys().all(|name| is_usual(&name)) {
        true => return,
        false => headers.keys().filter(is_usual).cloned().collect(),
    };
    remove_if(headers, |name| {
        let is_repeated = || {
            let mut usual = usual.iter().map(HeaderName::as_str);
            usual.any(|usual| bytes(name.as_str()).eq(bytes(usual)))
        };
        is_unusual(name.as_str()) && (is_written(name) || (is_claim(name) && is_repeated()))
    });
}

/// Removes this field, but for its own spelling if `keeps_own`.
pub(crate) fn remove_field(headers: &mut HeaderMap, field: &HeaderName, keeps_own: bool) {
    remove_if(headers, |name| {
        is_spelling_of(name, field) && !(keeps_own && name == field)
    });
}

/// Removes the fields whose names meet the condition.
pub(super) fn remove_if(headers: &mut HeaderMap, is_gone: impl Fn(&HeaderName) -> bool) {
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
            "Client-Cert",
            "Client-Cert-Chain",
            "WL-Proxy-SSL",
            "WL-Proxy-Client-Cert",
            "WL-Proxy-Client-IP",
            "X-ARR-ClientCert",
            "X-ARR-SSL",
            "CloudFront-Forwarded-Proto",
            "CloudFront-Viewer-Address",
            "X-AppEngine-User-Email",
            "X-AppEngine-User-IP",
            "Cf-Access-Authenticated-User-Email",
            "Tailscale-User-Login",
            "Tailscale-User-Name",
            "Tailscale-User-Profile-Pic",
            "X-Goog-IAP-JWT-Assertion",
            "X-Goog-Authenticated-User-Id",
            "SM_USER",
            "SM_USERDN",
            "IV-User",
            "IV_USER",
            "IV-User-L",
            "OIDC_CLAIM_email",
            "OIDC-Claim-Sub",
            "X-Remote-Group",
            "X-Remote-Extra-Scopes",
            "X-Forwarded-Https",
            "X-Https",
            "X_Scheme",
        ] {
            assert!(left(&[claim], remove).is_empty(), "{claim}");
        }
    }

    #[test]
    fn other_fields_stay() {
        let names = [
            "accept",
            "authorization",
            "cf-access-client-id",
            "client-ipx",
            "cookie",
            "host",
            "last-event-id",
            "proxy-mode",
            "x-api-key",
            "x-auth-token",
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
    fn trusted_proxy_writes_no_underscores() {
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
            "x-scheme",
            "x_scheme",
            "x_url_scheme",
            "front_end_https",
            "x.https",
            "x-ssl-client-verify",
            "x_ssl_client_verify",
            "http-x-ssl-client-verify",
            "sm_user",
            "x_custom",
            "x-custom",
        ];
        let expected = [
            "forwarded",
            "sm_user",
            "true_client_ip",
            "x-custom",
            "x-forwarded-for",
            "x-real-ip",
            "x-scheme",
            "x-ssl-client-verify",
            "x_custom",
        ];
        assert_eq!(left(&names, remove_misspelt), expected);
    }

    #[test]
    fn field_goes_in_all_of_its_spellings() {
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
