//! The moment between XCLIENT and its answer.

use crate::authorization::Authorization;
use crate::{replies, texts};

/// A proxy said for whom it speaks, and the driver has to see what that client may do. A driver that has no
/// room for the client answers by [`crate::replies::too_many_connections`] and closes.
#[derive(Debug)]
#[must_use]
pub struct Forwarding(Authorization);

impl Forwarding {
    pub(super) fn new(state: Authorization) -> Self {
        Self(state)
    }

    /// The client is taken for whom the proxy says. `plaintext_login` is the policy's, for that client.
    pub fn accept(self, plaintext_login: bool, out: &mut Vec<u8>) -> Authorization {
        let mut state = self.0;
        state.policy.plaintext_login = plaintext_login;
        replies::ok(state.policy.wording, texts::NOTED, out);
        state
    }
}
