//! What a client gave to prove who it is.

use std::fmt;

use crate::wipe::wipe;

/// A login name and the password given with it.
#[derive(Debug)]
pub struct Credentials {
    /// The name of USER: bounded UTF-8 without control characters, exactly as typed otherwise.
    pub login: String,
    /// The rest of the line of PASS.
    pub password: Password,
}

/// A password: any octets but CR LF. `Debug` does not show it, and dropping it wipes it as best we can.
pub struct Password(Box<[u8]>);

impl Password {
    /// A copy of `octets`.
    pub fn new(octets: &[u8]) -> Self {
        Self(octets.into())
    }

    /// The octets, for the one place that checks them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password([redacted])")
    }
}

/// What a client sent in a SASL exchange, decoded. `Debug` does not show it, and dropping it wipes it as best we can.
pub struct Token(Vec<u8>);

impl Token {
    pub(crate) fn new(octets: Vec<u8>) -> Self {
        Self(octets)
    }

    /// The octets, for the mechanism.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// A login name and the digest that proves that the client knows the password (RFC 1939 §7, APOP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApopCredentials {
    /// The name: bounded UTF-8 without control characters.
    pub login: String,
    /// MD5 of the greeting's timestamp, angle brackets included, and the password.
    pub digest: [u8; 16],
}
