//! What a pack says of its entries, read as sparingly as may be: the footer, and of each entry its two ends.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use maildrop::{
    Extent, PackId, TenantId,
    port::{BlobError, FoundEntry, PackContents},
};

use super::{Inner, fetch::Fetch};
use crate::{
    BlobKey, ObjectStore,
    format::{
        FRAME_HEADER_OCTETS, FooterEntry, FrameHeader, FrameKind, Malformed, PACK_HEADER_OCTETS,
        PREFIX_OCTETS, Prefix, SUMMARY_OCTETS, Summary, TAG_OCTETS, TRAILER_OCTETS, Trailer, decode_envelope,
        parse_footer,
    },
    keys::TenantKey,
    open::{EntryOpener, Opened},
};

/// A pack up to this size is read at once: a request costs more than its octets.
const WHOLE_OCTETS: u64 = 256 * 1024;
/// Read of the end of a pack at first: the footer of some 2,700 entries.
const END_OCTETS: u64 = 64 * 1024;
/// Read of the beginning of an entry: prefix, and an envelope of some dozens of recipients.
const HEAD_OCTETS: u64 = 4 * 1024;
/// The end of an entry: its summary, which zstd does not make shorter.
const TAIL_OCTETS: u64 = (FRAME_HEADER_OCTETS + SUMMARY_OCTETS + TAG_OCTETS) as u64;
/// Ranges with no more than this between them are read at once.
const GAP_OCTETS: u64 = 64 * 1024;
/// And no more than this at once.
const RUN_OCTETS: u64 = 8 * 1024 * 1024;
/// Most body frames that are tried: an entry of 4 GiB.
const CHUNKS_MAX: u64 = 65_536;

/// Octets of a pack that were read, in order.
struct Pieces(Vec<(u64, Bytes)>);

impl Pieces {
    fn get(&self, range: &Range<u64>) -> Option<&[u8]> {
        let at = self.0.partition_point(|(start, _)| *start <= range.start).checked_sub(1)?;
        let (start, octets) = &self.0[at];
        octets.get((range.start - start) as usize..(range.end - start) as usize)
    }
}

impl Inner {
    /// Fails with [`BlobError::Corrupt`] where anything is not as it should be.
    pub(super) async fn look(
        &self,
        tenant: TenantId,
        key: &TenantKey,
        pack: PackId,
        octets: u64,
    ) -> Result<PackContents, BlobError> {
        let (store, name) = self.place(tenant, pack).await?;
        let place = (store, name.clone());
        let bad = |what: Malformed| BlobError::Corrupt(format!("{name}: {}", what.0));
        let mut read_octets = 0;
        let end = octets - octets.min(if octets <= WHOLE_OCTETS { octets } else { END_OCTETS });
        let last = piece(&place, end..octets, &mut read_octets).await?;
        let trailer =
            last.last_chunk::<TRAILER_OCTETS>().ok_or(Malformed("pack is cut short")).map_err(bad)?;
        let trailer = Trailer::parse(trailer).map_err(bad)?;
        let footer =
            trailer.footer_offset..trailer.footer_offset.saturating_add(trailer.footer_octets.into());
        if footer.end.saturating_add(TRAILER_OCTETS as u64) != octets {
            return Err(bad(Malformed("trailer points beside the footer")));
        }
        let footer_octets = if footer.start >= end {
            last.slice((footer.start - end) as usize..(footer.end - end) as usize)
        } else {
            piece(&place, footer.clone(), &mut read_octets).await?
        };
        let entries = parse_footer(&footer_octets, &trailer).map_err(bad)?;
        let mut at = PACK_HEADER_OCTETS as u64;
        for entry in &entries {
            // Without a gap: what is between entries would be missed.
            if entry.offset != at || entry.length < PREFIX_OCTETS as u64 + TAIL_OCTETS {
                return Err(bad(Malformed("footer has gaps")));
            }
            at = at.saturating_add(entry.length);
        }
        if at != footer.start {
            return Err(bad(Malformed("footer has gaps")));
        }
        let pieces = if end == 0 {
            Pieces(vec![(0, last)])
        } else {
            let mut pieces = Vec::new();
            for run in runs(&entries) {
                pieces.push((run.start, piece(&place, run, &mut read_octets).await?));
            }
            Pieces(pieces)
        };
        let mut found = Vec::with_capacity(entries.len());
        for entry in &entries {
            let longer;
            let head = head_of(entry);
            let mut octets = pieces.get(&head).ok_or(Malformed("pack is cut short")).map_err(bad)?;
            if let Some(envelope) = envelope_octets(octets)
                && envelope > head.end - head.start
            {
                longer = piece(&place, entry.offset..entry.offset + envelope, &mut read_octets).await?;
                octets = &longer;
            }
            let tail = pieces.get(&tail_of(entry)).ok_or(Malformed("pack is cut short")).map_err(bad)?;
            let extent = Extent { pack, offset: entry.offset, length: entry.length };
            found.push(ends(tenant, key, extent, octets, tail).map_err(bad)?);
            tokio::task::yield_now().await;
        }
        Ok(PackContents { entries: found, damage: Vec::new(), read_octets })
    }
}

