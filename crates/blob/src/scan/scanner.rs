//! The scanner's states.
//!
//! ```text
//! Header ──► Between ──(entry magic)──► Entry ──(summary)──► Between
//!               └──(footer magic)──► Footer ──► End
//!
//! anything that does not fit ──► Searching ──(either magic)──► Between, as a guess until it opens
//! ```

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use maildrop::{EntryEnvelope, PackId, TenantId};

use super::{Damage, ScanItem, ScannedEntry};
use crate::{
    format::{
        ENTRY_MAGIC, FOOTER_ENTRIES_MAX, FOOTER_ENTRY_OCTETS, FOOTER_HEAD_OCTETS, FOOTER_MAGIC,
        FRAME_HEADER_OCTETS, FooterEntry, FrameHeader, Malformed, PACK_HEADER_OCTETS, PREFIX_OCTETS,
        PackHeader, Summary, TRAILER_OCTETS, Trailer, decode_envelope, parse_footer,
    },
    keys::TenantKey,
    open::{EntryOpener, Opened},
};

/// Takes a pack's octets in pieces of any size and gives back what is in them.
///
/// Memory is bounded by the largest frame (4 MiB for an envelope, 64 KiB in all but hostile packs) beside
/// the piece pushed.
#[derive(Debug)]
pub struct EntryScanner {
    tenant: TenantId,
    key: Arc<TenantKey>,
    pack: PackId,
    /// Octets not dealt with yet; the first of them stands at `at` in the pack.
    buffer: BytesMut,
    at: u64,
    state: State,
    found: Vec<FooterEntry>,
    damaged: bool,
    items: Vec<ScanItem>,
}

#[derive(Debug)]
enum State {
    Header,
    Between(Option<Lost>),
    Entry(Box<Entry>),
    Footer(Option<Lost>),
    Searching(Lost),
    End,
}

/// Since where nothing fitted, and why.
#[derive(Debug, Clone, Copy)]
struct Lost {
    since: u64,
    what: &'static str,
}

#[derive(Debug)]
struct Entry {
    start: u64,
    opener: EntryOpener,
    envelope: Option<EntryEnvelope>,
    hasher: blake3::Hasher,
    /// Set while the entry is only a guess: until its envelope opens.
    lost: Option<Lost>,
}

/// What a step came to.
enum Step {
    Went,
    NeedsMore,
}

impl EntryScanner {
    /// A scanner for the pack of this name.
    pub fn new(tenant: TenantId, key: Arc<TenantKey>, pack: PackId) -> Self {
        Self {
            tenant,
            key,
            pack,
            buffer: BytesMut::new(),
            at: 0,
            state: State::Header,
            found: Vec::new(),
            damaged: false,
            items: Vec::new(),
        }
    }

    /// Takes the next octets.
    pub fn push(&mut self, octets: &[u8]) -> Vec<ScanItem> {
        self.buffer.extend_from_slice(octets);
        self.run(false);
        std::mem::take(&mut self.items)
    }

    /// The pack has ended.
    pub fn finish(mut self) -> Vec<ScanItem> {
        self.run(true);
        self.items
    }

    fn run(&mut self, ended: bool) {
        loop {
            let state = std::mem::replace(&mut self.state, State::End);
            let step = match state {
                State::Header => self.header(ended),
                State::Between(lost) => self.between(lost, ended),
                State::Entry(entry) => self.entry(entry, ended),
                State::Footer(lost) => self.footer(lost, ended),
                State::Searching(lost) => self.search(lost, ended),
                State::End => self.end(),
            };
            if let Step::NeedsMore = step {
                return;
            }
        }
    }

    fn header(&mut self, ended: bool) -> Step {
        let Some(octets) = self.buffer.first_chunk::<PACK_HEADER_OCTETS>() else {
            return self.wait_or_lose(State::Header, ended, 0, None);
        };
        let header = match PackHeader::parse(octets) {
            Ok(header) if header.tenant != self.tenant => Err(Malformed("pack says it is another tenant's")),
            Ok(header) if header.pack != self.pack => Err(Malformed("pack says it is another pack")),
            other => other,
        };
        match header {
            Ok(_) => {
                self.advance(PACK_HEADER_OCTETS);
                self.go(State::Between(None))
            }
            // No step ahead: an entry may begin right here, where octets are missing.
            Err(Malformed(what)) => self.go(State::Searching(Lost { since: 0, what })),
        }
    }

    /// At an octet where an entry or the footer should begin.
    fn between(&mut self, lost: Option<Lost>, ended: bool) -> Step {
        let start = self.at;
        let Some(magic) = self.buffer.first_chunk::<4>() else {
            if ended && self.buffer.is_empty() && lost.is_none() {
                self.damage(start, 0, "pack has no footer");
                return Step::NeedsMore;
            }
            return self.wait_or_lose(State::Between(lost), ended, start, lost);
        };
        if magic == FOOTER_MAGIC {
            return self.go(State::Footer(lost));
        }
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_OCTETS>() else {
            return self.wait_or_lose(State::Between(lost), ended, start, lost);
        };
        match EntryOpener::new(self.tenant, &self.key, prefix) {
            Ok(opener) => {
                // The prefix stays in the buffer until the envelope has opened: this may be a wrong guess.
                let hasher = blake3::Hasher::new();
                self.go(State::Entry(Box::new(Entry { start, opener, envelope: None, hasher, lost })))
            }
            Err(Malformed(what)) => self.lose(start, what, lost),
        }
    }

