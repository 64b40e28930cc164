//! From text to a scheme whose cost is bounded.

use std::{num::NonZeroU32, str::FromStr};

use argon2::{Params, PasswordHash};
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    ARGON2_LANES_MAX, ARGON2_MEMORY_KIB_MAX, ARGON2_PASSES_MAX, BCRYPT_COST_MAX, ITERATIONS_MAX,
    SHA_CRYPT_ROUNDS_MAX, Scheme, StoredPasswordError,
};

/// The longest hash there is room for in any scheme; what is longer is not looked at.
const TEXT_OCTETS_MAX: usize = 512;
/// The longest salt: longer ones are nobody's, and hashing them takes time.
const SALT_OCTETS_MAX: usize = 128;

type Parsed = Result<Scheme, StoredPasswordError>;

pub(super) fn scheme(text: &str) -> Parsed {
    let Some(rest) = text.strip_prefix('{') else { return bare(text) };
    let (name, hash) = rest.split_once('}').ok_or(StoredPasswordError::UnknownScheme)?;
    if hash.len() > TEXT_OCTETS_MAX {
        return Err(StoredPasswordError::UnknownScheme);
    }
    match name.to_ascii_uppercase().as_str() {
        "ARGON2ID" => argon2id(hash),
        "BLF-CRYPT" => bcrypt(hash),
        "SHA256-CRYPT" => sha_crypt("$5$", hash),
        "SHA512-CRYPT" => sha_crypt("$6$", hash),
        "CRYPT" => bare(hash),
        "SSHA" => salted("SSHA", &digest::SHA1_FOR_LEGACY_USE_ONLY, hash),
        "SSHA512" => salted("SSHA512", &digest::SHA512, hash),
        "PBKDF2" => pbkdf2(hash).unwrap_or(Err(StoredPasswordError::Malformed("PBKDF2"))),
        "SCRAM-SHA-256" => scram(hash).unwrap_or(Err(StoredPasswordError::Malformed("SCRAM-SHA-256"))),
        _ => Err(StoredPasswordError::UnknownScheme),
    }
}

/// A hash whose scheme stands between its dollar signs.
fn bare(hash: &str) -> Parsed {
    if hash.len() > TEXT_OCTETS_MAX {
        return Err(StoredPasswordError::UnknownScheme);
    }
    match hash.strip_prefix('$').and_then(|rest| rest.split_once('$')) {
        Some(("argon2id", _)) => argon2id(hash),
        Some(("2a" | "2b" | "2y", _)) => bcrypt(hash),
        Some(("5", _)) => sha_crypt("$5$", hash),
        Some(("6", _)) => sha_crypt("$6$", hash),
        _ => Err(StoredPasswordError::UnknownScheme),
    }
}

fn argon2id(hash: &str) -> Parsed {
    let malformed = StoredPasswordError::Malformed("argon2id");
    let hash = PasswordHash::new(hash).map_err(|_| malformed)?;
    let salted = hash.salt.as_ref().is_some_and(|salt| salt.len() >= argon2::MIN_SALT_LEN);
    if hash.algorithm != argon2::ARGON2ID_IDENT || !salted || hash.hash.is_none() {
        return Err(malformed);
    }
    if hash.version.is_some_and(|version| argon2::Version::try_from(version).is_err()) {
        return Err(malformed);
    }
    let params = Params::try_from(&hash).map_err(|_| malformed)?;
    at_most("memory of argon2id in KiB", params.m_cost(), ARGON2_MEMORY_KIB_MAX)?;
    at_most("passes of argon2id", params.t_cost(), ARGON2_PASSES_MAX)?;
    at_most("lanes of argon2id", params.p_cost(), ARGON2_LANES_MAX)?;
    Ok(Scheme::Argon2id(Box::new((hash, params))))
}

fn bcrypt(hash: &str) -> Parsed {
    let malformed = StoredPasswordError::Malformed("bcrypt");
    // `$2x$` marks hashes of a crypt(3) with a bug in how it read characters over 127: not taken.
    if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)) {
        return Err(malformed);
    }
    let parts = bcrypt::HashParts::from_str(hash).map_err(|_| malformed)?;
    at_most("cost of bcrypt", parts.get_cost(), BCRYPT_COST_MAX)?;
    // Four is the least the function takes.
    if parts.get_cost() < 4 { Err(malformed) } else { Ok(Scheme::Bcrypt(hash.to_owned())) }
}

