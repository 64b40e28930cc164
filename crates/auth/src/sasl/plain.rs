//! PLAIN (RFC 4616) and LOGIN: a name and a password, as they are.

use super::Malformed;

/// The longest name taken: a mail address is no longer (RFC 5321 §4.5.3.1).
pub(crate) const LOGIN_MAX: usize = 320;

/// The message of PLAIN.
#[derive(PartialEq, Eq)]
pub(crate) struct Plain<'a> {
    /// On whose behalf; empty for the client's own.
    pub(crate) authzid: &'a str,
    /// Who logs in.
    pub(crate) login: &'a str,
    pub(crate) password: &'a [u8],
}

impl<'a> Plain<'a> {
    /// Reads the message: three parts with a NUL between. A password may be any octets but NUL.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = message.split(|&octet| octet == 0);
        let (Some(authzid), Some(login), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let authzid = if authzid.is_empty() { "" } else { name(authzid).ok_or(Malformed)? };
        Ok(Self { authzid, login: name(login).ok_or(Malformed)?, password })
    }
}

/// A name, if these octets can be one.
pub(crate) fn name(octets: &[u8]) -> Option<&str> {
    // LOGIN's are ended by a NUL by some.
    let octets = octets.strip_suffix(b"\0").unwrap_or(octets);
    let name = str::from_utf8(octets).ok()?;
    (!name.is_empty() && name.len() <= LOGIN_MAX && !name.chars().any(char::is_control)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &[u8], expected: Option<(&str, &str, &[u8])>) {
        let plain = Plain::parse(message).ok();
        assert_eq!(plain.map(|plain| (plain.authzid, plain.login, plain.password)), expected);
    }

    #[test]
    fn three_parts() {
        check(b"\0tim\0tanstaaftanstaaf", Some(("", "tim", b"tanstaaftanstaaf")));
        check(b"Ursel\0Kurt\0xipj3plmq", Some(("Ursel", "Kurt", b"xipj3plmq")));
        check("\0åsa@d.test\0 pä\u{1}".as_bytes(), Some(("", "åsa@d.test", " pä\u{1}".as_bytes())));
        check(b"\0tim\0", Some(("", "tim", b"")));
        for bad in [
            &b""[..],
            b"tim",
            b"\0tim",
            b"\0\0x",
            b"\0a\0b\0c",
            b"\0t\xff\0x",
            b"\0t\x1b[2J\0x",
            b"\x07\0a\0b",
        ] {
            check(bad, None);
        }
        check(format!("\0{}\0x", "a".repeat(321)).as_bytes(), None);
    }

    #[test]
    fn names_of_login() {
        assert_eq!(name(b"a@b.test\0"), Some("a@b.test"));
        assert_eq!(name(b"\0"), None);
    }
}
