//! One session's reading: what is read in order is fetched before it is asked for, neighbours by one request.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::{
    Extent, FairGate, FairPermit, PackId, SealedKey, TenantId,
    port::{BlobError, BodyStream, MessageReader, Read},
};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};
use tracing::Instrument as _;

use super::{
    Inner,
    fetch::Fetch,
    read::{self, Entry},
};

/// Octets fetched ahead at first; twice as many each time the session has taken half of them.
const WINDOW_FIRST_OCTETS: u64 = 128 * 1024;
/// Octets between two entries that are fetched along rather than asked for around: a request costs more.
const GAP_OCTETS: u64 = 32 * 1024;
/// Octets of one request.
const RUN_OCTETS: u64 = 1024 * 1024;
/// A session's room is counted in so many octets.
const UNIT_OCTETS: u64 = 1024;

/// Reads a session's messages.
pub(super) struct Ahead {
    packs: Arc<Inner>,
    tenant: TenantId,
    turns: FairGate,
    /// What was fetched and what is being fetched, in the order in which it will be read.
    parts: VecDeque<Part>,
    /// Octets that may be there before they are asked for.
    window: u64,
    /// The last message that is in `parts`.
    last: Option<Extent>,
}

/// A range of a pack.
struct Part {
    pack: PackId,
    range: Range<u64>,
    octets: Octets,
    /// Of the node's room; the message that is being read needs none.
    _room: [Option<OwnedSemaphorePermit>; 2],
}

enum Octets {
    Coming(Coming),
    Here(Bytes),
    Failed,
}

