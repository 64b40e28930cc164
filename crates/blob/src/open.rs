//! Opens entries: sealed frames in, verified octets out.

use std::cell::RefCell;

use bytes::Bytes;
use maildrop::TenantId;

use crate::{
    format::{
        BODY_CHUNK_OCTETS, FRAME_HEADER_OCTETS, FrameHeader, FrameKind, Malformed, PREFIX_OCTETS, Prefix,
        Summary, TAG_OCTETS,
    },
    keys::{EntryCipher, TenantKey},
    zip,
};

thread_local! {
    /// Where compressed octets lie between opening and expanding: 64 KiB a thread instead of one a session.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a frame held. All of it was authenticated.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The encoded envelope.
    Envelope(Vec<u8>),
    /// A chunk of the message.
    Body(Bytes),
    /// The end of the entry.
    Summary(Summary),
}

/// Opens the frames of one entry, in their order.
#[derive(Debug)]
pub(crate) struct EntryOpener {
    cipher: EntryCipher,
    frames: u64,
    octets: u64,
    done: bool,
}

impl EntryOpener {
    /// Begins with an entry's first octets.
    pub(crate) fn new(
        tenant: TenantId,
        key: &TenantKey,
        prefix: &[u8; PREFIX_OCTETS],
    ) -> Result<Self, Malformed> {
        let prefix = Prefix::parse(prefix)?;
        let cipher = key.entry(tenant, prefix).ok_or(Malformed("entry key cannot be derived"))?;
        Ok(Self { cipher, frames: 0, octets: 0, done: false })
    }

    /// Opens the next frame: its header, and exactly as many octets as that announces.
    ///
    /// The index in the tag already forbids another order than the writer's; what is checked here beyond it
    /// is that a writer kept to the format.
    pub(crate) fn open(
        &mut self,
        raw_header: [u8; FRAME_HEADER_OCTETS],
        sealed: &[u8],
    ) -> Result<Opened, Malformed> {
        let header = FrameHeader::parse(&raw_header)?;
        if self.done || (header.kind == FrameKind::Envelope) != (self.frames == 0) {
            return Err(Malformed("frame is out of place"));
        }
        if sealed.len() != header.sealed_octets as usize {
            return Err(Malformed("frame is cut short"));
        }
        let plain = self.open_plain(raw_header, header, sealed)?;
        let opened = match header.kind {
            FrameKind::Envelope => Opened::Envelope(plain),
            FrameKind::Body => {
                self.octets += plain.len() as u64;
                Opened::Body(Bytes::from(plain))
            }
            FrameKind::Summary => {
                let summary = Summary::parse(&plain)?;
                if summary.chunks != self.frames - 1 || summary.measured.octets != self.octets {
                    return Err(Malformed("summary does not match its entry"));
                }
                self.done = true;
                Opened::Summary(summary)
            }
        };
        self.frames += 1;
        Ok(opened)
    }

    fn open_plain(
        &self,
        raw_header: [u8; FRAME_HEADER_OCTETS],
        header: FrameHeader,
        sealed: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        const NOT_OURS: Malformed = Malformed("frame does not open with the tenant's key");
        let octets = sealed.len() - TAG_OCTETS;
        if !header.compressed {
            let mut plain = vec![0; octets];
            let good = self.cipher.open(raw_header, self.frames, sealed, &mut plain);
            return if good { Ok(plain) } else { Err(NOT_OURS) };
        }
        let plain_octets = header.plain_octets as usize;
        let expand = |scratch: &mut Vec<u8>| {
            if scratch.len() < octets {
                scratch.resize(octets, 0);
            }
            let packed = &mut scratch[..octets];
            if !self.cipher.open(raw_header, self.frames, sealed, packed) {
                return Err(NOT_OURS);
            }
            zip::expand(packed, plain_octets).ok_or(Malformed("chunk does not expand"))
        };
        if octets > BODY_CHUNK_OCTETS { expand(&mut Vec::new()) } else { SCRATCH.with_borrow_mut(expand) }
    }
}
