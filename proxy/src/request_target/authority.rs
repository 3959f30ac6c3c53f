//! The host and port that a request names, in `Host` or in an absolute target.

use std::net::Ipv6Addr;

/// Why a text is not a valid `uri-host [ ":" port ]` (RFC 9110 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("its host is empty")]
    Empty,
    #[error("it names a user")]
    UserInfo,
    #[error("its host has an invalid character")]
    Character,
    #[error("its host has a percent sign without two hexadecimal digits")]
    Percent,
    #[error("its brackets do not contain an IPv6 address")]
    Brackets,
    #[error("its port is not a number from 0 to 65535")]
    Port,
}

/// Checks a host with perhaps a port by the grammar of RFC 3986 section 3.2.2.
///
/// Stricter in two points. An empty host is invalid in `http` URIs (RFC 9110 section 4.2.1). A
/// comma, which the grammar allows, is how recipients join two fields of one name.
pub(super) fn check(authority: &[u8]) -> Result<(), AuthorityError> {
    if authority.contains(&b'@') {
        return Err(AuthorityError::UserInfo);
    }
    let port = if let Some(rest) = authority.strip_prefix(b"[") {
        let end = rest.iter().position(|&byte| byte == b']');
        let (literal, rest) = rest.split_at(end.ok_or(AuthorityError::Brackets)?);
        check_literal(literal)?;
        match &rest[1..] {
            [] => return Ok(()),
            [b':', port @ ..] => port,
            _ => return Err(AuthorityError::Brackets),
        }
    } else {
        let colon = authority.iter().position(|&byte| byte == b':');
        let (name, port) = authority.split_at(colon.unwrap_or(authority.len()));
        check_name(name)?;
        port.strip_prefix(b":").unwrap_or_default()
    };
    check_port(port)
}

fn check_name(name: &[u8]) -> Result<(), AuthorityError> {
    if name.is_empty() {
        return Err(AuthorityError::Empty);
    }
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut is_digit = || bytes.next().is_some_and(u8::is_ascii_hexdigit);
                if !(is_digit() && is_digit()) {
                    return Err(AuthorityError::Percent);
                }
            }
            b'[' | b']' => return Err(AuthorityError::Brackets),
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte) => {}
            _ => return Err(AuthorityError::Character),
        }
    }
    Ok(())
}

/// What stands in brackets; a zone is of one machine alone, and not in the grammar.
fn check_literal(literal: &[u8]) -> Result<(), AuthorityError> {
    let text = str::from_utf8(literal).map_err(|_| AuthorityError::Brackets)?;
    match text.parse::<Ipv6Addr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(AuthorityError::Brackets),
    }
}

/// The grammar lets it be empty.
fn check_port(port: &[u8]) -> Result<(), AuthorityError> {
    let is_number = port.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(port).unwrap_or_default();
    match is_number && (text.is_empty() || text.parse::<u16>().is_ok()) {
        true => Ok(()),
        false => Err(AuthorityError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_is_a_host_with_perhaps_a_port() {
        for good in [
            "a",
            "a.test",
            "a.test.",
            "a.test:80",
            "a.test:",
            "a.test:0",
            "a.test:65535",
            "A_b-c~d",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[2001:db8::1]:",
            "[::ffff:192.0.2.1]",
            "caf%C3%A9.test",
            "a!$&'()*+;=b",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused_with_the_reason() {
        use AuthorityError::{Brackets, Character, Empty, Percent, Port, UserInfo};
        for (bad, why) in [
            ("", Empty),
            (":80", Empty),
            ("a b", Character),
            ("a\tb", Character),
            ("a/b", Character),
            ("a\\b", Character),
            ("a?b", Character),
            ("a#b", Character),
            ("a,b", Character),
            ("a\"b", Character),
            ("a<b>", Character),
            ("a{b}", Character),
            ("a|b", Character),
            ("a^b", Character),
            ("a`b", Character),
            ("a\u{e9}", Character),
            ("a\x7f", Character),
            ("a\x01", Character),
            ("a@b", UserInfo),
            ("u:p@b", UserInfo),
            ("@b", UserInfo),
            ("u@[::1]", UserInfo),
            ("a%", Percent),
            ("a%4", Percent),
            ("a%zz", Percent),
            ("a%4:80", Percent),
            ("a:b", Port),
            ("a:-1", Port),
            ("a:+80", Port),
            ("a:80:80", Port),
            ("a:65536", Port),
            ("a:99999999999999999999", Port),
            ("a: 80", Port),
            ("a:80 ", Port),
            ("a:8\u{e9}", Port),
            ("[::1", Brackets),
            ("::1]", Empty),
            ("[::1]80", Brackets),
            ("[::1]]", Brackets),
            ("[[::1]]", Brackets),
            ("[]", Brackets),
            ("[1.2.3.4]", Brackets),
            ("[a.test]", Brackets),
            ("[::g]", Brackets),
            ("[fe80::1%25eth0]", Brackets),
            ("[v1.x]", Brackets),
            ("[::1]:x", Port),
            ("a[::1]", Brackets),
            ("a]", Brackets),
            ("2001:db8::1", Port),
        ] {
            assert_eq!(check(bad.as_bytes()), Err(why), "{bad:?}");
        }
    }
}
