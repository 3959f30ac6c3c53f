//! The two headers in which proxies name their client, read from the right.
//!
//! They are read from the right, where the entry of the nearest proxy is, because the left may be
//! forged: read from the left, an open quote would hide all trustworthy elements after it.
//! Well-formed text splits equally from both ends.

use http::HeaderMap;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

/// The header in which a proxy reports its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, the de facto standard: addresses separated by commas, each
    /// with or without a port, IPv6 with or without brackets.
    #[default]
    XForwardedFor,
    /// `Forwarded`, the standard (RFC 7239): the `for=` of each element, by the grammar of its
    /// section 4, node names by section 6.
    ///
    /// Beyond the grammar, ports and IPv6 addresses are accepted without the quotes that section 6 requires.
    /// An element that is malformed in any other way, or has `for`, `proto` or `host` twice, counts as one without
    /// `for=`.
    Forwarded,
}

/// The elements of a list, last first. Always at least one, which may be empty.
struct ReverseElements<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
    /// Whether quoted strings (RFC 9110 section 5.6.4) hide separators.
    quotes: bool,
}

/// The report of one hop about the sender of the request.
#[derive(Debug)]
pub struct Element<'a> {
    /// Its text.
    pub text: &'a [u8],
    /// The sender.
    pub node: Node,
    /// The protocol of its request, which only `Forwarded` has.
    pub proto: Option<Cow<'a, [u8]>>,
    /// The host of its request, which only `Forwarded` has.
    pub host: Option<Cow<'a, [u8]>>,
}

/// The sender of a request to a proxy, as the proxy reported it (RFC 7239 section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Its address.
    Address(IpAddr),
    /// An obfuscated name, with its underscore.
    Obfuscated(String),
    /// Not reported, or malformed.
    Unknown,
}

impl Node {
    fn of(node: &[u8]) -> Self {
        match (address(node), str::from_utf8(node)) {
            (Some(address), _) => Self::Address(address),
            (None, Ok(name)) if is_obfuscated(name) => Self::Obfuscated(name.to_owned()),
            _ => Self::Unknown,
        }
    }
}

impl ForwardedHeader {
    pub(super) const ALL: [Self; 2] = [Self::XForwardedFor, Self::Forwarded];

    /// The name of the field, in lower case.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }

    /// The address that each hop reported, nearest hop first; `None` if it is not an address. Empty elements
    /// are skipped (RFC 9110 section 5.6.1.2).
    ///
    /// The work is linear in the length of the elements taken. Each line is split
    /// separately, so that a malformed line does not affect the others.
    pub(super) fn hops(self, headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
        self.texts(headers).map(move |element| match self {
            Self::XForwardedFor => address(element),
            Self::Forwarded => address(&pairs(element)?.node?),
        })
    }

    /// The complete report of each hop, nearest hop first.
    pub(super) fn elements(self, headers: &HeaderMap) -> impl Iterator<Item = Element<'_>> {
        self.texts(headers).map(move |text| {
            let pairs = match self {
                Self::XForwardedFor => Pairs {
                    node: Some(text.into()),
                    ..Pairs::default()
                },
                Self::Forwarded => pairs(text).unwrap_or_default(),
            };
            Element {
                text,
                node: pairs.node.map_or(Node::Unknown, |node| Node::of(&node)),
                proto: pairs.proto,
                host: pairs.host,
            }
        })
    }

    fn texts(self, headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
        headers
            .get_all(self.name())
            .iter()
            .rev()
            .flat_map(move |line| ReverseElements {
                rest: Some(line.as_bytes()),
                separator: b',',
                quotes: matches!(self, Self::Forwarded),
            })
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }
}

impl<'a> Iterator for ReverseElements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest.take()?;
        let mut quoted = false;
        for (at, &byte) in text.iter().enumerate().rev() {
            if byte == b'"' && self.quotes {
                // Read from the right, a quote outside of a string closes one. Inside it opens
                // the string, unless a backslash precedes it: a string opens only after `=`.
                quoted = !quoted || text[..at].ends_with(b"\\");
            } else if byte == self.separator && !quoted {
                self.rest = Some(&text[..at]);
                return Some(&text[at + 1..]);
            }
        }
        Some(text)
    }
}

/// The values of an element of `Forwarded`, unquoted.
#[derive(Default)]
struct Pairs<'a> {
    node: Option<Cow<'a, [u8]>>,
    proto: Option<Cow<'a, [u8]>>,
    host: Option<Cow<'a, [u8]>>,
}

