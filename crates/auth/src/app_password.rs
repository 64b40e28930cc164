//! Passwords for programs: made by us, too long to be guessed, and so kept under a fast hash.
//!
//! A login compares all of an account's app passwords before its password, at no cost that could be observed;
//! an argon2 hash each would tell how many there are, and cost as many times the work.

use secrecy::SecretString;

use crate::Password;

/// What a stored hash begins with.
const SCHEME: &str = "{BLAKE3}";
/// Letters of a password: those that are not taken for another (no 0, 1, 8, 9 as in RFC 4648 base32).
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Letters of a password: 120 random bits.
const LETTERS: usize = 24;
/// Letters between two hyphens.
const GROUP: usize = 4;

/// An app password that was just made.
#[derive(Debug)]
pub struct NewAppPassword {
    /// The password, in groups joined by hyphens: shown once.
    pub text: SecretString,
    /// What is stored of it.
    pub hash: String,
}

impl NewAppPassword {
    /// Makes one.
    pub fn generate() -> Self {
        // Two random UUIDs hold 244 random bits; the fixed ones are spread by the hash.
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        seed[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let random = blake3::hash(&seed);
        let letters: Vec<char> = random.as_bytes()[..LETTERS]
            .iter()
            .map(|octet| char::from(ALPHABET[usize::from(octet % 32)]))
            .collect();
        let groups: Vec<String> = letters.chunks(GROUP).map(|group| group.iter().collect()).collect();
        let text = groups.join("-");
        let hash = hash(text.as_bytes());
        Self { text: text.into(), hash }
    }
}

/// Whether this is the app password that was stored as `stored`. Typed with or without hyphens and spaces, in
/// capitals or not, it is the same.
pub(crate) fn is(password: &Password, stored: &str) -> bool {
    let Some(stored) = stored.strip_prefix(SCHEME).and_then(|hex| blake3::Hash::from_hex(hex).ok()) else {
        return false;
    };
    // Compared in constant time by `blake3::Hash`'s own equality.
    digest(password.expose()) == stored
}

fn hash(text: &[u8]) -> String {
    format!("{SCHEME}{}", digest(text).to_hex())
}

fn digest(text: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("postern app password v1");
    let letters: zeroize::Zeroizing<Vec<u8>> = text
        .iter()
        .filter(|octet| !matches!(octet, b'-' | b' '))
        .map(u8::to_ascii_lowercase)
        .collect::<Vec<u8>>()
        .into();
    hasher.update(&letters);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn what_was_made_is_good_however_it_is_typed() {
        let made = NewAppPassword::generate();
        let text = made.text.expose_secret();
        assert_eq!(text.len(), LETTERS + LETTERS / GROUP - 1);
        assert!(!made.hash.contains(text));
        let good = |text: &str| is(&Password::new(text.as_bytes().to_vec()), &made.hash);
        assert!(good(text) && good(&text.replace('-', "")) && good(&text.to_uppercase()));
        assert!(good(&text.replace('-', " ")));
        assert!(!good("") && !good(&text[1..]) && !good(&format!("{text}a")));
        let other = NewAppPassword::generate();
        assert!(!good(other.text.expose_secret()));
        assert!(
            !is(&Password::new(b"x".to_vec()), "$argon2id$whatever") && !is(&Password::new(vec![]), SCHEME)
        );
        assert!(!format!("{made:?}").contains(text));
    }
}
