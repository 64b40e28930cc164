//! Reads packs front to back without trusting anything but the tenant's key (P8).
//!
//! The scanner follows the frames from entry to entry. Where they break off it searches for the next octets
//! that look like an entry, and believes them once their envelope opens: so one damaged entry costs that
//! entry alone, and a destroyed header or footer costs nothing.

mod scanner;

pub use scanner::EntryScanner;

use std::sync::Arc;

use maildrop::{EntryEnvelope, Measured, PackId, TenantId};

use crate::keys::TenantKey;

/// One thing found in a pack, in the order of the octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanItem {
    /// A whole entry: every frame opened, the message hashes to its digest.
    Entry(ScannedEntry),
    /// Octets that are not what a writer left there.
    Damage(Damage),
}

/// An entry as the pack itself tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScannedEntry {
    /// First octet within the pack.
    pub offset: u64,
    /// Octets of the entry.
    pub length: u64,
    /// Its sealed envelope.
    pub envelope: EntryEnvelope,
    /// Octets, header octets and digest of the message.
    pub measured: Measured,
}

/// Octets that could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The first of them. Where an entry broke off, this is where the entry begins.
    pub offset: u64,
    /// How many. None where something is missing or disagrees rather than being unreadable.
    pub length: u64,
    /// What was the matter.
    pub what: &'static str,
}

/// Scans a whole pack held in memory. See [`EntryScanner`].
pub fn scan(tenant: TenantId, key: Arc<TenantKey>, pack: PackId, octets: &[u8]) -> Vec<ScanItem> {
    let mut scanner = EntryScanner::new(tenant, key, pack);
    let mut items = scanner.push(octets);
    items.extend(scanner.finish());
    items
}
