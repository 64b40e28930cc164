//! What the listener allows.

use std::sync::Arc;

/// The bounds of a session, and the name it answers by.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name in the greeting and in the answer to LHLO. Control characters are left out of it.
    pub hostname: Arc<str>,
    /// The text behind the name in the greeting. Control characters are left out of it. Default:
    /// `LMTP ready`.
    pub greeting: Arc<str>,
    /// The largest message taken, in octets of its canonical form; announced as SIZE (RFC 1870 §3).
    /// Default: 50 MiB, what the large providers take.
    pub max_message_octets: u64,
    /// The most recipients of one transaction. Default: 1,000, ten times what RFC 5321 §4.5.3.1.8 demands;
    /// each costs a lookup, and the client sends the rest in another transaction.
    pub max_recipients: usize,
    /// After this many bad commands the session is closed. Default: 20.
    pub max_bad_commands: u32,
}

impl Config {
    /// Defaults for a node of that name.
    pub fn new(hostname: impl Into<Arc<str>>) -> Self {
        Self {
            hostname: hostname.into(),
            greeting: "LMTP ready".into(),
            max_message_octets: 50 * 1024 * 1024,
            max_recipients: 1_000,
            max_bad_commands: 20,
        }
    }
}
