//! Packs as the garbage collection sees them: entries copied into a new one, packs deleted and listed.

use std::{collections::HashSet, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::{
    Extent, PackId, SealedKey, StoreNumber, TenantId,
    port::{BlobError, LiveEntry, MovedEntry, PackPage, PackStore, Rewritten, RewrittenPack},
};
use uuid::Uuid;

use super::{Inner, Packs, builder::PackBuilder, fetch::Fetch};
use crate::{
    format::{FRAME_HEADER_OCTETS, FrameHeader, Malformed, PREFIX_OCTETS},
    keys::TenantKey,
    open::{EntryOpener, Opened},
};

/// Entries with no more than this between them are read by one request.
const GAP_OCTETS: u64 = 64 * 1024;
/// And no more than this in all.
const RUN_OCTETS: u64 = 8 * 1024 * 1024;
/// What a beacon says to who looks.
const BEACON: &[u8] = b"The index knows this object's name, unless it was set back.\n";
/// Most objects deleted by one request (S3).
const DELETE_BATCH: usize = 1000;

#[async_trait]
impl PackStore for Packs {
    async fn rewrite(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        mut entries: Vec<LiveEntry>,
    ) -> Result<Rewritten, BlobError> {
        let key = self.inner.keyring.open(tenant, key).await?;
        let mut rewritten = Rewritten::default();
        entries.sort_unstable_by_key(|entry| (entry.extent.pack, entry.extent.offset));
        let mut read: Vec<(LiveEntry, Bytes)> = Vec::with_capacity(entries.len());
        let mut kept: HashSet<PackId> = HashSet::new();
        for run in runs(&entries) {
            rewritten.requests += 1;
            let fetched = self.inner.fetch(tenant, run).await;
            let octets = match fetched {
                Ok(octets) => octets,
                Err(error @ (BlobError::Corrupt(_) | BlobError::NotFound(_))) => {
                    kept.insert(run[0].extent.pack);
                    rewritten.damaged.extend(run.iter().map(|entry| (entry.extent, error.to_string())));
                    continue;
                }
                Err(error) => return Err(error),
            };
            rewritten.read_octets += octets.len() as u64;
            for entry in run {
                // A copy, so that the gaps are not held on to.
                let mut sealed = Bytes::copy_from_slice(&octets[within(run, entry.extent)]);
                let mut found = verify(tenant, &key, entry, &sealed);
                if found.is_err() {
                    // On its way, perhaps: what is stored is judged by a second reading.
                    rewritten.requests += 1;
                    match self.inner.fetch(tenant, std::slice::from_ref(entry)).await {
                        Ok(again) => {
                            sealed = again;
                            found = verify(tenant, &key, entry, &sealed);
                        }
                        Err(BlobError::Corrupt(_) | BlobError::NotFound(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                match found {
                    Ok(()) => read.push((*entry, sealed)),
                    Err(Malformed(what)) => {
                        kept.insert(entry.extent.pack);
                        rewritten.damaged.push((entry.extent, what.to_owned()));
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        read.retain(|(entry, _)| !kept.contains(&entry.extent.pack));
        if read.is_empty() {
            return Ok(rewritten);
        }
        read.sort_by_key(|(entry, _)| (entry.mailbox, entry.uid, entry.extent.pack, entry.extent.offset));
        let pack = PackId::generate_in(self.inner.current(tenant).await?);
        let (store, name) = self.inner.place(tenant, pack).await?;
        let octets = read.iter().map(|(_, sealed)| sealed.len()).sum();
        let mut builder = PackBuilder::new(tenant, pack, read.len(), octets);
        for (entry, sealed) in &read {
            rewritten.moved.push(MovedEntry { from: entry.extent, to: builder.push(sealed).offset });
        }
        let count = read.len() as u32;
        drop(read);
        let octets = builder.finish();
        rewritten.requests += 1;
        rewritten.pack = Some(RewrittenPack { pack, octets: octets.len() as u64, entries: count });
        store.put(&name, octets).await?;
        Ok(rewritten)
    }

    async fn delete_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), BlobError> {
        let mut packs = packs.to_vec();
        packs.sort_unstable_by_key(PackId::store);
        for of_store in packs.chunk_by(|a, b| a.store() == b.store()) {
            let (mut store, mut keys) = (Arc::clone(&self.inner.store), Vec::with_capacity(of_store.len()));
            for pack in of_store {
                let (of_pack, name) = self.inner.place(tenant, *pack).await?;
                store = of_pack;
                keys.push(name);
            }
            for batch in keys.chunks(DELETE_BATCH) {
                store.delete(batch).await?;
            }
        }
        Ok(())
    }

    async fn list_packs(&self, tenant: TenantId, after: Option<PackId>) -> Result<PackPage, BlobError> {
        let first = after.map_or(StoreNumber::HOUSE, |pack| pack.store());
        let mut stores = vec![StoreNumber::HOUSE];
        if let Some(own) = &self.inner.own {
            stores.extend(own.numbers(tenant).await?);
        }
        stores.retain(|number| *number >= first);
        let mut left = stores.iter().copied().peekable();
        while let Some(number) = left.next() {
            let after = after.filter(|pack| pack.store() == number);
            let page = self.inner.list_store(tenant, number, after).await?;
            if !page.packs.is_empty() {
                return Ok(PackPage { more: page.more || left.peek().is_some(), packs: page.packs });
            }
        }
        Ok(PackPage { more: false, packs: Vec::new() })
    }

    async fn beacons(&self, shard: u8) -> Result<Vec<Uuid>, BlobError> {
        let layout = &self.inner.layout;
        // There are hardly ever more than two.
        let page = self.inner.store.list(&layout.beacons(shard), None).await?;
        Ok(page.objects.iter().filter_map(|listed| layout.parse_beacon(shard, &listed.key)).collect())
    }

    async fn set_beacon(&self, shard: u8, beacon: Uuid, old: &[Uuid]) -> Result<(), BlobError> {
        let layout = &self.inner.layout;
        self.inner.store.put(&layout.beacon(shard, beacon), Bytes::from_static(BEACON)).await?;
        let old: Vec<_> =
            old.iter().filter(|other| **other != beacon).map(|old| layout.beacon(shard, *old)).collect();
        if old.is_empty() { Ok(()) } else { self.inner.store.delete(&old).await }
    }
}

impl Inner {
    /// A page of the packs in one of the tenant's stores.
    async fn list_store(
        &self,
        tenant: TenantId,
        number: StoreNumber,
        after: Option<PackId>,
    ) -> Result<PackPage, BlobError> {
        let own = self.own(tenant, number).await?;
        let (store, layout) =
            own.as_ref().map_or((&self.store, &self.layout), |own| (&own.store, &own.layout));
        let after = after.map(|pack| layout.pack(tenant, pack));
        let page = store.list(&layout.tenant(tenant), after.as_ref()).await?;
        // What others put there is not ours to judge, nor are packs that lie in another store by their names.
        let packs = page.objects.iter().filter_map(|listed| {
            let (whose, pack) = layout.parse(&listed.key)?;
            (whose == tenant && pack.store() == number).then_some((pack, listed.octets))
        });
        let packs: Vec<_> = packs.collect();
        // A page of nothing but others' objects cannot be gone on from.
        Ok(PackPage { more: page.more && !packs.is_empty(), packs })
    }

    /// The octets from the first of these entries to the end of the last.
    async fn fetch(&self, tenant: TenantId, run: &[LiveEntry]) -> Result<Bytes, BlobError> {
        let (store, name) = self.place(tenant, run[0].extent.pack).await?;
        let Some(range) = reach(run) else {
            return Err(BlobError::Corrupt(format!("{name}: an extent that cannot be")));
        };
        let octets = range.end - range.start;
        let all = Fetch::new(store, name.clone(), range, None).all().await?;
        if all.len() as u64 != octets {
            return Err(BlobError::Corrupt(format!("{name} is cut short")));
        }
        Ok(all)
    }
}

/// Entries, in the order of packs and offsets, by what is read at once.
fn runs(entries: &[LiveEntry]) -> Vec<&[LiveEntry]> {
    let mut begin = 0;
    let mut runs = Vec::new();
    for at in 1..=entries.len() {
        let goes_on = entries.get(at).is_some_and(|next| {
            let (first, last) = (entries[begin].extent, entries[at - 1].extent);
            let end = last.offset.saturating_add(last.length);
            next.extent.pack == first.pack
                && next.extent.offset.saturating_sub(end) <= GAP_OCTETS
                && next.extent.offset.saturating_add(next.extent.length) - first.offset <= RUN_OCTETS
        });
        if !goes_on {
            runs.push(&entries[begin..at]);
            begin = at;
        }
    }
    runs
}

/// What a run reaches over in its pack.
fn reach(run: &[LiveEntry]) -> Option<Range<u64>> {
    let mut end = 0;
    for LiveEntry { extent, .. } in run {
        end = end.max(extent.offset.checked_add(extent.length)?);
    }
    Some(run.first()?.extent.offset..end)
}

/// Where in a run's octets an entry is.
fn within(run: &[LiveEntry], extent: Extent) -> Range<usize> {
    let begin = (extent.offset - run[0].extent.offset) as usize;
    begin..begin + extent.length as usize
}

/// Whether the entry is whole, the tenant's, and the message that its row tells of.
fn verify(tenant: TenantId, key: &TenantKey, entry: &LiveEntry, sealed: &[u8]) -> Result<(), Malformed> {
    let (prefix, mut rest) =
        sealed.split_first_chunk::<PREFIX_OCTETS>().ok_or(Malformed("entry is cut short"))?;
    let mut opener = EntryOpener::new(tenant, key, prefix)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        let (raw, after) =
            rest.split_first_chunk::<FRAME_HEADER_OCTETS>().ok_or(Malformed("entry is cut short"))?;
        let octets = FrameHeader::parse(raw)?.sealed_octets as usize;
        let (frame, after) = after.split_at_checked(octets).ok_or(Malformed("entry is cut short"))?;
        rest = after;
        match opener.open(*raw, frame)? {
            Opened::Envelope(_) => {}
            Opened::Body(chunk) => {
                hasher.update(&chunk);
            }
            Opened::Summary(summary) => {
                let found = *hasher.finalize().as_bytes();
                if found != entry.digest.0 || summary.measured.digest != entry.digest {
                    return Err(Malformed("message is not the one its row tells of"));
                }
                return if rest.is_empty() {
                    Ok(())
                } else {
                    Err(Malformed("entry is shorter than its extent"))
                };
            }
        }
    }
}
