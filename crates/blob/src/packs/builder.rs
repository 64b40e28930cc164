//! Puts sealed entries together into a pack.

use bytes::Bytes;
use maildrop::{Extent, PackId, TenantId};

use crate::format::{
    FOOTER_ENTRY_OCTETS, FOOTER_HEAD_OCTETS, FooterEntry, PACK_HEADER_OCTETS, PackHeader, TRAILER_OCTETS,
    write_footer,
};

/// A pack in memory. Entries are copied in as they are: they do not know their pack.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    pack: PackId,
    octets: Vec<u8>,
    entries: Vec<FooterEntry>,
}

impl PackBuilder {
    /// Begins a pack that will hold `entries` of `octets` in all.
    pub(crate) fn new(tenant: TenantId, pack: PackId, entries: usize, octets: usize) -> Self {
        let around = PACK_HEADER_OCTETS + FOOTER_HEAD_OCTETS + entries * FOOTER_ENTRY_OCTETS + TRAILER_OCTETS;
        let mut all = Vec::with_capacity(around + octets);
        all.extend_from_slice(&PackHeader { tenant, pack }.to_octets());
        Self { pack, octets: all, entries: Vec::with_capacity(entries) }
    }

    /// Adds an entry and says where it lies.
    pub(crate) fn push(&mut self, entry: &[u8]) -> Extent {
        let (offset, length) = (self.octets.len() as u64, entry.len() as u64);
        self.octets.extend_from_slice(entry);
        self.entries.push(FooterEntry { offset, length });
        Extent { pack: self.pack, offset, length }
    }

    /// The whole pack.
    pub(crate) fn finish(mut self) -> Bytes {
        let footer_at = self.octets.len() as u64;
        write_footer(&mut self.octets, footer_at, &self.entries);
        self.octets.into()
    }
}