/// `$5$[rounds=N$]salt$hash`, or with `$6$`.
fn sha_crypt(prefix: &'static str, hash: &str) -> Parsed {
    let (name, hash_chars) = if prefix == "$5$" { ("SHA256-CRYPT", 43) } else { ("SHA512-CRYPT", 86) };
    let malformed = StoredPasswordError::Malformed(name);
    let rest = hash.strip_prefix(prefix).ok_or(malformed)?;
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => {
            let (rounds, rest) = rest.split_once('$').ok_or(malformed)?;
            (decimal(rounds).ok_or(malformed)?, rest)
        }
        None => (sha_crypt::Params::RECOMMENDED_ROUNDS, rest),
    };
    at_most("rounds of crypt with SHA", rounds, SHA_CRYPT_ROUNDS_MAX)?;
    let is_crypt64 = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    let well_formed = rounds >= sha_crypt::Params::ROUNDS_MIN
        && rest.split_once('$').is_some_and(|(salt, hash)| {
            (1..=16).contains(&salt.len()) && hash.len() == hash_chars && is_crypt64(salt) && is_crypt64(hash)
        });
    if well_formed { Ok(Scheme::ShaCrypt(hash.to_owned())) } else { Err(malformed) }
}

/// Base64 of the digest and, behind it, the salt (RFC 2307's `{SSHA}`, as directories extended it).
fn salted(name: &'static str, algorithm: &'static digest::Algorithm, text: &str) -> Parsed {
    let malformed = StoredPasswordError::Malformed(name);
    let mut hash = STANDARD.decode(text).map_err(|_| malformed)?;
    // Without a salt it would be a scheme of another name.
    if !(algorithm.output_len() + 1..=algorithm.output_len() + SALT_OCTETS_MAX).contains(&hash.len()) {
        return Err(malformed);
    }
    let salt = hash.split_off(algorithm.output_len());
    Ok(Scheme::Salted { algorithm, salt, hash })
}

/// `$1$salt$iterations$hex`: the salt is hashed as the text it is.
fn pbkdf2(text: &str) -> Option<Parsed> {
    let mut fields = text.strip_prefix("$1$")?.split('$');
    let (salt, iterations, hash) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || !(1..=SALT_OCTETS_MAX).contains(&salt.len()) {
        return None;
    }
    let iterations = NonZeroU32::new(decimal(iterations)?)?;
    let hash: [u8; 20] = hex(hash)?.try_into().ok()?;
    Some(at_most("iterations of PBKDF2", iterations.get(), ITERATIONS_MAX).map(|()| Scheme::Pbkdf2 {
        iterations,
        salt: salt.into(),
        hash,
    }))
}

/// `iterations,salt,stored key,server key`, all but the first in base64.
fn scram(text: &str) -> Option<Parsed> {
    let mut fields = text.split(',');
    let iterations = NonZeroU32::new(decimal(fields.next()?)?)?;
    let mut octets = || STANDARD.decode(fields.next()?).ok();
    let (salt, stored_key, server_key) = (octets()?, octets()?, octets()?);
    if fields.next().is_some() || server_key.len() != 32 || !(1..=SALT_OCTETS_MAX).contains(&salt.len()) {
        return None;
    }
    let stored_key: [u8; 32] = stored_key.try_into().ok()?;
    Some(at_most("iterations of SCRAM", iterations.get(), ITERATIONS_MAX).map(|()| Scheme::Scram {
        iterations,
        salt,
        stored_key,
    }))
}

fn at_most(what: &'static str, value: u32, max: u32) -> Result<(), StoredPasswordError> {
    if value <= max { Ok(()) } else { Err(StoredPasswordError::TooCostly { what, max }) }
}

/// A number in digits alone; one past 32 bits counts as the highest there is, which is too much anywhere.
fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
