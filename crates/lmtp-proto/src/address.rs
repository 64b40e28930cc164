//! Mail addresses.

use std::fmt;

use crate::path;

/// A mailbox of RFC 5321 §4.1.2, with the quoting of its local part undone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    local: String,
    domain: Option<String>,
    original: String,
}

impl Address {
    /// Reads an address without angle brackets, as it stands in a configuration or a test.
    pub fn parse(text: &str) -> Option<Self> {
        path::address(text)
    }

    pub(crate) fn new(local: String, domain: Option<String>, original: String) -> Self {
        Self { local, domain, original }
    }

    /// What is before the `@`, without quotes: `a b` of `"a b"@example.org`.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// What is behind the `@`, as written: a domain or an address literal in brackets. `None` for
    /// `postmaster` alone, which every host has (RFC 5321 §4.5.1).
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The address as the client wrote it, without angle brackets and source route: fit for `Delivered-To`
    /// and `Return-Path`, since it holds no control characters.
    pub fn as_str(&self) -> &str {
        &self.original
    }

    /// Whether it can be used without SMTPUTF8 (RFC 6531 §3.3).
    pub(crate) fn is_ascii(&self) -> bool {
        self.original.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.original)
    }
}
