//! Passwords in memory.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretSlice};

/// A password: any octets. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Password(SecretSlice<u8>);

impl Password {
    /// Takes a password over.
    pub fn new(octets: Vec<u8>) -> Self {
        Self(octets.into())
    }

    /// The password as SASL compares them (SASLprep, RFC 4013; RFC 4616 §2): the same letters may be composed in several
    /// ways. `None` where it is that already, or cannot be prepared.
    pub(crate) fn prepared(&self) -> Option<Self> {
        let text = str::from_utf8(self.expose()).ok().filter(|text| !text.is_ascii())?;
        let prepared = stringprep::saslprep(text).ok()?;
        (*prepared != *text && !prepared.is_empty()).then(|| Self::new(prepared.as_bytes().to_vec()))
    }

    /// The octets, for hashing.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Password::new(b"hunter2".to_vec())), "Password(…)");
    }
}
