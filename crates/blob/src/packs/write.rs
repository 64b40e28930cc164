//! Takes messages in: chunk by chunk sealed, small ones put at the end, large ones streamed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::{
    EntryEnvelope, Extent, Measured, PackId, StoredEntry, TenantId,
    port::{BlobError, EntryWriter, Sealed, SealedEntry, SealedOctets},
};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::{
    Inner,
    builder::PackBuilder,
    room::{self, OfShare, Room},
};
use crate::{
    BlobKey, ObjectStore, Upload,
    format::{BODY_CHUNK_OCTETS, FooterEntry, PACK_HEADER_OCTETS, PackHeader, write_footer},
    keys::TenantKey,
    own::OwnStore,
    seal::EntrySealer,
};

/// One message being stored.
pub(super) struct Writer {
    packs: Arc<Inner>,
    tenant: TenantId,
    sealer: EntrySealer,
    room: Room,
    /// Set once the message may outgrow `solo_octets`.
    large: Option<Large>,
    /// Where the tenant has a store of its own: that, and what the message takes up of its share and of everybody's.
    own: Option<Arc<OwnStore>>,
    shares: [OfShare; 2],
}

impl Writer {
    pub(super) fn new(
        packs: Arc<Inner>,
        own: Option<Arc<OwnStore>>,
        tenant: TenantId,
        key: &TenantKey,
        envelope: &EntryEnvelope,
    ) -> Result<Self, BlobError> {
        let sealer = EntrySealer::new(tenant, key, packs.config.compression_level, envelope)?;
        let (room, shares) = (Room::default(), Default::default());
        Ok(Self { packs, tenant, sealer, room, large: None, own, shares })
    }

    /// Moves sealed octets on where enough have gathered.
    async fn advance(&mut self) -> Result<(), BlobError> {
        if let Some(large) = &mut self.large {
            large.send_full_parts(&self.packs, self.sealer.sealed()).await?;
        }
        Ok(())
    }

    async fn turn_large(&mut self) -> Result<(), BlobError> {
        let large = Large::begin(&self.packs, self.tenant).await?;
        let mut room = std::mem::take(&mut self.room);
        let sealed = self.sealer.sealed();
        if let Some(spooled) = room.take_spooled(sealed).await? {
            *sealed = spooled;
        }
        // The pack's header goes in front, once, of what has been sealed so far.
        let header = PackHeader { tenant: self.tenant, pack: large.pack }.to_octets();
        sealed.reserve(2 * BODY_CHUNK_OCTETS);
        sealed.splice(..0, header);
        self.large = Some(large);
        self.shares = Default::default();
        Ok(())
    }
}

#[async_trait]
impl EntryWriter for Writer {
    async fn room(&mut self, octets: usize) -> Result<(), BlobError> {
        if let Some(large) = &mut self.large {
            // A store of a tenant's own is waited for in here, where nobody waits for whom holds nothing.
            if self.own.is_some() {
                large.make_ready(self.sealer.held() + octets, self.packs.config.part_octets).await?;
            }
            return Ok(());
        }
        let (held, more) = (self.sealer.held() + self.room.spooled(), octets + ROOM_AROUND_OCTETS);
        if held + octets > self.packs.config.solo_octets {
            return self.turn_large().await;
        }
        let more = more + self.sealer.unsealed();
        if let (Some(own), Some(stores)) = (&self.own, &self.packs.own) {
            let [of_store, of_all] = &mut self.shares;
            of_store.grow(&own.share, held + more).await?;
            of_all.grow(stores.share(), held + more).await?;
        }
        self.room.grow(&self.packs.rooms, self.sealer.sealed(), more).await
    }

    fn is_elsewhere(&self) -> bool {
        self.own.is_some()
    }