/// A fetch that ends when nobody wants it any longer.
struct Coming(JoinHandle<Result<Bytes, BlobError>>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Part {
    fn covers(&self, extent: Extent, wanted: u64) -> bool {
        self.pack == extent.pack
            && self.range.start <= extent.offset
            && extent.offset.saturating_add(wanted) <= self.range.end
    }

    /// The octets from `at` on.
    async fn from(&mut self, at: u64) -> Result<Bytes, BlobError> {
        if let Octets::Coming(coming) = &mut self.octets {
            let come = (&mut coming.0).await.map_err(|e| BlobError::Unavailable(e.to_string())).flatten();
            self.octets = match come {
                Ok(octets) => Octets::Here(octets),
                Err(error) => {
                    self.octets = Octets::Failed;
                    return Err(error);
                }
            };
        }
        match &self.octets {
            Octets::Here(octets) => {
                let skip = usize::try_from(at - self.range.start).unwrap_or(usize::MAX);
                Ok(octets.slice(skip.min(octets.len())..))
            }
            Octets::Coming(_) | Octets::Failed => {
                Err(BlobError::Unavailable("it could not be fetched ahead".into()))
            }
        }
    }
}

impl Ahead {
    pub(super) fn new(packs: Arc<Inner>, tenant: TenantId, turns: FairGate) -> Self {
        Self { packs, tenant, turns, parts: VecDeque::new(), window: 0, last: None }
    }

    /// Forgets what lies before the message in order, or everything where it is neither among what was fetched nor
    /// in the cache.
    fn forget_before(&mut self, extent: Extent, wanted: u64, cached: bool) {
        match self.parts.iter().position(|part| part.covers(extent, wanted)) {
            Some(at) => drop(self.parts.drain(..at)),
            None if cached => {}
            None => {
                self.parts.clear();
                self.last = None;
                self.window = 0;
            }
        }
    }

    /// Begins to fetch the message together with its neighbours, where nothing was fetched ahead.
    fn begin(&mut self, extent: Extent, read: Read, next: &[Extent]) {
        let config = &self.packs.config;
        let alone = next.is_empty() || config.ahead_octets == 0 || extent.length > RUN_OCTETS / 2;
        // With a cache a message by itself is read by way of it, too.
        if !self.parts.is_empty() || (alone && self.packs.cache.is_none()) {
            return;
        }
        let neighbours = next.iter().copied().filter(|_| !alone);
        let all: Vec<Extent> = std::iter::once(extent).chain(neighbours).collect();
        let octets = read::first_octets(extent, read) + WINDOW_FIRST_OCTETS.min(config.ahead_octets);
        if let Some(run) = runs(&all, read, octets, 1).0.into_iter().next() {
            let octets = Octets::Coming(self.fetch(&run));
            self.parts.push_back(Part { pack: run.pack, range: run.range, octets, _room: [None, None] });
            self.last = Some(run.last);
        }
    }

    /// Begins to fetch what comes next, once half of what was is taken.
    fn plan(&mut self, read: Read, next: &[Extent]) {
        let held: u64 = self.parts.iter().skip(1).map(|part| part.range.end - part.range.start).sum();
        let config = &self.packs.config;
        // No more can be there than is known to come.
        let known: u64 = next
            .iter()
            .filter(|e| !self.is_cached(**e, read))
            .map(|extent| read::first_octets(*extent, read))
            .sum();
        if next.is_empty() || held > self.window.min(known) / 2 || config.ahead_octets == 0 {
            return;
        }
        self.window = (self.window * 2).max(WINDOW_FIRST_OCTETS).min(config.ahead_octets);
        let known = self.last.and_then(|last| next.iter().position(|extent| *extent == last));
        let next = &next[known.map_or(0, |at| at + 1)..];
        let next: Vec<Extent> =
            next.iter().copied().filter(|extent| !self.is_cached(*extent, read)).collect();
        let requests = config.ahead_requests.saturating_sub(self.parts.len());
        let (runs, last) = runs(&next, read, self.window.saturating_sub(held), requests);
        for run in &runs {
            let octets = run.range.end - run.range.start;
            let units = u32::try_from(octets.div_ceil(UNIT_OCTETS)).unwrap_or(u32::MAX);
            // What is not free is not waited for: reading ahead is a favour.
            let number = run.pack.store();
            let own = self.packs.own.as_ref().filter(|_| !number.is_house());
            // Of a store of the tenant's own, which may stand still for long, only up to a share.
            let of_own = match own {
                None => None,
                Some(own) => {
                    let Some(own) = own.opened(self.tenant, number) else { return };
                    let Ok(room) = Arc::clone(&own.ahead).try_acquire_many_owned(units) else { return };
                    Some(room)
                }
            };
            let Ok(room) = Arc::clone(&self.packs.ahead).try_acquire_many_owned(units) else { return };
            let octets = Octets::Coming(self.fetch(run));
            self.parts.push_back(Part {
                pack: run.pack,
                range: run.range.clone(),
                octets,
                _room: [Some(room), of_own],
            });
            self.last = Some(run.last);
        }
        self.last = last.or(self.last);
    }

    fn is_cached(&self, extent: Extent, read: Read) -> bool {
        let range = extent.offset..extent.offset.saturating_add(read::first_octets(extent, read));
        self.packs.cache.as_ref().is_some_and(|cache| cache.has(extent.pack, &range))
    }

    /// The first octets of the message, from memory.
    fn cached(&self, extent: Extent, wanted: u64) -> Option<Bytes> {
        let range = extent.offset..extent.offset.saturating_add(wanted);
        self.packs.cache.as_ref()?.held(extent.pack, &range)
    }

    /// The first octets of the message, from what was fetched ahead.
    async fn fetched(&mut self, extent: Extent, wanted: u64) -> Option<Bytes> {
        let part = self.parts.front_mut().filter(|part| part.covers(extent, wanted))?;
        // Where that failed, it is read once more, by itself.
        part.from(extent.offset).await.inspect_err(|error| tracing::debug!(%error, "not fetched ahead")).ok()
    }

    fn fetch(&self, run: &Run) -> Coming {
        let length = run.range.end - run.range.start;
        let (packs, cache) = (Arc::clone(&self.packs), self.packs.cache.clone());
        let (turns, tenant, pack, range) = (self.turns.clone(), self.tenant, run.pack, run.range.clone());
        let work = async move {
            let _turn = turn(&turns, tenant, pack).await?;
            let (store, name) = packs.place(tenant, pack).await?;
            match cache {
                Some(cache) => cache.read(&*store, &name, pack, &range).await,
                None => Fetch::new(store, name, range, Some(length)).all().await,
            }
        };
        Coming(tokio::spawn(work.in_current_span()))
    }
}

#[async_trait]
impl MessageReader for Ahead {
    async fn read(
        &mut self,
        key: &SealedKey,
        extent: Extent,
        read: Read,
        next: &[Extent],
    ) -> Result<BodyStream, BlobError> {
        let key = self.packs.keyring.open(self.tenant, key).await?;
        let wanted = read::first_octets(extent, read);
        let mut held = self.cached(extent, wanted);
        self.forget_before(extent, wanted, held.is_some());
        if held.is_some() {
            self.plan(read, next);
        } else {
            self.begin(extent, read, next);
            self.plan(read, next);
            held = self.fetched(extent, wanted).await;
        }
        let _turn = turn(&self.turns, self.tenant, extent.pack).await?;
        let (store, name) = self.packs.place(self.tenant, extent.pack).await?;
        let entry = Entry {
            store,
            cache: self.packs.cache.clone(),
            name,
            tenant: self.tenant,
            tenant_key: key,
            extent,
        };
        read::open(entry, read, held.unwrap_or_default()).await
    }
}

/// The tenant's turn; none where the pack lies in a store of its own, whose places are that tenant's alone: what waits
/// for it must not stand in the way of what does not.
async fn turn(turns: &FairGate, tenant: TenantId, pack: PackId) -> Result<Option<FairPermit>, BlobError> {
    if !pack.store().is_house() {
        return Ok(None);
    }
    let turn = turns.turn(tenant).await;
    turn.map(Some).ok_or_else(|| BlobError::Unavailable("too much waits to be read".into()))
}

/// Messages that are fetched by one request.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    pack: PackId,
    range: Range<u64>,
    /// The last of them.
    last: Extent,
}

