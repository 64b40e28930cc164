//! XCLIENT and XOIP: a proxy that logs in for its client says who that is.
//!
//! No RFC has them. XCLIENT is Dovecot's, after Postfix's command of that name: attributes, `NAME=value`, parted
//! by spaces. XOIP, of other proxies, has the address alone. Both count only from whom they are taken
//! ([`crate::Policy::forwarding`]).

use std::net::{IpAddr, Ipv6Addr};

/// What a proxy says of its client. Attributes that are not known, or of no use here (HELO, PROTO, TTL), are
/// not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardedClient {
    /// ADDR.
    pub address: Option<ForwardedAddress>,
    /// PORT.
    pub port: Option<u16>,
    /// SESSION: what the proxy calls the session. Printable ASCII without spaces, of 128 octets at most.
    pub session: Option<String>,
}

/// The address of a proxy's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedAddress {
    /// This one. An IPv4 address is never written as an IPv6 one.
    Known(IpAddr),
    /// The proxy cannot tell.
    Unavailable,
}

/// What Dovecot and Postfix write for a value that is not known, or not now.
const UNAVAILABLE: [&[u8]; 2] = [b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"];

/// Longer than any proxy's name for a session; it stands in each line of the log.
const MAX_SESSION_OCTETS: usize = 128;

impl ForwardedClient {
    /// Reads the arguments of XCLIENT. `None` if an attribute that is known has a value it cannot have.
    pub(crate) fn parse<'a>(attributes: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut client = Self::default();
        for attribute in attributes {
            let (name, value) = attribute.split_at(memchr::memchr(b'=', attribute)?);
            let value = &value[1..];
            let unavailable = UNAVAILABLE.iter().any(|word| value.eq_ignore_ascii_case(word));
            if name.eq_ignore_ascii_case(b"ADDR") {
                client.address = Some(ForwardedAddress::parse(value)?);
            } else if name.eq_ignore_ascii_case(b"PORT") && !unavailable {
                client.port = Some(port(value)?);
            } else if name.eq_ignore_ascii_case(b"SESSION") && !unavailable {
                client.session = Some(session(value)?);
            }
        }
        Some(client)
    }

    /// Reads the argument of XOIP.
    pub(crate) fn parse_address(address: &[u8]) -> Option<Self> {
        Some(Self { address: Some(ForwardedAddress::parse(address)?), ..Self::default() })
    }
}

impl ForwardedAddress {
    fn parse(value: &[u8]) -> Option<Self> {
        if UNAVAILABLE.iter().any(|word| value.eq_ignore_ascii_case(word)) {
            return Some(Self::Unavailable);
        }
        let text = str::from_utf8(value).ok()?;
        // RFC 5321 §4.1.3 writes IPv6 addresses so, and with it Postfix.
        let address: IpAddr = match text.split_at_checked(5) {
            Some((tag, rest)) if tag.eq_ignore_ascii_case("IPV6:") => rest.parse::<Ipv6Addr>().ok()?.into(),
            _ => text.parse().ok()?,
        };
        Some(Self::Known(address.to_canonical()))
    }
}

/// A port; 0 where none is meant.
fn port(value: &[u8]) -> Option<u16> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(value).ok()?.parse().ok()
}

fn session(value: &[u8]) -> Option<String> {
    let fits = (1..=MAX_SESSION_OCTETS).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    fits.then(|| String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(attributes: &[u8]) -> Option<ForwardedClient> {
        ForwardedClient::parse(attributes.split(|o| *o == b' '))
    }

    #[track_caller]
    fn check_address(value: &str, expected: Option<&str>) {
        let expected = expected.map(|address| match address {
            "" => ForwardedAddress::Unavailable,
            address => ForwardedAddress::Known(address.parse().unwrap()),
        });
        let address = |client: Option<ForwardedClient>| client.and_then(|client| client.address);
        assert_eq!(address(parse(format!("ADDR={value}").as_bytes())), expected, "{value}");
        assert_eq!(address(ForwardedClient::parse_address(value.as_bytes())), expected, "{value}");
    }

    #[test]
    fn addresses_are_plain_tagged_or_unavailable() {
        check_address("192.0.2.7", Some("192.0.2.7"));
        check_address("2001:db8::7", Some("2001:db8::7"));
        check_address("IPV6:2001:db8::7", Some("2001:db8::7"));
        check_address("ipv6:2001:DB8::7", Some("2001:db8::7"));
        check_address("::ffff:192.0.2.7", Some("192.0.2.7"));
        check_address("[UNAVAILABLE]", Some(""));
        check_address("[tempunavail]", Some(""));
        for bad in ["", "192.0.2", "IPV6:192.0.2.7", "IPV6:", "[192.0.2.7]", "localhost", "1.2.3.4:5", "é"] {
            check_address(bad, None);
        }
    }

    #[test]
    fn attributes_are_known_in_any_case_and_others_ignored() {
        let client =
            parse(b"addr=192.0.2.7 Port=1234 SESSION=bkEzB2oTdoB/AAAB HELO=x PROTO=POP3 TTL=4 NEW=a=b");
        let expected = ForwardedClient {
            address: Some(ForwardedAddress::Known([192, 0, 2, 7].into())),
            port: Some(1234),
            session: Some("bkEzB2oTdoB/AAAB".into()),
        };
        assert_eq!(client, Some(expected));
        let nothing = parse(b"PORT=[UNAVAILABLE] SESSION=[TEMPUNAVAIL] LOGIN=\x1b[31m");
        assert_eq!(nothing, Some(ForwardedClient::default()));
        assert_eq!(parse(b"SESSION=a=b").unwrap().session.as_deref(), Some("a=b"));
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for bad in
            ["ADDR", "=", "ADDR=", "PORT=", "PORT=65536", "PORT=+1", "PORT=x", "SESSION=", "SESSION=a\x1b"]
        {
            let refused = parse(bad.as_bytes()).is_none_or(|client| client == ForwardedClient::default());
            assert!(refused, "{bad}");
        }
        assert!(parse(b"SESSION=\xe9").is_none());
        assert!(parse(format!("SESSION={}", "x".repeat(128)).as_bytes()).is_some());
        assert!(parse(format!("SESSION={}", "x".repeat(129)).as_bytes()).is_none());
        assert!(parse(b"ADDR").is_none());
    }
}
