//! What the listener allows, and why a session is closed.

use std::sync::Arc;

use crate::language::Wording;
use crate::mechanism::{Mechanism, Mechanisms};

/// The state of TLS on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// There is no certificate: STLS is refused.
    Unavailable,
    /// The connection is plaintext and STLS may change that.
    Available,
    /// The connection is encrypted, from its start or since STLS.
    Active,
}

/// What this connection may do. Cheap to clone: texts are shared.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Whether the connection is encrypted, or may become so.
    pub tls: Tls,
    /// Whether USER and PASS are taken on a connection that is not encrypted. Default: no.
    pub plaintext_login: bool,
    /// Whether the peer is a proxy that may say for whom it speaks (XCLIENT, XOIP). Default: no.
    pub forwarding: bool,
    /// The SASL mechanisms there are. Of these, AUTH takes and CAPA names what the connection is fit for:
    /// [`Policy::offers`].
    pub mechanisms: Mechanisms,
    /// The text of the greeting. Control characters and angle brackets are left out of it: a `<…@…>` would
    /// invite clients to try APOP (RFC 1939 §7).
    pub greeting: Arc<str>,
    /// The timestamp for APOP, `<…@…>`, different for each connection: printed at the end of the greeting. Default:
    /// none, and APOP is refused.
    pub apop: Option<Arc<str>>,
    /// What CAPA names as IMPLEMENTATION (RFC 2449 §6.9); not announced when empty.
    pub implementation: Arc<str>,
    /// The least seconds between logins, announced as LOGIN-DELAY (RFC 2449 §6.5); before login as what may hold.
    /// Default: not announced.
    pub login_delay_secs: Option<u32>,
    /// After how many days mail may be removed by the server, announced as EXPIRE (RFC 2449 §6.7); before login as what
    /// may hold. Default: `None`, announced as NEVER after login and not before.
    pub expire_days: Option<u32>,
    /// How the client wants to be answered. Default: in English and ASCII, until UTF8 and LANG.
    pub wording: Wording,
    /// After this many bad commands the session is closed. Default: 20, more than any client tries out
    /// when it looks for extensions, fewer than a scanner or a misdirected payload needs.
    pub max_bad_commands: u32,
    /// After this many refused logins the session is closed. Default: 3, enough for a person's typing
    /// errors; a guesser has to connect again, where the listener's limits see it.
    pub max_refused_logins: u32,
}

impl Policy {
    /// A policy with defaults that suits a plaintext connection without TLS until `tls` is set.
    pub fn new(greeting: impl Into<Arc<str>>, implementation: impl Into<Arc<str>>) -> Self {
        Self {
            tls: Tls::Unavailable,
            plaintext_login: false,
            forwarding: false,
            mechanisms: Mechanisms::NONE,
            greeting: greeting.into(),
            apop: None,
            implementation: implementation.into(),
            login_delay_secs: None,
            expire_days: None,
            wording: Wording::default(),
            max_bad_commands: 20,
            max_refused_logins: 3,
        }
    }

    /// Whether AUTH takes this mechanism on this connection, as it is now.
    pub fn offers(&self, mechanism: Mechanism) -> bool {
        let fit = if mechanism.reveals_secret() {
            self.allows_passwords()
        } else {
            !mechanism.needs_tls() || self.tls == Tls::Active
        };
        fit && self.mechanisms.contains(mechanism)
    }

    /// Whether a password may be sent over this connection.
    pub fn allows_passwords(&self) -> bool {
        self.plaintext_login || self.tls == Tls::Active
    }
}

/// Why the core ends a session. The driver flushes what was written and closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// QUIT before login: nothing to commit (RFC 1939 §4).
    Quit,
    /// [`Policy::max_bad_commands`] was reached.
    TooManyBadCommands,
    /// [`Policy::max_refused_logins`] was reached.
    TooManyRefusedLogins,
    /// The peer speaks HTTP or TLS.
    ForeignProtocol,
}
