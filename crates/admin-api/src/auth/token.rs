//! The bootstrap token.

use std::fmt;

/// The fewest characters of a token: 128 bits in base64 are 22, in hex 32.
const TOKEN_CHARACTERS_MIN: usize = 16;

/// A bearer token, kept as its hash.
#[derive(Clone, Copy)]
pub struct AdminToken(blake3::Hash);

/// Why a text cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an admin token is at least {TOKEN_CHARACTERS_MIN} printable ASCII characters without spaces")]
pub struct AdminTokenError;

impl AdminToken {
    /// Takes the token as it stands in its file, white space around it aside.
    pub fn new(text: &str) -> Result<Self, AdminTokenError> {
        let text = text.trim();
        if text.len() < TOKEN_CHARACTERS_MIN || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(AdminTokenError);
        }
        Ok(Self(blake3::hash(text.as_bytes())))
    }

    /// Compares in constant time: hashes by `blake3::Hash`'s own equality.
    pub(crate) fn admits(&self, text: &str) -> bool {
        blake3::hash(text.as_bytes()) == self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole_and_never_shown() {
        let token = AdminToken::new(" 0123456789abcdef\n").unwrap();
        assert!(token.admits("0123456789abcdef"));
        assert!(!token.admits("0123456789abcde"));
        assert!(!token.admits(""));
        assert_eq!(format!("{token:?}"), "AdminToken(…)");
        assert!(AdminToken::new("short").is_err());
        assert!(AdminToken::new("0123456789 abcdef").is_err());
    }
}
