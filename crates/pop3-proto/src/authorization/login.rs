//! The moment between PASS and its answer.

use crate::authorization::{Authorization, AuthorizationStep};
use crate::policy::CloseReason;
use crate::replies;
use crate::texts::{self, Text};
use crate::transaction::{DropListing, Transaction};

/// A login that waits for its answer. No line can be processed meanwhile, so what a client pipelined behind
/// PASS meets the state the login led to.
#[derive(Debug)]
#[must_use]
pub struct Login(Authorization);

/// Why a login is refused. Each is a different advice to the client (RFC 2449 §8.1, RFC 3206 §4 and §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown user or wrong password: the same reply for both.
    BadCredentials,
    /// Another session has the exclusive-access lock.
    InUse,
    /// Something of ours failed and may work later. Never a reason to ask for another password.
    Temporary,
    /// Something is wrong that a person has to set right: the mailbox or its tenant is disabled.
    Permanent,
    /// The mailbox wants TLS, and the connection has none.
    TlsRequired,
    /// The last login was too short a time ago (RFC 2449 §8.1.1).
    LoginDelay,
}

impl Login {
    pub(super) fn new(state: Authorization) -> Self {
        Self(state)
    }

    /// The maildrop is open and locked: enters TRANSACTION. No number is named in the reply, so the driver
    /// may still correct `listing` by [`Transaction::totals_replaced`].
    pub fn accept(self, listing: DropListing, out: &mut Vec<u8>) -> Transaction {
        replies::ok(self.0.policy.wording, texts::READY, out);
        Transaction::new(self.0.policy, listing, self.0.bad_commands)
    }

    /// The login failed. After [`crate::Policy::max_refused_logins`] the session is over.
    pub fn refuse(self, refusal: Refusal, out: &mut Vec<u8>) -> AuthorizationStep {
        let mut state = self.0;
        let (code, text) = refusal.code_and_text();
        replies::coded(state.policy.wording, code, text, out);
        state.refused_logins += 1;
        if state.refused_logins >= state.policy.max_refused_logins {
            return AuthorizationStep::Close(CloseReason::TooManyRefusedLogins);
        }
        AuthorizationStep::Continue(state)
    }
}

impl Refusal {
    fn code_and_text(self) -> (&'static str, Text) {
        match self {
            Self::BadCredentials => ("AUTH", texts::BAD_CREDENTIALS),
            Self::InUse => ("IN-USE", texts::IN_USE),
            Self::Temporary => ("SYS/TEMP", texts::LOGIN_UNAVAILABLE),
            Self::Permanent => ("SYS/PERM", texts::LOGIN_DISABLED),
            Self::TlsRequired => ("SYS/PERM", texts::TLS_ONLY),
            Self::LoginDelay => ("LOGIN-DELAY", texts::TOO_SOON),
        }
    }
}
