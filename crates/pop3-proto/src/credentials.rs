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
