//! Serves messages: frames in, verified chunks out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use maildrop::{
    Digest, Extent, TenantId,
    port::{BlobError, BodyStream, Read},
};

use super::fetch::{Cutter, Fetch};
use crate::{
    BlobKey, ObjectStore,
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

/// Opens the message at `extent`; its first chunk has been verified when this returns.
pub(super) async fn open(
    store: Arc<dyn ObjectStore>,
    key: BlobKey,
    tenant: TenantId,
    tenant_key: Arc<TenantKey>,
    extent: Extent,
    read: Read,
) -> Result<BodyStream, BlobError> {
    let Some(end) = extent.offset.checked_add(extent.length) else {
        return Err(BlobError::Corrupt(format!("{key}: an extent that cannot be")));
    };
    let first_window = match read {
        Read::Whole { .. } => None,
        Read::Head { octets } => Some(head_window(octets)),
    };
    let expected = match read {
        Read::Whole { octets, digest } => {
            Some(Expected { octets, digest, seen: 0, hasher: blake3::Hasher::new() })
        }
        Read::Head { .. } => None,
    };
    let mut octets = Cutter::new(Fetch::new(store, key, extent.offset..end, first_window));
    let opener = match octets.cut(PREFIX_OCTETS).await? {
        Some(prefix) => begin(tenant, &tenant_key, &prefix),
        None => Err(Malformed("entry is cut short")),
    };
    let opener = opener.map_err(|e| corrupt(octets.key(), extent.offset, e))?;
    let mut reader = Reader { octets, opener, at: extent.offset, expected, ended: false };
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
    opener: EntryOpener,
    at: u64,
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

    async fn frame(&mut self) -> Result<Opened, BlobError> {
        const CUT_SHORT: Malformed = Malformed("entry is cut short");
        let header = self.octets.cut(FRAME_HEADER_OCTETS).await?;
        let header = header.as_deref().and_then(|h| h.first_chunk::<FRAME_HEADER_OCTETS>()).copied();
        let header = self.check(header.ok_or(CUT_SHORT))?;
        let sealed_octets = self.check(FrameHeader::parse(&header))?.sealed_octets as usize;
        let sealed = self.octets.cut(sealed_octets).await?;
        let sealed = self.check(sealed.ok_or(CUT_SHORT))?;
        let opened = self.opener.open(header, &sealed);
        self.check(opened)
    }

    fn check<T>(&self, result: Result<T, Malformed>) -> Result<T, BlobError> {
        result.map_err(|e| corrupt(self.octets.key(), self.at, e))
    }
}

fn corrupt(key: &BlobKey, at: u64, what: Malformed) -> BlobError {
    BlobError::Corrupt(format!("{key}, entry at octet {at}: {what}"))
}