    async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        // Compressing and sealing run right here: a chunk takes 100 to 300 microseconds, which is less than
        // a hop to the blocking pool and back costs a loaded runtime, and between chunks the task may yield.
        for piece in chunk.chunks(BODY_CHUNK_OCTETS) {
            self.room(piece.len()).await?;
            self.sealer.write(piece)?;
            self.advance().await?;
            if chunk.len() > BODY_CHUNK_OCTETS {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn seal(mut self: Box<Self>, measured: Measured) -> Result<Sealed, BlobError> {
        self.sealer.finish(measured)?;
        self.advance().await?;
        let sealed = std::mem::take(self.sealer.sealed());
        match self.large.take() {
            Some(large) => large.finish(&self.packs, sealed).await.map(Sealed::Stored),
            None => {
                let mut entry = self.room.seal(&self.packs.rooms, sealed).await?;
                entry.room.extend(self.shares.into_iter().flat_map(OfShare::permits));
                Ok(Sealed::Entry(entry))
            }
        }
    }

    async fn finish(self: Box<Self>, measured: Measured) -> Result<StoredEntry, BlobError> {
        let (packs, tenant) = (Arc::clone(&self.packs), self.tenant);
        match self.seal(measured).await? {
            Sealed::Stored(stored) => Ok(stored),
            Sealed::Entry(entry) => {
                let stored = packs.store_pack(tenant, vec![entry]).await?.pop();
                stored.ok_or_else(|| BlobError::Unavailable("a pack of nothing".into()))
            }
        }
    }
}

impl Inner {
    /// Brings those that were spooled back into memory, all of them or, where their files cannot be read, each with why
    /// it is lost.
    pub(super) async fn recall(
        &self,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<Result<SealedEntry, BlobError>>, BlobError> {
        let spooled = |entry: &SealedEntry| match entry.octets {
            SealedOctets::File { octets, .. } => octets,
            SealedOctets::Memory(_) => 0,
        };
        let spooled: u64 = entries.iter().map(spooled).sum();
        if spooled == 0 {
            return Ok(entries.into_iter().map(Ok).collect());
        }
        // For all of them at once: packs that each have some of theirs would wait for each other.
        let mut memory = Some(self.rooms.for_pack(spooled).await?);
        let mut recalled = Vec::with_capacity(entries.len());
        for SealedEntry { octets, mut room } in entries {
            let octets = match octets {
                SealedOctets::File { file, octets } => room::read(file, octets).await,
                SealedOctets::Memory(octets) => Ok(octets),
            };
            recalled.push(octets.map(|octets| {
                room.extend(memory.take());
                SealedEntry { octets: SealedOctets::Memory(octets), room }
            }));
        }
        Ok(recalled)
    }

    /// Makes sealed entries durable, in one pack.
    pub(super) async fn store_pack(
        &self,
        tenant: TenantId,
        entries: Vec<SealedEntry>,
    ) -> Result<Vec<StoredEntry>, BlobError> {
        let entries = self.recall(entries).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        let octets: u64 = entries.iter().map(|entry| entry.octets.len()).sum();
        let (pack, count) = (PackId::generate_in(self.current(tenant).await?), entries.len());
        let (store, name) = self.place(tenant, pack).await?;
        let mut builder =
            PackBuilder::new(tenant, pack, count, usize::try_from(octets).unwrap_or(usize::MAX));
        let mut extents = Vec::with_capacity(count);
        // The room is held on to until the pack is stored: that takes up as much.
        let mut room = Vec::with_capacity(count);
        for entry in entries {
            let SealedOctets::Memory(octets) = entry.octets else {
                return Err(BlobError::Unavailable("an entry is not in memory".into()));
            };
            extents.push(builder.push(&octets));
            room.push(entry.room);
        }
        let octets = builder.finish();
        let (pack_octets, pack_entries) = (octets.len() as u64, count as u32);
        store.put(&name, octets.clone()).await?;
        // Most mail is read soon after it came in.
        if let Some(cache) = &self.cache {
            cache.keep(pack, &octets);
        }
        let stored = |extent| StoredEntry { extent, pack_octets, pack_entries };
        Ok(extents.into_iter().map(stored).collect())
    }
}

/// What an entry has beside the message and its chunks' own headers: prefix, summary, tags.
const ROOM_AROUND_OCTETS: usize = 1024;

/// Longest wait for a turn to send a large message.
const LARGE_WAIT: Duration = Duration::from_secs(30);

/// A message that is a pack of its own, going out part by part while more of it comes in.
struct Large {
    pack: PackId,
    store: Arc<dyn ObjectStore>,
    key: BlobKey,
    /// None before there is a whole part: what fits into one goes out by one request.
    upload: Option<Sending>,
    /// Octets handed to the upload.
    sent: u64,
    _permit: OwnedSemaphorePermit,
}

/// The upload, and whether a part of it is under way. A task of its own carries the part, so that the next
/// one fills meanwhile; if the writer is dropped, the task drops the upload when the part is through, and
/// with it the object is forgotten.
enum Sending {
    Idle(Box<dyn Upload>),
    Part(JoinHandle<Result<Box<dyn Upload>, BlobError>>),
    Failed,
}

impl Sending {
    /// Waits for the part under way.
    async fn idle(&mut self) -> Result<Box<dyn Upload>, BlobError> {
        match std::mem::replace(self, Self::Failed) {
            Self::Idle(upload) => Ok(upload),
            Self::Part(task) => task.await.map_err(|e| BlobError::Unavailable(e.to_string()))?,
            Self::Failed => Err(BlobError::Unavailable("a part of this upload failed before".into())),
        }
    }

    async fn send(&mut self, part: Bytes) -> Result<(), BlobError> {
        let mut upload = self.idle().await?;
        *self = Self::Part(tokio::spawn(async move {
            upload.part(part).await?;
            Ok(upload)
        }));
        Ok(())
    }
}

impl Large {
    async fn begin(packs: &Inner, tenant: TenantId) -> Result<Self, BlobError> {
        // One delivery may hold several permits, one for each tenant it goes to: waiting for the next without
        // an end could be waiting for oneself.
        let number = packs.current(tenant).await?;
        let own = packs.own(tenant, number).await?;
        let uploads = own.as_ref().map_or(&packs.large_uploads, |own| &own.large_uploads);
        let permit = Arc::clone(uploads).acquire_owned();
        let permit = tokio::time::timeout(LARGE_WAIT, permit)
            .await
            .map_err(|_| BlobError::Unavailable("too many large messages are coming in".into()))?
            .map_err(|e| BlobError::Unavailable(e.to_string()))?;
        let pack = PackId::generate_in(number);
        let (store, key) = packs.place(tenant, pack).await?;
        Ok(Self { pack, store, key, upload: None, sent: 0, _permit: permit })
    }

    /// Waits until what comes next, after `held` octets, can be sent without waiting for the store.
    async fn make_ready(&mut self, held: usize, part_octets: usize) -> Result<(), BlobError> {
        if held < part_octets {
            return Ok(());
        }
        match &mut self.upload {
            Some(upload) => *upload = Sending::Idle(upload.idle().await?),
            None => self.upload = Some(Sending::Idle(self.store.upload(&self.key).await?)),
        }
        Ok(())
    }

    async fn send(&mut self, part: Vec<u8>) -> Result<(), BlobError> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => self.upload.insert(Sending::Idle(self.store.upload(&self.key).await?)),
        };
        upload.send(part.into()).await
    }

    /// Sends whole parts. All have the same size, which some servers insist on.
    async fn send_full_parts(&mut self, packs: &Inner, sealed: &mut Vec<u8>) -> Result<(), BlobError> {
        let part_octets = packs.config.part_octets;
        while sealed.len() >= part_octets {
            let mut rest = Vec::with_capacity(part_octets + 2 * BODY_CHUNK_OCTETS);
            rest.extend_from_slice(&sealed[part_octets..]);
            let mut part = std::mem::replace(sealed, rest);
            part.truncate(part_octets);
            self.sent += part_octets as u64;
            self.send(part).await?;
        }
        Ok(())
    }

    async fn finish(mut self, packs: &Inner, mut sealed: Vec<u8>) -> Result<StoredEntry, BlobError> {
        let footer_at = self.sent + sealed.len() as u64;
        let offset = PACK_HEADER_OCTETS as u64;
        let length = footer_at - offset;
        write_footer(&mut sealed, footer_at, &[FooterEntry { offset, length }]);
        let pack_octets = self.sent + sealed.len() as u64;
        if self.upload.is_none() && sealed.len() <= packs.config.part_octets {
            self.store.put(&self.key, sealed.into()).await?;
        } else {
            self.send_full_parts(packs, &mut sealed).await?;
            if !sealed.is_empty() {
                self.send(sealed).await?;
            }
            if let Some(mut upload) = self.upload.take() {
                upload.idle().await?.complete().await?;
            }
        }
        tracing::debug!(key = %self.key, octets = pack_octets, "large message stored");
        let extent = Extent { pack: self.pack, offset, length };
        Ok(StoredEntry { extent, pack_octets, pack_entries: 1 })
    }
}