/// Up to `requests` runs of the messages in `next`, of about `octets` in all, and the last message that they are of.
fn runs(next: &[Extent], read: Read, octets: u64, requests: usize) -> (Vec<Run>, Option<Extent>) {
    let mut runs: Vec<Run> = Vec::new();
    let (mut taken, mut last) = (0, None);
    for extent in next {
        let wanted = read::first_octets(*extent, read);
        if taken + wanted > octets && taken > 0 {
            break;
        }
        let end = extent.offset.saturating_add(wanted);
        let count = runs.len();
        let joined = runs.last_mut().filter(|run| {
            run.pack == extent.pack
                && (run.range.end..=run.range.end + GAP_OCTETS).contains(&extent.offset)
                && end - run.range.start <= RUN_OCTETS
        });
        match joined {
            Some(run) => {
                taken += end - run.range.end;
                (run.range.end, run.last) = (end, *extent);
            }
            None if count >= requests => break,
            None => {
                taken += wanted;
                runs.push(Run { pack: extent.pack, range: extent.offset..end, last: *extent });
            }
        }
        last = Some(*extent);
    }
    (runs, last)
}

#[cfg(test)]
mod tests {
    use maildrop::Digest;

    use super::*;

    const WHOLE: Read = Read::Whole { octets: 1, digest: Digest([0; 32]) };

    fn extent(pack: PackId, offset: u64, length: u64) -> Extent {
        Extent { pack, offset, length }
    }

    fn ranges(runs: &[Run]) -> Vec<(u64, u64)> {
        runs.iter().map(|run| (run.range.start, run.range.end)).collect()
    }

    #[test]
    fn neighbours_are_one_request() {
        let (one, two) = (PackId::generate(), PackId::generate());
        let near = [extent(one, 64, 1000), extent(one, 1064, 500), extent(one, 9000, 500)];
        let (found, last) = runs(&near, WHOLE, 1 << 20, 9);
        assert_eq!((ranges(&found), last), (vec![(64, 9500)], Some(near[2])));
        let far = [extent(one, 64, 1000), extent(one, 99_000, 500), extent(two, 99_500, 500)];
        assert_eq!(
            ranges(&runs(&far, WHOLE, 1 << 20, 9).0),
            [(64, 1064), (99_000, 99_500), (99_500, 100_000)]
        );
        // Not backwards.
        let back = [extent(one, 1064, 500), extent(one, 64, 1000)];
        assert_eq!(ranges(&runs(&back, WHOLE, 1 << 20, 9).0), [(1064, 1564), (64, 1064)]);
    }

    #[test]
    fn requests_octets_and_runs_are_bounded() {
        let packs: Vec<_> = (0..9).map(|_| PackId::generate()).collect();
        let apart: Vec<_> = packs.iter().map(|pack| extent(*pack, 64, 1000)).collect();
        let (found, last) = runs(&apart, WHOLE, 1 << 20, 4);
        assert_eq!((found.len(), last), (4, Some(apart[3])));
        let (found, last) = runs(&apart, WHOLE, 2500, 9);
        assert_eq!((found.len(), last), (2, Some(apart[1])));
        // What is longer than there is room for is fetched by itself, and of a large message the beginning.
        assert_eq!(ranges(&runs(&[extent(packs[0], 64, 5000)], WHOLE, 10, 9).0), [(64, 5064)]);
        let large = extent(packs[0], 64, 80 << 20);
        assert_eq!(ranges(&runs(&[large], WHOLE, 1 << 20, 9).0), [(64, 64 + 128 * 1024)]);
        let row: Vec<_> = (0..100).map(|i| extent(packs[0], 64 + i * 40_000, 40_000)).collect();
        let (found, _) = runs(&row, WHOLE, 4 << 20, 99);
        assert!(found.iter().all(|run| run.range.end - run.range.start <= RUN_OCTETS), "{found:?}");
        assert_eq!(found.len(), 4);
    }
}
