//! Makes entries: octets in, sealed frames out.

use std::ops::RangeInclusive;

use maildrop::{EntryEnvelope, Measured, TenantId, port::BlobError};

use crate::{
    format::{
        BODY_CHUNK_OCTETS, FRAME_HEADER_OCTETS, FrameHeader, FrameKind, Prefix, SALT_OCTETS, Summary,
        TAG_OCTETS, encode_envelope,
    },
    keys::{EntryCipher, TenantKey},
    zip,
};

/// What zstd is asked to compress. Under 64 octets its own header eats what it saves; over a chunk (only an
/// envelope of thousands) it would grow the context that the thread keeps.
const COMPRESS_OCTETS: RangeInclusive<usize> = 64..=BODY_CHUNK_OCTETS;

/// Seals one message. What is sealed gathers in [`sealed`](Self::sealed), from where a streaming upload may
/// take it at any time.
#[derive(Debug)]
pub(crate) struct EntrySealer {
    cipher: EntryCipher,
    level: i32,
    frames: u64,
    octets: u64,
    /// The chunk being filled: less than a whole one.
    chunk: Vec<u8>,
    sealed: Vec<u8>,
}

impl EntrySealer {
    /// Begins an entry of `tenant` with a fresh salt.
    pub(crate) fn new(
        tenant: TenantId,
        key: &TenantKey,
        level: i32,
        envelope: &EntryEnvelope,
    ) -> Result<Self, BlobError> {
        let mut salt = [0; SALT_OCTETS];
        aws_lc_rs::rand::fill(&mut salt)
            .map_err(|_| BlobError::Unavailable("the system gives no random octets".into()))?;
        Self::with_salt(tenant, key, level, envelope, salt)
    }

    /// Begins an entry with a given salt. Only tests may choose one: a salt used twice is a key used twice.
    pub(crate) fn with_salt(
        tenant: TenantId,
        key: &TenantKey,
        level: i32,
        envelope: &EntryEnvelope,
        salt: [u8; SALT_OCTETS],
    ) -> Result<Self, BlobError> {
        let envelope = encode_envelope(envelope)
            .map_err(|e| BlobError::Misconfigured(format!("{e}: lower the limit of recipients")))?;
        let prefix = Prefix { salt };
        let cipher = key.entry(tenant, prefix).ok_or_else(cipher_failed)?;
        let sealed = prefix.to_octets().to_vec();
        let mut sealer = Self { cipher, level, frames: 0, octets: 0, chunk: Vec::new(), sealed };
        sealer.frame(FrameKind::Envelope, &envelope)?;
        Ok(sealer)
    }

    /// Takes the next octets of the message.
    pub(crate) fn write(&mut self, mut octets: &[u8]) -> Result<(), BlobError> {
        self.octets += octets.len() as u64;
        while !octets.is_empty() {
            let room = BODY_CHUNK_OCTETS - self.chunk.len();
            if self.chunk.is_empty() && octets.len() >= BODY_CHUNK_OCTETS {
                // A whole chunk is sealed from where it lies.
                let (whole, rest) = octets.split_at(BODY_CHUNK_OCTETS);
                self.frame(FrameKind::Body, whole)?;
                octets = rest;
                continue;
            }
            let (now, rest) = octets.split_at(room.min(octets.len()));
            self.chunk.extend_from_slice(now);
            octets = rest;
            if self.chunk.len() == BODY_CHUNK_OCTETS {
                self.flush_chunk()?;
            }
        }
        Ok(())
    }

    /// Ends the entry; what is left of it is in [`sealed`](Self::sealed).
    pub(crate) fn finish(&mut self, measured: Measured) -> Result<(), BlobError> {
        self.flush_chunk()?;
        if measured.octets != self.octets {
            return Err(BlobError::Corrupt(format!(
                "message was measured as {} octets but {} were written",
                measured.octets, self.octets
            )));
        }
        let summary = Summary { measured, chunks: self.frames - 1 };
        self.frame(FrameKind::Summary, &summary.to_octets())
    }

    /// What was sealed and not taken yet.
    pub(crate) fn sealed(&mut self) -> &mut Vec<u8> {
        &mut self.sealed
    }

    /// Octets of the chunk that is not full yet.
    pub(crate) fn unsealed(&self) -> usize {
        self.chunk.len()
    }

    /// Octets sealed and not taken yet, and of the chunk that is not full.
    pub(crate) fn held(&self) -> usize {
        self.sealed.len() + self.chunk.len()
    }

    fn flush_chunk(&mut self) -> Result<(), BlobError> {
        let mut chunk = std::mem::take(&mut self.chunk);
        if !chunk.is_empty() {
            self.frame(FrameKind::Body, &chunk)?;
        }
        chunk.clear();
        self.chunk = chunk; // keeps its room for the next chunk
        Ok(())
    }

    fn frame(&mut self, kind: FrameKind, plain: &[u8]) -> Result<(), BlobError> {
        let at = self.sealed.len();
        self.sealed.resize(at + FRAME_HEADER_OCTETS, 0);
        let packed = match kind {
            FrameKind::Body | FrameKind::Envelope if COMPRESS_OCTETS.contains(&plain.len()) => {
                zip::compress(self.level, plain, &mut self.sealed)
            }
            FrameKind::Body | FrameKind::Envelope | FrameKind::Summary => None,
        };
        if packed.is_none() {
            self.sealed.extend_from_slice(plain);
        }
        let header = FrameHeader {
            kind,
            compressed: packed.is_some(),
            plain_octets: plain.len() as u32,
            sealed_octets: (packed.unwrap_or(plain.len()) + TAG_OCTETS) as u32,
        }
        .to_octets();
        let (head, body) = self.sealed[at..].split_at_mut(FRAME_HEADER_OCTETS);
        head.copy_from_slice(&header);
        let tag = self.cipher.seal(header, self.frames, body).ok_or_else(cipher_failed)?;
        self.sealed.extend_from_slice(&tag);
        self.frames += 1;
        Ok(())
    }
}

fn cipher_failed() -> BlobError {
    BlobError::Unavailable("the cipher failed".into())
}