/// Reads an element of `Forwarded`; nothing if it is malformed.
fn pairs(element: &[u8]) -> Option<Pairs<'_>> {
    let texts = ReverseElements {
        rest: Some(element),
        separator: b';',
        quotes: true,
    };
    let mut pairs = Pairs::default();
    // Section 4 allows empty pairs, and its examples have spaces after semicolons.
    for pair in texts
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
    {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (&pair[..equals], unquote(&pair[equals + 1..])?);
        if name.contains(&b'"') {
            return None;
        }
        // Section 4 forbids duplicates, which show that a proxy copies a client's text, such as a host,
        // into the element without quotes.
        let place = match () {
            () if name.eq_ignore_ascii_case(b"for") => &mut pairs.node,
            () if name.eq_ignore_ascii_case(b"proto") => &mut pairs.proto,
            () if name.eq_ignore_ascii_case(b"host") => &mut pairs.host,
            () => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    Some(pairs)
}

/// A value without its quotes and escapes; `None` if the quotes do not match.
fn unquote(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return (!value.contains(&b'"')).then_some(Cow::Borrowed(value));
    };
    let text = rest.strip_suffix(b"\"")?;
    if !text.iter().any(|byte| matches!(byte, b'\\' | b'"')) {
        return Some(Cow::Borrowed(text));
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            // At the end: the closing quote is escaped.
            b'\\' => bytes.next()?,
            b'"' => return None,
            byte => byte,
        });
    }
    Some(Cow::Owned(plain))
}

/// The address of a node (RFC 7239 section 6), which may have a port; IPv6 may do without
/// brackets if it has none. IPv4-mapped addresses become IPv4.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    let (addr, port) = if let Some(bracketed) = node.strip_prefix('[') {
        let (addr, port) = bracketed.split_once(']')?;
        (IpAddr::V6(addr.parse::<Ipv6Addr>().ok()?), port)
    } else if let Ok(addr) = node.parse::<IpAddr>() {
        (addr, "")
    } else {
        let (addr, port) = node.split_at(node.find(':')?);
        (IpAddr::V4(addr.parse().ok()?), port)
    };
    let port_is_fine = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    port_is_fine.then(|| addr.to_canonical())
}

