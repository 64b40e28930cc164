//! The moment between STLS and the handshake.

use crate::authorization::Authorization;
use crate::language::Wording;
use crate::policy::Tls;

/// `+OK` is written and the connection is about to change.
///
/// Plaintext behind the line is an injection by someone on the path and is never parsed (RFC 2595 §4,
/// CVE-2011-0411): a driver that finds any ends the session. The encrypted stream starts with a fresh
/// [`crate::LineBuffer`].
#[derive(Debug)]
#[must_use]
pub struct StartTls(Authorization);

impl StartTls {
    pub(super) fn new(state: Authorization) -> Self {
        Self(state)
    }

    /// The handshake is done. What was learnt in plaintext is forgotten (RFC 2595 §4); the counts of bad
    /// commands and refused logins go on.
    pub fn established(self) -> Authorization {
        let mut state = self.0;
        state.policy.tls = Tls::Active;
        state.user = None;
        state.policy.wording = Wording::default();
        state
    }
}
