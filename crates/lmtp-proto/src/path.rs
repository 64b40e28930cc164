//! Reverse-paths and forward-paths (RFC 5321 §4.1.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::address::Address;

/// A path is 256 octets (RFC 5321 §4.5.3.1.3). The 64 of a local part are not held to: addresses that carry
/// another one (SRS, VERP) are longer, and refusing them would lose their mail.
const MAX_LOCAL_OCTETS: usize = 256;
/// RFC 5321 §4.5.3.1.2.
const MAX_DOMAIN_OCTETS: usize = 255;

/// Reads `<…>` off the start of `text`. The path is `None` for `<>`; what follows it is returned with it.
pub(crate) fn path(text: &str) -> Option<(Option<Address>, &str)> {
    let text = text.strip_prefix('<')?;
    if let Some(rest) = text.strip_prefix('>') {
        return Some((None, rest));
    }
    let (address, rest) = mailbox(without_route(text)?)?;
    Some((Some(address), rest.strip_prefix('>')?))
}

/// Reads a whole text as an address.
pub(crate) fn address(text: &str) -> Option<Address> {
    mailbox(text).filter(|(_, rest)| rest.is_empty()).map(|(address, _)| address)
}

/// Strips `@a,@b:`. RFC 5321 §4.1.1.3 and Appendix C: source routes must be accepted and should be ignored.
fn without_route(text: &str) -> Option<&str> {
    if !text.starts_with('@') {
        return Some(text);
    }
    let (route, rest) = text.split_once(':')?;
    let hosts = route.split(',').all(|host| host.strip_prefix('@').is_some_and(is_domain));
    hosts.then_some(rest)
}

fn mailbox(text: &str) -> Option<(Address, &str)> {
    let (local, rest) = if text.starts_with('"') { quoted_string(text)? } else { dot_string(text)? };
    if local.is_empty() || local.len() > MAX_LOCAL_OCTETS {
        return None;
    }
    let Some(behind) = rest.strip_prefix('@') else {
        // RFC 5321 §4.1.1.3: the one mailbox that needs no domain.
        let postmaster = local.eq_ignore_ascii_case("postmaster");
        return postmaster.then(|| (Address::new(local, None, written(text, rest)), rest));
    };
    let end = behind.find('>').unwrap_or(behind.len());
    let (domain, rest) = behind.split_at(end);
    let fits = domain.len() <= MAX_DOMAIN_OCTETS && (is_domain(domain) || is_address_literal(domain));
    fits.then(|| (Address::new(local, Some(domain.to_owned()), written(text, rest)), rest))
}

/// The part of `text` before `rest`, which is its end.
fn written(text: &str, rest: &str) -> String {
    text[..text.len() - rest.len()].to_owned()
}

/// A local part without quotes. Dots may stand anywhere: large providers gave out such addresses.
fn dot_string(text: &str) -> Option<(String, &str)> {
    let end = text.find(['@', '>']).unwrap_or(text.len());
    let (local, rest) = text.split_at(end);
    let fits = local.chars().all(|c| is_atext(c) || c == '.');
    fits.then(|| (local.to_owned(), rest))
}

/// A local part in quotes, which are taken off, as are the backslashes within.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut local = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((local, &text[at + 1..])),
            '\\' => local.push(characters.next().map(|(_, quoted)| quoted).filter(|c| !c.is_control())?),
            _ if character.is_control() => return None,
            _ => local.push(character),
        }
    }
    None
}

/// RFC 5322 §3.2.3, extended by RFC 6531 §3.3.
fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(character)
        || (!character.is_ascii() && !character.is_control())
}

/// RFC 5321 §4.1.2, with the underscore that names in the field have, extended by RFC 6531 §3.3.
fn is_domain(text: &str) -> bool {
    let is_letter = |c: char| {
        c.is_ascii_alphanumeric()
            || c == '-'
            || c == '_'
            || (!c.is_ascii() && !c.is_control() && !c.is_whitespace())
    };
    text.split('.').all(|label| {
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(is_letter)
    })
}

/// RFC 5321 §4.1.3.
fn is_address_literal(text: &str) -> bool {
    let Some(literal) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else { return false };
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => literal[5..].parse::<Ipv6Addr>().is_ok(),
        _ => literal.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::path;

    /// The local part and domain expected, parted by a space; `-` for no domain.
    #[track_caller]
    fn check(text: &str, local: &str, domain: Option<&str>, original: &str) {
        let (address, rest) = path(text).expect("a path");
        let address = address.expect("an address");
        assert_eq!(
            (address.local(), address.domain(), address.as_str(), rest),
            (local, domain, original, "")
        );
    }

    #[track_caller]
    fn check_bad(text: &str) {
        assert_eq!(path(text), None);
    }

    #[test]
    fn plain_addresses() {
        check("<a@b.example>", "a", Some("b.example"), "a@b.example");
        check("<a.b+c=d@B.Example>", "a.b+c=d", Some("B.Example"), "a.b+c=d@B.Example");
        check("<a..b.@mx_1.example>", "a..b.", Some("mx_1.example"), "a..b.@mx_1.example");
        check("<åsa@exämple.org>", "åsa", Some("exämple.org"), "åsa@exämple.org");
        assert_eq!(path("<> SIZE=1"), Some((None, " SIZE=1")));
    }

    #[test]
    fn quoted_local_parts() {
        check(r#"<"a b"@c.example>"#, "a b", Some("c.example"), r#""a b"@c.example"#);
        check(r#"<"a>@\"\\"@c.example>"#, r#"a>@"\"#, Some("c.example"), r#""a>@\"\\"@c.example"#);
        check_bad(r#"<""@c.example>"#);
        check_bad(r#"<"a@c.example>"#);
        check_bad(r#"<"a"b@c.example>"#);
        check_bad("<\"a\tb\"@c.example>");
        check_bad("<\"a\\\u{1}b\"@c.example>");
    }

    #[test]
    fn source_routes_are_ignored() {
        check("<@a,@b.example:user@dom.example>", "user", Some("dom.example"), "user@dom.example");
        check_bad("<@a,b:user@dom>");
        check_bad("<@a user@dom>");
        check_bad("<@:user@dom>");
    }

    #[test]
    fn address_literals() {
        check("<a@[192.0.2.1]>", "a", Some("[192.0.2.1]"), "a@[192.0.2.1]");
        check("<a@[IPv6:2001:db8::1]>", "a", Some("[IPv6:2001:db8::1]"), "a@[IPv6:2001:db8::1]");
        for bad in ["<a@[192.0.2.256]>", "<a@[]>", "<a@[192.0.2.1>", "<a@[IPv6:x]>", "<a@[x:y]>"] {
            check_bad(bad);
        }
    }

    #[test]
    fn postmaster_needs_no_domain() {
        check("<Postmaster>", "Postmaster", None, "Postmaster");
        check_bad("<root>");
    }

    #[test]
    fn what_is_no_path() {
        for bad in [
            "",
            "<",
            "a@b",
            "<a@b",
            "a@b>",
            "<@b>",
            "<a@>",
            "<a@b.>",
            "<a@.b>",
            "<a@-b>",
            "<a@b->",
            "<a b@c>",
            "<a@b c>",
            "<a@b@c>",
            "< a@b>",
            "<a,b@c>",
            "<a\u{7f}@b>",
            "<a\u{85}@b>",
        ] {
            check_bad(bad);
        }
        check_bad(&format!("<{}@b>", "x".repeat(257)));
        check_bad(&format!("<a@{}>", "x".repeat(256)));
    }
}