/// One to five digits, or an obfuscated port (RFC 7239 section 6).
fn is_port(port: &str) -> bool {
    match port.starts_with('_') {
        true => is_obfuscated(port),
        false => matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// An underscore and a name (RFC 7239 section 6.3).
fn is_obfuscated(text: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.strip_prefix('_')
        .is_some_and(|name| !name.is_empty() && name.bytes().all(is_of_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hops of the lines, last first, `-` for what is no address.
    fn hops(header: ForwardedHeader, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), line.parse().unwrap());
        }
        let hops: Vec<_> = header
            .hops(&headers)
            .map(|hop| hop.map_or_else(|| "-".to_owned(), |ip| ip.to_string()))
            .collect();
        hops.join(" ")
    }

    #[test]
    fn nodes_are_addresses_with_or_without_ports() {
        let cases: &[(&str, Option<&str>)] = &[
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:567", Some("192.0.2.1")),
            ("192.0.2.1:65535", Some("192.0.2.1")),
            ("192.0.2.1:_hidden-1.a", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("2001:DB8:0::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:567", Some("2001:db8::1")),
            ("[::1]:_x", Some("::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("[::ffff:192.0.2.1]:80", Some("192.0.2.1")),
            ("::ffff:c000:201", Some("192.0.2.1")),
            // "IPv4-compatible" addresses are deprecated and no mapped ones.
            ("::192.0.2.1", Some("::c000:201")),
            // Without brackets there is no port, so this is all address.
            ("2001:db8::1:567", Some("2001:db8::1:567")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("localhost", None),
            ("client.example:80", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:80:80", None),
            ("192.0.2.1:123456", None),
            ("192.0.2.1:+80", None),
            ("192.0.2.1:_", None),
            ("192.0.2.1:_a b", None),
            ("192.0.2.1 ", None),
            ("192.0.2", None),
            ("192.0.2.256", None),
            // Octal to some, decimal to others.
            ("192.0.2.010", None),
            ("3221225985", None),
            ("0xc0000201", None),
            ("192.0.2.1/32", None),
            ("[192.0.2.1]", None),
            ("[::1", None),
            ("::1]", None),
            ("[]", None),
            ("[::1]80", None),
            ("[::1]:", None),
            ("[[::1]]", None),
            ("fe80::1%eth0", None),
            ("[fe80::1%25eth0]:80", None),
            ("2001:db8:1:2:3:4:5:6:567", None),
            ("\"192.0.2.1\"", None),
            ("192.0.2.1\u{e9}", None),
            ("١.١.١.١", None),
        ];
        for (node, expected) in cases {
            let expected = expected.map(|ip| ip.parse::<IpAddr>().unwrap());
            assert_eq!(address(node.as_bytes()), expected, "{node:?}");
        }
    }

    #[test]
    fn x_forwarded_for_is_split_only_at_commas() {
        let cases: &[(&[&str], &str)] = &[
            (&[], ""),
            (&[""], ""),
            (&[" , ,\t,"], ""),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1,192.0.2.2"], "192.0.2.2 192.0.2.1"),
            (&[" 192.0.2.1\t, ,192.0.2.2 ,"], "192.0.2.2 192.0.2.1"),
            (&["192.0.2.1:5, [::1]:567, ::2"], "::2 ::1 192.0.2.1"),
            (&["192.0.2.1 192.0.2.2"], "-"),
            (&["192.0.2.1;192.0.2.2"], "-"),
            (&["unknown, 192.0.2.2"], "192.0.2.2 -"),
            (&["\"192.0.2.1, 192.0.2.2\", ::1"], "::1 - -"),
            (&["for=192.0.2.1"], "-"),
            (
                &["192.0.2.1, 192.0.2.2", "", "192.0.2.3", ","],
                "192.0.2.3 192.0.2.2 192.0.2.1",
            ),
        ];
        for (lines, expected) in cases {
            let found = hops(ForwardedHeader::XForwardedFor, lines);
            assert_eq!(found, *expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_by_its_grammar() {
        let cases: &[(&[&str], &str)] = &[
            (&[], ""),
            (&[""], ""),
            (&[" ,\t, "], ""),
            // The examples of RFC 7239, sections 4, 6.1, 6.3 and 7.1.
            (&["for=\"_gazonk\""], "-"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
            (
                &["for=192.0.2.43, for=198.51.100.17"],
                "198.51.100.17 192.0.2.43",
            ),
            (&["for=_hidden, for=_SEVKISEK"], "- -"),
            (
                &["for=192.0.2.43,for=\"[2001:db8:cafe::17]\"", "for=unknown"],
                "- 2001:db8:cafe::17 192.0.2.43",
            ),
            // The name in any case, anywhere among the pairs, empty pairs between.
            (&["proto=https; FOR=192.0.2.1"], "192.0.2.1"),
            (&[";;fOr=192.0.2.1 ; ;"], "192.0.2.1"),
            (&["for=192.0.2.1,,"], "192.0.2.1"),
            // Quoted strings hide separators, also behind escaped quotes.
            (
                &[r#"for=192.0.2.1;host="a,b;for=::1", for=192.0.2.2"#],
                "192.0.2.2 192.0.2.1",
            ),
            (&[r#"host="\", for=::1, \"";for=192.0.2.1"#], "192.0.2.1"),
            (&[r#"host="\\", for=192.0.2.1"#], "192.0.2.1 -"),
            (&[r#"host="\\\"," ;for=192.0.2.1"#], "192.0.2.1"),
            (&[r#"for="1\92\.0.2.1\:80""#], "192.0.2.1"),
            (&[r#"for="192.0.2.1:_\p""#], "192.0.2.1"),
            // What ought to have been quoted.
            (&["for=192.0.2.1:80"], "192.0.2.1"),
            (&["for=[::1]:80;proto=http"], "::1"),
            (&["for=2001:db8::1"], "2001:db8::1"),
            // No `for`, or none to believe.
            (&["proto=https"], "-"),
            (&[";"], "-"),
            (&["for"], "-"),
            (&["for="], "-"),
            (&["for=\"\""], "-"),
            (&["for =192.0.2.1"], "-"),
            (&["for= 192.0.2.1"], "-"),
            (&["xfor=192.0.2.1"], "-"),
            (&["\"for\"=192.0.2.1"], "-"),
            (&["192.0.2.1"], "-"),
            (&["for=192.0.2.1;for=192.0.2.2"], "-"),
            (&["for=192.0.2.1;For=192.0.2.1"], "-"),
            (&["for=192.0.2.1;garbage"], "-"),
            (&[r#""x"=y;for=192.0.2.1"#], "-"),
            (&[r#"host="a"b"c";for=192.0.2.1"#], "-"),
            (&["for=192.0.2.1;host=a\"b\""], "-"),
            (&[r#"for="192.0.2.1"#], "-"),
            (&[r#"for=192.0.2.1""#], "-"),
            (&[r#"for="192.0.2.1\""#], "-"),
            (&[r#"for="192.0"."2.1""#], "-"),
            (&[r#"for=" 192.0.2.1""#], "-"),
            (&[r#"for=""192.0.2.1"""#], "-"),
            (&["\""], "-"),
            (&["for=\"\\"], "-"),
        ];
        for (lines, expected) in cases {
            let found = hops(ForwardedHeader::Forwarded, lines);
            assert_eq!(found, *expected, "{lines:?}");
        }
    }

    #[test]
    fn open_quote_does_not_hide_elements_to_its_right() {
        let cases: &[(&[&str], &str)] = &[
            (&[r#"for="evil, for=192.0.2.1"#], "192.0.2.1 -"),
            (
                &[r#"for=" , for="[2001:db8::1]:5", for=192.0.2.1"#],
                "192.0.2.1 2001:db8::1 -",
            ),
            (&[r#"for="\, for="192.0.2.1""#], "192.0.2.1 -"),
            (
                &[r#"host="", for=192.0.2.1, for=192.0.2.2"#],
                "192.0.2.2 192.0.2.1 -",
            ),
            (&["for=\"", "for=192.0.2.1", "\""], "- 192.0.2.1 -"),
        ];
        for (lines, expected) in cases {
            let found = hops(ForwardedHeader::Forwarded, lines);
            assert_eq!(found, *expected, "{lines:?}");
        }
    }
}
