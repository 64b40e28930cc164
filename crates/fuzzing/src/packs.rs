//! The pack reader and the scanner, given packs that are not as they were written.

use std::{cell::RefCell, ops::Range, sync::Arc, sync::Mutex};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use blob::{
    BlobKey, BlobLayout, EntryScanner, Keyring, Listed, MasterKey, ObjectBody, ObjectPage, ObjectStore,
    Packs, PacksConfig, ScanItem, TenantKey, Upload,
    format::{
        ENTRY_MAGIC, FOOTER_HEAD_OCTETS, FOOTER_MAGIC, FRAME_HEADER_OCTETS, FooterEntry, FrameHeader,
        PACK_HEADER_OCTETS, PREFIX_OCTETS, PackHeader, Prefix, SUMMARY_OCTETS, Summary, TRAILER_OCTETS,
        Trailer, decode_envelope, encode_envelope, parse_footer,
    },
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use maildrop::{
    EntryEnvelope, Extent, MailboxId, Measure, Measured, PackId, SealedKey, TenantId,
    port::{BlobError, BlobStore as _, Read},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::script::Script;

/// A pack of three messages, made by `cargo run --package fuzzing --example pack`; it is kept because each writing of
/// a pack has other salts.
const PACK: &[u8] = include_bytes!("../fixtures/pack.bin");
/// What is to be known to open it.
const KNOWN: &[u8] = include_bytes!("../fixtures/pack.json");
/// The master key its tenant's key is sealed under.
const MASTER_KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
/// A pack that was put together of parts of another is no longer than this.
const OCTETS_MAX: usize = 1 << 18;

/// What [`PACK`] is beside its octets.
#[derive(Serialize, Deserialize)]
struct Known {
    tenant: [u8; 16],
    pack: [u8; 16],
    /// In base64.
    key: String,
    entries: Vec<Range<u64>>,
}

/// The messages of [`PACK`]: short, in one chunk, in three.
fn messages() -> [Vec<u8>; 3] {
    let line = |number: usize| format!("line {number} of a message that compresses well\r\n");
    let text = |lines: usize| {
        let lines: String = (0..lines).map(|number| line(number % 7)).collect();
        format!("Subject: words\r\nFrom: someone@a.test\r\n\r\n{lines}").into_bytes()
    };
    [b"Subject: x\r\n\r\nhello\r\n".to_vec(), text(30), text(3_000)]
}

fn envelope() -> EntryEnvelope {
    EntryEnvelope {
        bulletin: None,
        received_at: OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000),
        sender: "sender@a.test".into(),
        recipients: vec![(MailboxId::from_uuid(TenantId::generate().as_uuid()), "alice@b.test".into())],
    }
}

/// Reads packs: octets that may be anything, the octets of a good pack in another order, and the parts of a format.
pub fn packs(input: &[u8]) {
    let Some(script) = Script::new(input) else { return };
    thread_local! {
        static HOUSE: RefCell<Option<House>> = const { RefCell::new(None) };
    }
    HOUSE.with_borrow_mut(|house| {
        let house = house.get_or_insert_with(House::new);
        match script.setup[0] % 3 {
            0 => house.read(&script, script.rest),
            1 => house.read(&script, &house.edited(script.rest)),
            _ => parts(script.rest),
        }
    });
}

/// A tenant with its key, and a store with one object.
struct House {
    packs: Packs,
    store: Memory,
    tenant: TenantId,
    sealed: SealedKey,
    key: Arc<TenantKey>,
    pack: PackId,
    /// Where the messages lie, and what they are.
    entries: Vec<(Extent, Measured, Vec<u8>)>,
    /// Where parts of the pack begin.
    boundaries: Vec<usize>,
}

impl House {
    fn new() -> Self {
        let known: Known = serde_json::from_slice(KNOWN).unwrap();
        let tenant = TenantId::from_uuid(uuid::Uuid::from_bytes(known.tenant));
        let pack = PackId::from_uuid(uuid::Uuid::from_bytes(known.pack));
        let sealed = SealedKey(STANDARD.decode(known.key).unwrap());
        let store = Memory::default();
        let packs = over(&store);
        let key = ready(keyring().open(tenant, &sealed)).unwrap();
        let entries: Vec<_> = known
            .entries
            .into_iter()
            .zip(messages())
            .map(|(at, message)| {
                let extent = Extent { pack, offset: at.start, length: at.end - at.start };
                (extent, measured(&message), message)
            })
            .collect();
        let mut boundaries = vec![0, PACK_HEADER_OCTETS];
        for (extent, ..) in &entries {
            let end = (extent.offset + extent.length) as usize;
            let mut at = extent.offset as usize + PREFIX_OCTETS;
            while at < end {
                let header = FrameHeader::parse(PACK[at..].first_chunk().unwrap()).unwrap();
                boundaries.extend([at, at + FRAME_HEADER_OCTETS]);
                at += FRAME_HEADER_OCTETS + header.sealed_octets as usize;
            }
            boundaries.push(end);
        }
        boundaries.extend([PACK.len() - TRAILER_OCTETS, PACK.len()]);
        Self { packs, store, tenant, sealed, key, pack, entries, boundaries }
    }

    /// Each message is served whole and as it was written, or it ends in an error before it is complete. The scanner
    /// finds nothing that was not written, and says the same however the octets come.
    fn read(&self, script: &Script<'_>, octets: &[u8]) {
        *self.store.0.lock().unwrap() = Bytes::copy_from_slice(octets);
        for (extent, measured, message) in &self.entries {
            let whole = Read::Whole { octets: measured.octets, digest: measured.digest };
            let (served, complete) = self.serve(*extent, whole);
            // Where a store has put another entry of the tenant in the place of this one, its first chunks are served
            // before its end tells that it is another.
            self.was_written(&served);
            assert!(!complete || served == *message, "a part, or another message, is served as the whole");
            assert!(
                complete || served.len() < message.len(),
                "the end is served before it is known to be good"
            );
            let there = octets.get(extent.offset as usize..(extent.offset + extent.length) as usize);
            let unharmed =
                there == Some(&PACK[extent.offset as usize..(extent.offset + extent.length) as usize]);
            assert_eq!(complete, unharmed, "what is good is not served, or what is damaged is");
            let (top, _) = self.serve(*extent, Read::Head { octets: 100 });
            self.was_written(&top);
        }
        // Where a row says what it should not.
        let number = |at: usize| u64::from(u16::from_le_bytes([script.setup[at], script.setup[at + 1]]));
        let extent = Extent { pack: self.pack, offset: number(2), length: number(4) };
        let (served, _) = self.serve(extent, Read::Head { octets: number(6) });
        self.was_written(&served);

        let items = self.scan([octets]);
        assert!(items == self.scan(script.pieces(octets)), "what is found depends on how the octets come");
        let mut end = 0;
        for item in &items {
            let (offset, length) = match item {
                ScanItem::Entry(entry) => {
                    let written = self.entries.iter().any(|(_, measured, _)| *measured == entry.measured);
                    assert!(
                        written && entry.envelope.sender == "sender@a.test",
                        "something is found: {entry:?}"
                    );
                    (entry.offset, entry.length)
                }
                ScanItem::Damage(damage) => (damage.offset, damage.length),
            };
            assert!(offset >= end && offset + length <= octets.len() as u64, "{items:?}");
            end = offset + length;
        }
        let damaged = items.iter().any(|item| matches!(item, ScanItem::Damage(_)));
        assert_eq!(damaged, octets != PACK, "{items:?}");
    }

    fn was_written(&self, served: &[u8]) {
        let written = self.entries.iter().any(|(.., message)| message.starts_with(served));
        assert!(written, "something is served that was not written");
    }

    fn serve(&self, extent: Extent, read: Read) -> (Vec<u8>, bool) {
        let mut served = Vec::new();
        let Ok(mut body) = ready(self.packs.read(self.tenant, &self.sealed, extent, read)) else {
            return (served, false);
        };
        while let Some(chunk) = ready(body.next()) {
            match chunk {
                Ok(chunk) => served.extend_from_slice(&chunk),
                Err(error) => {
                    assert!(matches!(error, BlobError::Corrupt(_)), "{error:?}");
                    assert!(ready(body.next()).is_none(), "a stream goes on after an error");
                    return (served, false);
                }
            }
        }
        (served, true)
    }

    fn scan<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<ScanItem> {
        let mut scanner = EntryScanner::new(self.tenant, Arc::clone(&self.key), self.pack);
        let mut items = Vec::new();
        for piece in pieces {
            items.extend(scanner.push(piece));
        }
        items.extend(scanner.finish());
        items
    }

    /// The good pack after these edits, of 8 octets each.
    fn edited(&self, edits: &[u8]) -> Vec<u8> {
        let mut pack = PACK.to_vec();
        for edit in edits.as_chunks::<8>().0.iter().take(32) {
            let [what, value, places @ ..] = *edit;
            let place = |at: usize| {
                let number = usize::from(u16::from_le_bytes([places[at], places[at + 1]]));
                // Where a part begins, or anywhere.
                if what & 0x80 == 0 { self.boundaries[number % self.boundaries.len()] } else { number }
            };
            let (to, start, end) = (place(0).min(pack.len()), place(2), place(4));
            let (start, end) = (start.min(end).min(pack.len()), start.max(end).min(pack.len()));
            let part = pack[start..end].to_vec();
            match what & 0x07 {
                0 if to < pack.len() => pack[to] ^= value,
                1 => drop(pack.drain(start..end)),
                2 => drop(pack.splice(to..to, part)),
                3 => {
                    let until = (to + part.len()).min(pack.len());
                    drop(pack.splice(to..until, part));
                }
                4 => pack.truncate(to),
                5 => drop(pack.splice(to..to, *ENTRY_MAGIC)),
                6 => drop(pack.splice(to..to, *FOOTER_MAGIC)),
                _ => drop(pack.splice(to..to, std::iter::repeat_n(value, 300))),
            }
            if pack.len() > OCTETS_MAX {
                break;
            }
        }
        pack
    }
}

/// Parts of the format: what can be read is written again as it was.
fn parts(octets: &[u8]) {
    if let Ok(envelope) = decode_envelope(octets) {
        let again = encode_envelope(&envelope).expect("what was read can be written");
        assert_eq!(decode_envelope(&again).as_ref(), Ok(&envelope));
    }
    if let Some(first) = octets.first_chunk::<SUMMARY_OCTETS>()
        && let Ok(summary) = Summary::parse(first)
    {
        assert_eq!(summary.to_octets(), *first);
    }
    if let Some(first) = octets.first_chunk::<FRAME_HEADER_OCTETS>()
        && let Ok(header) = FrameHeader::parse(first)
    {
        assert_eq!(header.to_octets(), *first);
    }
    if let Some(first) = octets.first_chunk::<PREFIX_OCTETS>()
        && let Ok(prefix) = Prefix::parse(first)
    {
        assert_eq!(prefix.to_octets(), *first);
    }
    if let Some(first) = octets.first_chunk::<PACK_HEADER_OCTETS>()
        && let Ok(header) = PackHeader::parse(first)
    {
        assert_eq!(header.to_octets(), *first);
    }
    if let Some((footer, trailer)) = octets.split_last_chunk::<TRAILER_OCTETS>()
        && let Ok(trailer) = Trailer::parse(trailer)
        && let Ok(entries) = parse_footer(footer, &trailer)
    {
        assert_eq!(footer.len(), FOOTER_HEAD_OCTETS + entries.len() * size_of_val(&[0_u64; 3]));
        assert_eq!(footer.len(), trailer.footer_octets as usize);
    }
}

fn measured(message: &[u8]) -> Measured {
    let mut measure = Measure::default();
    measure.update(message);
    measure.finish()
}

fn keyring() -> Keyring {
    Keyring::new(Arc::new(MasterKey::parse(MASTER_KEY).unwrap()))
}

fn over(store: &Memory) -> Packs {
    Packs::new(Arc::new(store.clone()), keyring(), BlobLayout::new("").unwrap(), PacksConfig::default())
}

/// Nothing here waits.
fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it waits for something")
}