    /// Inside an entry: opens its next frame.
    fn entry(&mut self, mut entry: Box<Entry>, ended: bool) -> Step {
        let skip = if entry.envelope.is_none() { PREFIX_OCTETS } else { 0 };
        let (start, lost) = (entry.start, entry.lost);
        let parsed = self.buffer.get(skip..).and_then(<[u8]>::first_chunk::<FRAME_HEADER_OCTETS>).copied();
        let Some(raw_header) = parsed else {
            return self.wait_or_lose(State::Entry(entry), ended, start, lost);
        };
        let frame = match FrameHeader::parse(&raw_header) {
            Ok(header) => {
                skip + FRAME_HEADER_OCTETS..skip + FRAME_HEADER_OCTETS + header.sealed_octets as usize
            }
            Err(Malformed(what)) => return self.lose(start, what, lost),
        };
        let Some(sealed) = self.buffer.get(frame.clone()) else {
            return self.wait_or_lose(State::Entry(entry), ended, start, lost);
        };
        let opened = entry.opener.open(raw_header, sealed).and_then(|opened| match opened {
            Opened::Envelope(octets) => {
                entry.envelope = Some(decode_envelope(&octets)?);
                Ok(None)
            }
            Opened::Body(octets) => {
                entry.hasher.update(&octets);
                Ok(None)
            }
            Opened::Summary(summary) => Ok(Some(summary)),
        });
        let summary = match opened {
            Ok(summary) => summary,
            Err(Malformed(what)) => return self.lose(start, what, lost),
        };
        if let Some(lost) = entry.lost.take() {
            self.damage(lost.since, start - lost.since, lost.what);
        }
        self.advance(frame.end);
        match summary {
            None => self.go(State::Entry(entry)),
            Some(summary) => self.ended_entry(*entry, summary),
        }
    }

    fn ended_entry(&mut self, entry: Entry, summary: Summary) -> Step {
        let (offset, length) = (entry.start, self.at - entry.start);
        self.found.push(FooterEntry { offset, length });
        let measured = summary.measured;
        match entry.envelope {
            Some(envelope) if *entry.hasher.finalize().as_bytes() == measured.digest.0 => {
                self.items.push(ScanItem::Entry(ScannedEntry { offset, length, envelope, measured }));
            }
            Some(_) | None => self.damage(offset, length, "message does not match its digest"),
        }
        self.go(State::Between(None))
    }

    fn footer(&mut self, lost: Option<Lost>, ended: bool) -> Step {
        let start = self.at;
        let Some(head) = self.buffer.first_chunk::<FOOTER_HEAD_OCTETS>() else {
            return self.wait_or_lose(State::Footer(lost), ended, start, lost);
        };
        let [.., a, b, c, d] = *head;
        let count = u32::from_le_bytes([a, b, c, d]);
        if count > FOOTER_ENTRIES_MAX {
            return self.lose(start, "footer has an impossible size", lost);
        }
        let octets = FOOTER_HEAD_OCTETS + FOOTER_ENTRY_OCTETS * count as usize;
        let Some(trailer) = self.buffer.get(octets..).and_then(<[u8]>::first_chunk::<TRAILER_OCTETS>) else {
            return self.wait_or_lose(State::Footer(lost), ended, start, lost);
        };
        let entries = Trailer::parse(trailer).and_then(|trailer| {
            match parse_footer(&self.buffer[..octets], &trailer) {
                Ok(_) if trailer.footer_offset != start => Err(Malformed("trailer points beside the footer")),
                other => other,
            }
        });
        match entries {
            Err(Malformed(what)) => self.lose(start, what, lost),
            Ok(entries) => {
                if let Some(lost) = lost {
                    self.damage(lost.since, start - lost.since, lost.what);
                }
                // After other damage it is no news that an entry is missing.
                if !self.damaged && entries != self.found {
                    self.damage(start, 0, "footer and entries disagree");
                }
                self.advance(octets + TRAILER_OCTETS);
                self.go(State::End)
            }
        }
    }

    /// Looks for the next octets that may begin an entry or a footer.
    fn search(&mut self, lost: Lost, ended: bool) -> Step {
        let found = self.buffer.windows(4).position(|w| w == ENTRY_MAGIC || w == FOOTER_MAGIC);
        if let Some(found) = found {
            self.advance(found);
            return self.go(State::Between(Some(lost)));
        }
        if ended {
            self.advance(self.buffer.len());
            self.damage(lost.since, self.at - lost.since, lost.what);
            return Step::NeedsMore;
        }
        // The last three octets may be the beginning of a magic.
        self.advance(self.buffer.len().saturating_sub(3));
        self.state = State::Searching(lost);
        Step::NeedsMore
    }

    fn end(&mut self) -> Step {
        if self.buffer.is_empty() {
            return Step::NeedsMore;
        }
        self.lose(self.at, "octets follow the trailer", None)
    }

    /// What should be here is not complete: waits for more octets, or gives up if there are none.
    fn wait_or_lose(&mut self, state: State, ended: bool, since: u64, lost: Option<Lost>) -> Step {
        if ended {
            return self.lose(since, "pack is cut short", lost);
        }
        self.state = state;
        Step::NeedsMore
    }

    /// What should be here is something else: goes on searching behind its first octet.
    fn lose(&mut self, since: u64, what: &'static str, lost: Option<Lost>) -> Step {
        self.advance(1.min(self.buffer.len()));
        self.go(State::Searching(lost.unwrap_or(Lost { since, what })))
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::Went
    }

    fn advance(&mut self, octets: usize) {
        self.buffer.advance(octets);
        self.at += octets as u64;
    }

    fn damage(&mut self, offset: u64, length: u64, what: &'static str) {
        self.damaged = true;
        self.items.push(ScanItem::Damage(Damage { offset, length, what }));
    }
}
