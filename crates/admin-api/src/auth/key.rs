//! API keys as they are sent: `pstk_`, the key's identity, `_`, and a secret of 256 random bits.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use maildrop::ApiKeyId;
use secrecy::SecretString;
use uuid::Uuid;

use crate::{Problem, random};

/// Tells a key from other secrets, to people and to scanners of repositories.
const PREFIX: &str = "pstk_";
/// Octets of the secret, and the characters they make.
const SECRET_OCTETS: usize = 32;
const SECRET_CHARACTERS: usize = 43;

/// A key as it was sent.
#[derive(Clone, Copy)]
pub(crate) struct KeyText {
    /// The identity it claims.
    pub(crate) id: ApiKeyId,
    secret: blake3::Hash,
}

impl KeyText {
    /// Reads a key, if it is one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        // As it is written, and in no other of UUID's spellings.
        if id.len() != 32 || secret.len() != SECRET_CHARACTERS {
            return None;
        }
        let id = ApiKeyId::from_uuid(Uuid::try_parse(id).ok()?);
        Some(Self { id, secret: blake3::hash(secret.as_bytes()) })
    }

    /// Whether its secret has this hash; in constant time, by `blake3::Hash`'s own equality.
    pub(crate) fn has_hash(&self, hash: &[u8; 32]) -> bool {
        self.secret == blake3::Hash::from_bytes(*hash)
    }
}

/// A key that was just made.
pub(crate) struct NewKey {
    /// Its identity.
    pub(crate) id: ApiKeyId,
    /// The whole of it, to be shown once.
    pub(crate) text: SecretString,
    /// What is stored of its secret. It is long and random: a fast hash keeps it as well as a slow one.
    pub(crate) secret_hash: [u8; 32],
}

impl NewKey {
    /// Makes a key.
    pub(crate) fn generate() -> Result<Self, Problem> {
        let id = ApiKeyId::generate();
        let secret = URL_SAFE_NO_PAD.encode(random::<SECRET_OCTETS>()?);
        let text = format!("{PREFIX}{}_{secret}", id.as_uuid().as_simple());
        Ok(Self { id, text: text.into(), secret_hash: *blake3::hash(secret.as_bytes()).as_bytes() })
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn what_was_made_is_read_again_and_nothing_else() {
        let key = NewKey::generate().unwrap();
        let text = key.text.expose_secret();
        let read = KeyText::parse(text).unwrap();
        assert_eq!(read.id, key.id);
        assert!(read.has_hash(&key.secret_hash));
        assert!(!format!("{key:?}").contains(&text[40..]));
        let mut other = text.to_owned();
        other.replace_range(text.len() - 1.., if text.ends_with('A') { "E" } else { "A" });
        assert!(!KeyText::parse(&other).unwrap().has_hash(&key.secret_hash));
        for bad in ["", "pstk_", "pstk_x_y", &text[1..], &text[..text.len() - 1], &format!("{text}A")] {
            assert!(KeyText::parse(bad).is_none(), "{bad}");
        }
    }
}
