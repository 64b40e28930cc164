//! Mail addresses in the form they are looked up by.

use std::fmt;

use serde::{Serialize, Serializer};
use unicode_normalization::UnicodeNormalization as _;

/// Longest domain name in octets (RFC 5321 §4.5.3.1.2).
const DOMAIN_OCTETS_MAX: usize = 255;
/// Longest local part in octets (RFC 5321 §4.5.3.1.1).
const LOCAL_PART_OCTETS_MAX: usize = 64;

/// Why a text is not an address or a domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`, or nothing on one side of it.
    #[error("an address has the form local-part@domain")]
    Shape,
    /// The local part is longer than 64 octets.
    #[error("the local part is longer than 64 octets")]
    LocalPartTooLong,
    /// The local part holds a control character or a space.
    #[error("the local part holds a control character or white space")]
    LocalPartCharacter,
    /// The domain is not a host name of dot-separated labels.
    #[error(
        "the domain is not a host name: labels of 1 to 63 letters, digits and hyphens, 255 octets in all"
    )]
    Domain,
}

/// A domain name in lower case: labels of letters, digits and hyphens. An internationalised name is turned into
/// its A-labels (RFC 5890), so that both spellings are one domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct DomainName(String);

impl DomainName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for DomainName {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let ascii = (!text.is_ascii()).then(|| idna::domain_to_ascii_strict(text)).transpose();
        let ascii = ascii.map_err(|_| AddressError::Domain)?;
        let text = ascii.as_deref().unwrap_or(text);
        if text.is_empty() || text.len() > DOMAIN_OCTETS_MAX || !text.split('.').all(label) {
            return Err(AddressError::Domain);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mailbox address, `local-part@domain`, folded to lower case: two spellings of one address are equal. What is beyond
/// ASCII is normalized (NFKC), as SASLprep does (RFC 4013) and, but for compatibility characters, the profile
/// UsernameCaseMapped of PRECIS (RFC 8265 §3.3): the same name is written in several ways by different keyboards.
///
/// Folding the local part departs from the letter of RFC 5321 §2.4, as every hoster does: nobody wants
/// `Alice@` and `alice@` to be two people.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    text: String,
    at: usize,
}

impl Address {
    /// The address of `local` at `domain`.
    pub fn new(local: &str, domain: &str) -> Result<Self, AddressError> {
        if local.is_empty() {
            return Err(AddressError::Shape);
        }
        let normalized = (!local.is_ascii()).then(|| local.nfkc().collect::<String>());
        let local = normalized.as_deref().unwrap_or(local);
        if local.len() > LOCAL_PART_OCTETS_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        if local.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(AddressError::LocalPartCharacter);
        }
        let domain = DomainName::try_from(domain)?;
        let mut local = local.to_lowercase();
        if !local.is_ascii() {
            // What was lowered may compose anew.
            local = local.nfkc().collect();
        }
        Ok(Self { at: local.len(), text: format!("{local}@{domain}") })
    }

    /// Whether `name` is read as what it says, but for ASCII capitals. Others may tell names from each other that are
    /// the same address here; whoever vouches for one of those vouches for nobody.
    pub fn is_plain(name: &str) -> bool {
        name.is_ascii() || name.nfkc().collect::<String>().to_lowercase() == name.to_ascii_lowercase()
    }

    /// The whole address as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The domain, in lower case.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// The part before the `@`, in lower case.
    pub fn local_part(&self) -> &str {
        &self.text[..self.at]
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::Shape)?;
        Self::new(local, domain)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, AddressError>) {
        assert_eq!(Address::try_from(text).as_ref().map(Address::as_str), expected.as_ref().map(|s| *s));
    }

    #[test]
    fn folds_case() {
        check("Alice@Demo.TEST", Ok("alice@demo.test"));
        check("BJÖRN@demo.test", Ok("björn@demo.test"));
        check("a@BÜCHER.test", Ok("a@xn--bcher-kva.test"));
        check("a@xn--bcher-kva.test", Ok("a@xn--bcher-kva.test"));
    }

    /// RFC 4013, RFC 8265 §3.3: one name however its letters are composed, and however wide they are.
    #[test]
    fn composes_letters() {
        check("bjo\u{308}rn@demo.test", Ok("björn@demo.test"));
        check("BJO\u{308}RN@demo.test", Ok("björn@demo.test"));
        check("\u{ff21}\u{ff4c}\u{ff49}ce@demo.test", Ok("alice@demo.test"));
        check("\u{1e9e}@demo.test", Ok("ß@demo.test"));
        check("a\u{3000}b@demo.test", Err(AddressError::LocalPartCharacter));
        // It may grow by that.
        check("\u{fdfa}@demo.test", Err(AddressError::LocalPartCharacter));
        check(&format!("{}@demo.test", "\u{fdf2}".repeat(9)), Err(AddressError::LocalPartTooLong));
    }

    #[test]
    fn takes_the_last_at_sign() {
        check("a@b@demo.test", Ok("a@b@demo.test"));
        assert_eq!(Address::try_from("a@b@demo.test").unwrap().domain(), "demo.test");
    }

    #[test]
    fn refuses_what_is_no_address() {
        check("alice", Err(AddressError::Shape));
        check("@demo.test", Err(AddressError::Shape));
        check("alice@", Err(AddressError::Domain));
        check("alice@-x.test", Err(AddressError::Domain));
        check("alice@a..test", Err(AddressError::Domain));
        check("alice@b\u{200d}.test", Err(AddressError::Domain));
        check("alice@\u{ff0e}.test", Err(AddressError::Domain));
        check("al ice@demo.test", Err(AddressError::LocalPartCharacter));
        check("al\u{0}ice@demo.test", Err(AddressError::LocalPartCharacter));
        check(&format!("{}@demo.test", "a".repeat(65)), Err(AddressError::LocalPartTooLong));
    }

    #[test]
    fn names_that_are_folded_are_not_plain() {
        for plain in ["alice@one.test", "Alice", "\u{e5}sa@one.test", "", "@"] {
            assert!(Address::is_plain(plain), "{plain}");
        }
        for folded in ["\u{ff41}lice@one.test", "\u{c5}sa", "a\u{30a}sa", "\u{fb01}", "\u{212a}"] {
            assert!(!Address::is_plain(folded), "{folded}");
        }
    }
}
