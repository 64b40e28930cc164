//! The schemes a stored password may be hashed by.
//!
//! Ours is argon2id. The others come with accounts imported from elsewhere, in the forms Dovecot and LDAP
//! directories keep them in, and last until the first good login, which hashes the password anew.
//!
//! A hash is parsed before it is believed: what it asks for in time and memory is bounded here, so that no
//! imported hash can stall a node (P6), and verifying cannot fail for any other reason than the password.

mod parse;

use std::num::NonZeroU32;

use argon2::{Argon2, Params, PasswordHash, PasswordVerifier as _};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use sha_crypt::ShaCrypt;

use crate::{HasherConfig, Password};

/// The highest cost of a bcrypt hash: 2^13 rounds take some half a second of a core.
const BCRYPT_COST_MAX: u32 = 13;
/// The most rounds of a crypt(3) SHA hash: half a second of a core.
const SHA_CRYPT_ROUNDS_MAX: u32 = 1_000_000;
/// The most iterations of PBKDF2 and SCRAM: half a second of a core.
const ITERATIONS_MAX: u32 = 1_000_000;
/// The most memory of an argon2id hash, in KiB: 128 MiB, twice what other servers take by default. As many as are
/// verified at once may take it, one a core.
const ARGON2_MEMORY_KIB_MAX: u32 = 128 * 1024;
/// The most passes of an argon2id hash.
const ARGON2_PASSES_MAX: u32 = 4;
/// The most lanes of an argon2id hash: they cost no more work, but each has a share of the memory.
const ARGON2_LANES_MAX: u32 = 16;

/// A password's hash as it is stored, in one of these forms:
///
/// | form | scheme |
/// |---|---|
/// | `$argon2id$…`, `{ARGON2ID}$argon2id$…` | argon2id in PHC form |
/// | `$2a$…`, `$2b$…`, `$2y$…`, `{BLF-CRYPT}…` | bcrypt |
/// | `$5$…`, `{SHA256-CRYPT}…` | crypt(3) with SHA-256 |
/// | `$6$…`, `{SHA512-CRYPT}…` | crypt(3) with SHA-512 |
/// | `{CRYPT}…` | any of the above |
/// | `{SSHA}base64`, `{SSHA512}base64` | SHA-1 or SHA-512 of password and salt, then the salt |
/// | `{PBKDF2}$1$salt$iterations$hex` | Dovecot's PBKDF2 with HMAC-SHA-1 |
/// | `{SCRAM-SHA-256}iterations,salt,stored key,server key` | Dovecot's form of RFC 7677 verifiers |
///
/// A scheme's name is read in either case. Passwords are octets: none is normalised before it is hashed.
pub struct StoredPassword(Scheme);

/// Why a text is no stored password. It never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoredPasswordError {
    /// It begins like no scheme that is known here.
    #[error("password hash is of no known scheme")]
    UnknownScheme,
    /// It begins like a scheme's hash and is not one.
    #[error("password hash is not a well-formed {0} hash")]
    Malformed(&'static str),
    /// Verifying it would take too long, or too much memory.
    #[error("password hash asks for too much: {what} may be at most {max}")]
    TooCostly {
        /// What is too high.
        what: &'static str,
        /// The highest that is taken.
        max: u32,
    },
}

enum Scheme {
    Argon2id(Box<(PasswordHash, Params)>),
    Bcrypt(String),
    /// Either of the two, in the form crypt(3) gives.
    ShaCrypt(String),
    Salted {
        algorithm: &'static digest::Algorithm,
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
    Pbkdf2 {
        iterations: NonZeroU32,
        salt: Vec<u8>,
        hash: [u8; 20],
    },
    Scram {
        iterations: NonZeroU32,
        salt: Vec<u8>,
        stored_key: [u8; 32],
    },
}

impl StoredPassword {
    /// Reads a stored hash. For a hash that somebody brings along, an error is what to tell them.
    pub fn parse(text: &str) -> Result<Self, StoredPasswordError> {
        parse::scheme(text).map(Self)
    }

    /// Whether this is the password that was hashed. Takes as long as the scheme does, and compares in time
    /// that does not depend on where the two differ.
    pub(crate) fn verify(&self, password: &Password) -> bool {
        let password = password.expose();
        match &self.0 {
            Scheme::Argon2id(hashed) => Argon2::default().verify_password(password, &hashed.0).is_ok(),
            Scheme::Bcrypt(hash) => bcrypt::verify(up_to_nul(password), hash).unwrap_or(false),
            Scheme::ShaCrypt(hash) => ShaCrypt::default().verify_password(password, hash.as_str()).is_ok(),
            Scheme::Salted { algorithm, salt, hash } => {
                let mut context = digest::Context::new(algorithm);
                context.update(password);
                context.update(salt);
                constant_time::verify_slices_are_equal(context.finish().as_ref(), hash).is_ok()
            }
            Scheme::Pbkdf2 { iterations, salt, hash } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA1, *iterations, salt, password, hash).is_ok()
            }
            Scheme::Scram { iterations, salt, stored_key } => {
                // RFC 5802 §3: StoredKey = H(HMAC(SaltedPassword, "Client Key")).
                let mut salted = zeroize::Zeroizing::new([0; 32]);
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, *iterations, salt, password, &mut *salted);
                let key = hmac::Key::new(hmac::HMAC_SHA256, &*salted);
                let computed = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
                constant_time::verify_slices_are_equal(computed.as_ref(), stored_key).is_ok()
            }
        }
    }

    /// Whether a good login should hash the password anew: by argon2id, with what is configured now.
    pub fn needs_upgrade(&self, config: &HasherConfig) -> bool {
        match &self.0 {
            Scheme::Argon2id(hashed) => {
                let params = &hashed.1;
                params.m_cost() != config.memory_kib
                    || params.t_cost() != config.passes
                    || params.p_cost() != Params::DEFAULT_P_COST
            }
            Scheme::Bcrypt(_)
            | Scheme::ShaCrypt(_)
            | Scheme::Salted { .. }
            | Scheme::Pbkdf2 { .. }
            | Scheme::Scram { .. } => true,
        }
    }

    /// Whether verifying takes at least as long as argon2id does by its own doing.
    pub(crate) fn is_argon2id(&self) -> bool {
        matches!(self.0, Scheme::Argon2id(_))
    }
}

impl std::fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredPassword(…)")
    }
}

/// A password as C reads it: where it was hashed by bcrypt, its first NUL ended it.
fn up_to_nul(password: &[u8]) -> &[u8] {
    password.split(|octet| *octet == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
