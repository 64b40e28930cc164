//! Serves messages: frames in, verified chunks out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use maildrop::{
    Digest, Extent, TenantId,
    port::{BlobError, BodyStream, Read},
};

use super::fetch::{self, Cutter, Fetch};
use crate::{
    BlobKey, BlockCache, ObjectStore,
    format::{
        BODY_CHUNK_OCTETS, FRAME_HEADER_OCTETS, FrameHeader, Malformed, PREFIX_OCTETS, Summary, TAG_OCTETS,
    },
    keys::TenantKey,
    open::{EntryOpener, Opened},
};

/// What the first request for a beginning asks for beside whole chunks: prefix, and an envelope of some
/// dozens of recipients.
const HEAD_ROOM_OCTETS: u64 = 4 * 1024;
/// Most octets of the first request for a beginning.
const HEAD_OCTETS_MAX: u64 = 1024 * 1024;

/// Octets of the entry from its beginning that are wanted first: all of a short one.
pub(super) fn first_octets(extent: Extent, read: Read) -> u64 {
    match read {
        Read::Whole { .. } => fetch::first_window(extent.length),
        Read::Head { octets } => head_window(octets).min(extent.length),
    }
}

/// An entry, and where it is.
pub(super) struct Entry {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) cache: Option<BlockCache>,
    pub(super) name: BlobKey,
    pub(super) tenant: TenantId,
    pub(super) tenant_key: Arc<TenantKey>,
    pub(super) extent: Extent,
}

/// Opens a message; its first chunk has been verified when this returns. `held` are octets of the entry that were
/// fetched before, from its beginning.
pub(super) async fn open(entry: Entry, read: Read, held: Bytes) -> Result<BodyStream, BlobError> {
    let Entry { store, cache, name: key, tenant, tenant_key, extent } = entry;
    let Some(end) = extent.offset.checked_add(extent.length) else {
        return Err(BlobError::Corrupt(format!("{key}: an extent that cannot be")));
    };
    let range = extent.offset..end;
    let fetch = if held.is_empty() {
        Fetch::new(store, key, range, Some(first_octets(extent, read)))
    } else {
        Fetch::after(store, key, range, held)
    };
    let expected = match read {
        Read::Whole { octets, digest } => {
            Some(Expected { octets, digest, seen: 0, hasher: blake3::Hasher::new() })
        }
        Read::Head { .. } => None,
    };
    let mut reader = Reader {
        octets: Cutter::new(fetch),
        tenant,
        tenant_key,
        opener: None,
        cache,
        extent,
        begun: false,
        again: false,
        expected,
        ended: false,
    };
    // An empty message has no chunk: its end has been verified instead.
    let Some(first) = reader.next().await? else { return Ok(Box::pin(stream::empty())) };
    Ok(Box::pin(stream::try_unfold((Some(first), reader), |(first, mut reader)| async move {
        let next = match first {
            Some(first) => Some(first),
            None => reader.next().await?,
        };
        Ok(next.map(|octets| (octets, (None, reader))))
    })))
}

/// Octets that surely hold the chunks with the first `octets` of the message: one request that may carry
/// more than needed costs less than a second one.
fn head_window(octets: u64) -> u64 {
    let chunk = (BODY_CHUNK_OCTETS + FRAME_HEADER_OCTETS + TAG_OCTETS) as u64;
    let chunks = octets.div_ceil(BODY_CHUNK_OCTETS as u64).max(1);
    chunks.saturating_mul(chunk).saturating_add(HEAD_ROOM_OCTETS).min(HEAD_OCTETS_MAX)
}

fn begin(tenant: TenantId, key: &TenantKey, prefix: &[u8]) -> Result<EntryOpener, Malformed> {
    let prefix = prefix.first_chunk::<PREFIX_OCTETS>().ok_or(Malformed("entry is cut short"))?;
    EntryOpener::new(tenant, key, prefix)
}

struct Reader {
    octets: Cutter,
    tenant: TenantId,
    tenant_key: Arc<TenantKey>,
    /// None before the entry's prefix was read.
    opener: Option<EntryOpener>,
    /// What may hold it, and would have to forget it.
    cache: Option<BlockCache>,
    extent: Extent,
    /// Whether a frame was opened.
    begun: bool,
    /// Whether some of it was read a second time.
    again: bool,
    /// For a whole message: what the row says of it.
    expected: Option<Expected>,
    ended: bool,
}

