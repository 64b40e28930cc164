//! Takes messages in: chunk by chunk sealed, small ones put at the end, large ones streamed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::{
    EntryEnvelope, Extent, Measured, PackId, StoredEntry, TenantId,
    port::{BlobError, EntryWriter},
};
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use super::{Inner, builder::PackBuilder};
use crate::{
    BlobKey, Upload,
    format::{BODY_CHUNK_OCTETS, FooterEntry, PACK_HEADER_OCTETS, PackHeader, write_footer},
    keys::TenantKey,
    seal::EntrySealer,
};

/// One message being stored.
pub(super) struct Writer {
    packs: Arc<Inner>,
    tenant: TenantId,
    sealer: EntrySealer,
    /// Set once the message has outgrown `solo_octets`.
    large: Option<Large>,
}

impl Writer {
    pub(super) fn new(
        packs: Arc<Inner>,
        tenant: TenantId,
        key: &TenantKey,
        envelope: &EntryEnvelope,
    ) -> Result<Self, BlobError> {
        let sealer = EntrySealer::new(tenant, key, packs.config.compression_level, envelope)?;
        Ok(Self { packs, tenant, sealer, large: None })
    }

    /// Moves sealed octets on where enough have gathered.
    async fn advance(&mut self) -> Result<(), BlobError> {
        if self.large.is_none() && self.sealer.sealed().len() > self.packs.config.solo_octets {
            let large = Large::begin(&self.packs, self.tenant).await?;
            // The pack's header goes in front, once, of what has been sealed so far.
            let header = PackHeader { tenant: self.tenant, pack: large.pack }.to_octets();
            let sealed = self.sealer.sealed();
            let room = self.packs.config.part_octets + 2 * BODY_CHUNK_OCTETS;
            sealed.reserve_exact(room.saturating_sub(sealed.len()));
            sealed.splice(..0, header);
            self.large = Some(large);
        }
        if let Some(large) = &mut self.large {
            large.send_full_parts(self.sealer.sealed(), self.packs.config.part_octets).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl EntryWriter for Writer {
    async fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        // Compressing and sealing run right here: a chunk takes 100 to 300 microseconds, which is less than
        // a hop to the blocking pool and back costs a loaded runtime, and between chunks the task may yield.
        for piece in chunk.chunks(BODY_CHUNK_OCTETS) {
            self.sealer.write(piece)?;
            self.advance().await?;
            if chunk.len() > BODY_CHUNK_OCTETS {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>, measured: Measured) -> Result<StoredEntry, BlobError> {
        self.sealer.finish(measured)?;
        self.advance().await?;
        let sealed = std::mem::take(self.sealer.sealed());
        match self.large.take() {
            Some(large) => large.finish(sealed, self.packs.config.part_octets).await,
            None => self.packs.store_entry(self.tenant, &sealed).await,
        }
    }
}

impl Inner {
    /// Makes a sealed entry durable. Every small message comes through here with nothing but its octets, so
    /// this is where entries that arrive together can be put into one pack.
    async fn store_entry(&self, tenant: TenantId, entry: &[u8]) -> Result<StoredEntry, BlobError> {
        let pack = PackId::generate();
        let mut builder = PackBuilder::new(tenant, pack, 1, entry.len());
        let extent = builder.push(entry);
        let octets = builder.finish();
        let pack_octets = octets.len() as u64;
        self.store.put(&self.layout.pack(tenant, pack), octets).await?;
        Ok(StoredEntry { extent, pack_octets, pack_entries: 1 })
    }
}

/// Longest wait for a turn to send a large message.
const LARGE_WAIT: Duration = Duration::from_secs(30);

/// A message that is a pack of its own, going out part by part while more of it comes in.
struct Large {
    pack: PackId,
    key: BlobKey,
    upload: Sending,
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
        let permit = Arc::clone(&packs.large_uploads).acquire_owned();
        let permit = tokio::time::timeout(LARGE_WAIT, permit)
            .await
            .map_err(|_| BlobError::Unavailable("too many large messages are coming in".into()))?
            .map_err(|e| BlobError::Unavailable(e.to_string()))?;
        let pack = PackId::generate();
        let key = packs.layout.pack(tenant, pack);
        let upload = packs.store.upload(&key).await?;
        Ok(Self { pack, key, upload: Sending::Idle(upload), sent: 0, _permit: permit })
    }

    /// Sends whole parts. All have the same size, which some servers insist on.
    async fn send_full_parts(&mut self, sealed: &mut Vec<u8>, part_octets: usize) -> Result<(), BlobError> {
        while sealed.len() >= part_octets {
            let mut rest = Vec::with_capacity(part_octets + 2 * BODY_CHUNK_OCTETS);
            rest.extend_from_slice(&sealed[part_octets..]);
            let mut part = std::mem::replace(sealed, rest);
            part.truncate(part_octets);
            self.sent += part_octets as u64;
            self.upload.send(part.into()).await?;
        }
        Ok(())
    }

    async fn finish(mut self, mut sealed: Vec<u8>, part_octets: usize) -> Result<StoredEntry, BlobError> {
        let footer_at = self.sent + sealed.len() as u64;
        let offset = PACK_HEADER_OCTETS as u64;
        let length = footer_at - offset;
        write_footer(&mut sealed, footer_at, &[FooterEntry { offset, length }]);
        let pack_octets = self.sent + sealed.len() as u64;
        self.send_full_parts(&mut sealed, part_octets).await?;
        if !sealed.is_empty() {
            self.upload.send(sealed.into()).await?;
        }
        self.upload.idle().await?.complete().await?;
        tracing::debug!(key = %self.key, octets = pack_octets, "large message stored");
        let extent = Extent { pack: self.pack, offset, length };
        Ok(StoredEntry { extent, pack_octets, pack_entries: 1 })
    }
}