/// Makes the fixtures: the pack's octets, and what is to be known to open it.
pub async fn make_pack() -> (Vec<u8>, Vec<u8>) {
    let store = Memory::default();
    let packs = over(&store);
    let (tenant, pack) = (TenantId::generate(), PackId::generate());
    let sealed = packs.new_tenant_key(tenant).await.unwrap();
    let mut octets = PackHeader { tenant, pack }.to_octets().to_vec();
    let mut entries = Vec::new();
    for message in messages() {
        let mut writer = packs.writer(tenant, &sealed, envelope()).await.unwrap();
        writer.write(&message).await.unwrap();
        let stored = writer.finish(measured(&message)).await.unwrap();
        let from = stored.extent.offset as usize;
        let start = octets.len() as u64;
        octets.extend_from_slice(&store.0.lock().unwrap()[from..from + stored.extent.length as usize]);
        entries.push(start..octets.len() as u64);
    }
    let footer: Vec<_> =
        entries.iter().map(|at| FooterEntry { offset: at.start, length: at.end - at.start }).collect();
    let footer_at = octets.len() as u64;
    blob::format::write_footer(&mut octets, footer_at, &footer);
    let known = Known {
        tenant: tenant.as_uuid().into_bytes(),
        pack: pack.as_uuid().into_bytes(),
        key: STANDARD.encode(&sealed.0),
        entries,
    };
    (octets, serde_json::to_vec_pretty(&known).unwrap())
}