async fn piece(
    (store, name): &(Arc<dyn ObjectStore>, BlobKey),
    range: Range<u64>,
    read: &mut u64,
) -> Result<Bytes, BlobError> {
    *read += range.end - range.start;
    Fetch::new(Arc::clone(store), name.clone(), range, None).all().await
}

fn head_of(entry: &FooterEntry) -> Range<u64> {
    entry.offset..entry.offset + entry.length.min(HEAD_OCTETS)
}

fn tail_of(entry: &FooterEntry) -> Range<u64> {
    let end = entry.offset + entry.length;
    end - TAIL_OCTETS..end
}

/// What is read at once of the ends of entries, which follow each other.
fn runs(entries: &[FooterEntry]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for wanted in entries.iter().flat_map(|entry| [head_of(entry), tail_of(entry)]) {
        match runs.last_mut() {
            Some(run)
                if wanted.start <= run.end.saturating_add(GAP_OCTETS)
                    && wanted.end - run.start <= RUN_OCTETS =>
            {
                run.end = run.end.max(wanted.end);
            }
            _ => runs.push(wanted),
        }
    }
    runs
}

/// Octets of an entry up to the end of its envelope.
fn envelope_octets(entry: &[u8]) -> Option<u64> {
    let raw = entry.get(PREFIX_OCTETS..)?.first_chunk::<FRAME_HEADER_OCTETS>()?;
    let header = FrameHeader::parse(raw).ok()?;
    Some((PREFIX_OCTETS + FRAME_HEADER_OCTETS) as u64 + u64::from(header.sealed_octets))
}

/// What an entry says at its beginning and at its end.
fn ends(
    tenant: TenantId,
    key: &TenantKey,
    extent: Extent,
    head: &[u8],
    tail: &[u8],
) -> Result<FoundEntry, Malformed> {
    const CUT_SHORT: Malformed = Malformed("entry is cut short");
    let (prefix, rest) = head.split_first_chunk::<PREFIX_OCTETS>().ok_or(CUT_SHORT)?;
    let (raw, rest) = rest.split_first_chunk::<FRAME_HEADER_OCTETS>().ok_or(CUT_SHORT)?;
    let envelope = FrameHeader::parse(raw)?;
    let sealed = rest.get(..envelope.sealed_octets as usize).ok_or(CUT_SHORT)?;
    let Opened::Envelope(plain) = EntryOpener::new(tenant, key, prefix)?.open(*raw, sealed)? else {
        return Err(Malformed("frame is out of place"));
    };
    let (raw, sealed) = tail.split_first_chunk::<FRAME_HEADER_OCTETS>().ok_or(CUT_SHORT)?;
    let header = FrameHeader::parse(raw)?;
    if header.kind != FrameKind::Summary || header.sealed_octets as usize != sealed.len() {
        return Err(Malformed("entry does not end with its summary"));
    }
    // Its place among the frames is part of what is authenticated, and how many there are stands in it alone: from the
    // fewest that can be so long, each is tried.
    let cipher = key.entry(tenant, Prefix::parse(prefix)?).ok_or(Malformed("entry key cannot be derived"))?;
    let around = PREFIX_OCTETS as u64 + FRAME_HEADER_OCTETS as u64 + u64::from(envelope.sealed_octets);
    let body = extent.length.checked_sub(around + TAIL_OCTETS).ok_or(CUT_SHORT)?;
    let frame = (FRAME_HEADER_OCTETS + TAG_OCTETS) as u64;
    let fewest = body.div_ceil(crate::format::BODY_CHUNK_OCTETS as u64 + frame);
    let most = (body / frame).min(fewest + CHUNKS_MAX);
    let mut octets = [0; SUMMARY_OCTETS];
    for chunks in fewest..=most {
        if cipher.open(*raw, chunks + 1, sealed, &mut octets) {
            let summary = Summary::parse(&octets)?;
            if summary.chunks != chunks {
                return Err(Malformed("summary does not match its entry"));
            }
            return Ok(FoundEntry { extent, envelope: decode_envelope(&plain)?, measured: summary.measured });
        }
    }
    Err(Malformed("frame does not open with the tenant's key"))
}