/// What the row says, and what has been seen of it.
struct Expected {
    octets: u64,
    digest: Digest,
    seen: u64,
    hasher: blake3::Hasher,
}

impl Expected {
    /// Counts a chunk; says whether it must be the last.
    fn saw(&mut self, chunk: &[u8]) -> Result<bool, Malformed> {
        self.hasher.update(chunk);
        self.seen += chunk.len() as u64;
        if self.seen > self.octets {
            return Err(Malformed("message is longer than its row says"));
        }
        Ok(self.seen == self.octets)
    }

    fn check(&self, summary: &Summary) -> Result<(), Malformed> {
        let found = *self.hasher.finalize().as_bytes();
        if self.seen != self.octets || found != self.digest.0 || summary.measured.digest != self.digest {
            return Err(Malformed("message is not the one its row tells of"));
        }
        Ok(())
    }
}

impl Reader {
    /// The next chunk, or `None` after the last. A chunk that completes the message by the row's count is
    /// given out only after the end of the entry was seen and everything agreed.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.ended {
            return Ok(None);
        }
        let mut last = None;
        loop {
            match self.frame().await? {
                Opened::Envelope(_) => {}
                Opened::Body(chunk) => match &mut self.expected {
                    None => return Ok(Some(chunk)),
                    Some(expected) => {
                        let is_last = expected.saw(&chunk);
                        if !self.check(is_last)? {
                            return Ok(Some(chunk));
                        }
                        last = Some(chunk);
                    }
                },
                Opened::Summary(summary) => {
                    let fits = match &self.expected {
                        Some(expected) => expected.check(&summary),
                        None => Ok(()),
                    };
                    self.check(fits)?;
                    if self.octets.remaining() != 0 {
                        self.check(Err(Malformed("entry is shorter than its extent")))?;
                    }
                    self.ended = true;
                    return Ok(last);
                }
            }
        }
    }

    /// The next frame. One that does not open is read once more, from the store itself: it may have been damaged on
    /// its way, or lain damaged in a cache. What is served was authenticated in any case.
    async fn frame(&mut self) -> Result<Opened, BlobError> {
        let at = if self.begun { self.octets.position() } else { self.extent.offset };
        let mut opened = self.try_frame().await;
        if let Err(BlobError::Corrupt(error)) = &opened
            && !self.again
        {
            tracing::warn!(%error, "reading it again");
            if let Some(cache) = &self.cache {
                let range = self.extent.offset..self.extent.offset.saturating_add(self.extent.length);
                cache.forget(self.extent.pack, &range);
            }
            self.again = true;
            if !self.begun {
                self.opener = None;
            }
            self.octets.again(at);
            opened = self.try_frame().await;
        }
        self.begun |= opened.is_ok();
        opened
    }

    async fn try_frame(&mut self) -> Result<Opened, BlobError> {
        const CUT_SHORT: Malformed = Malformed("entry is cut short");
        if self.opener.is_none() {
            let prefix = self.octets.cut(PREFIX_OCTETS).await?;
            let prefix = self.check(prefix.ok_or(CUT_SHORT))?;
            self.opener = Some(self.check(begin(self.tenant, &self.tenant_key, &prefix))?);
        }
        let header = self.octets.cut(FRAME_HEADER_OCTETS).await?;
        let header = header.as_deref().and_then(|h| h.first_chunk::<FRAME_HEADER_OCTETS>()).copied();
        let header = self.check(header.ok_or(CUT_SHORT))?;
        let sealed_octets = self.check(FrameHeader::parse(&header))?.sealed_octets as usize;
        let sealed = self.octets.cut(sealed_octets).await?;
        let sealed = self.check(sealed.ok_or(CUT_SHORT))?;
        let opened = match &mut self.opener {
            Some(opener) => opener.open(header, &sealed),
            None => Err(CUT_SHORT),
        };
        self.check(opened)
    }

    fn check<T>(&self, result: Result<T, Malformed>) -> Result<T, BlobError> {
        result.map_err(|e| corrupt(self.octets.key(), self.extent.offset, e))
    }
}

fn corrupt(key: &BlobKey, at: u64, what: Malformed) -> BlobError {
    BlobError::Corrupt(format!("{key}, entry at octet {at}: {what}"))
}