/// One object, under any name.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Bytes>>);

#[async_trait]
impl ObjectStore for Memory {
    async fn put(&self, _: &BlobKey, body: Bytes) -> Result<(), BlobError> {
        *self.0.lock().unwrap() = body;
        Ok(())
    }

    async fn upload(&self, _: &BlobKey) -> Result<Box<dyn Upload>, BlobError> {
        Err(BlobError::Unavailable("it takes whole objects only".into()))
    }

    async fn get(&self, _: &BlobKey, range: Range<u64>) -> Result<ObjectBody, BlobError> {
        let object = self.0.lock().unwrap().clone();
        let end = range.end.min(object.len() as u64) as usize;
        let mut left = object.slice((range.start as usize).min(end)..end);
        let mut pieces = Vec::new();
        while !left.is_empty() {
            pieces.push(Ok(left.split_to(left.len().min(1000))));
        }
        Ok(Box::pin(stream::iter(pieces)))
    }

    async fn size(&self, _: &BlobKey) -> Result<Option<u64>, BlobError> {
        Ok(Some(self.0.lock().unwrap().len() as u64))
    }

    async fn delete(&self, _: &[BlobKey]) -> Result<(), BlobError> {
        Ok(())
    }

    async fn list(&self, _: &str, _: Option<&BlobKey>) -> Result<ObjectPage, BlobError> {
        Ok(ObjectPage { objects: Vec::<Listed>::new(), more: false })
    }

    async fn ready(&self) -> Result<(), BlobError> {
        Ok(())
    }
}
