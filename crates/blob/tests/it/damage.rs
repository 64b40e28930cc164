//! A flipped octet anywhere is found, and nothing wrong is ever served (P5, P8).

use blob::{
    ScanItem,
    format::{
        FRAME_HEADER_OCTETS, FooterEntry, FrameHeader, PACK_HEADER_OCTETS, PREFIX_OCTETS, PackHeader,
        write_footer,
    },
    scan,
};
use maildrop::{
    Extent, Measured, PackId, StoredEntry,
    port::{BlobError, BlobStore},
};

use crate::support::{House, MemoryStore, measure, noise, prose};

struct Stored {
    store: MemoryStore,
    house: House,
    object: String,
    octets: Vec<u8>,
    entry: StoredEntry,
    message: Vec<u8>,
    measured: Measured,
}

async fn stored(message: Vec<u8>) -> Stored {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let entry = house.store(&message).await.unwrap();
    let (object, octets) = store.only_object();
    let measured = measure(&message);
    Stored { store, house, object, octets: octets.to_vec(), entry, message, measured }
}

impl Stored {
    /// Serves the message from a pack of these octets: either it is whole and right, or it ends in an error
    /// before it is complete, and says nothing that is not in the message.
    async fn serve_from(&self, octets: &[u8]) -> Result<(), BlobError> {
        self.store.replace(&self.object, octets.to_vec());
        let (out, result) = self.house.served(self.entry.extent, self.measured).await;
        match &result {
            Ok(()) => assert!(out == self.message),
            Err(_) => assert!(out.len() < self.message.len().max(1) && self.message.starts_with(&out)),
        }
        result
    }

    async fn scan(&self, octets: &[u8]) -> Vec<ScanItem> {
        let key = self.house.opened_key().await;
        let whole = scan(self.house.tenant, key, self.entry.extent.pack, octets);
        self.store.replace(&self.object, octets.to_vec());
        let mut streamed = Vec::new();
        let pack = self.entry.extent.pack;
        self.house
            .packs
            .scan(self.house.tenant, &self.house.key, pack, |item| streamed.push(item))
            .await
            .unwrap();
        assert_eq!(whole, streamed, "a scan does not depend on how the octets come");
        whole
    }

    fn extent(&self) -> std::ops::Range<usize> {
        let start = self.entry.extent.offset as usize;
        start..start + self.entry.extent.length as usize
    }
}

fn has_damage(items: &[ScanItem]) -> bool {
    items.iter().any(|item| matches!(item, ScanItem::Damage(_)))
}

fn has_entry(items: &[ScanItem], measured: Measured) -> bool {
    items.iter().any(|item| matches!(item, ScanItem::Entry(entry) if entry.measured == measured))
}

#[tokio::test]
async fn every_flipped_octet_is_found() {
    for message in [b"Subject: x\r\n\r\nhello\r\n".to_vec(), prose(1500, 1)] {
        let stored = stored(message).await;
        let good = stored.scan(&stored.octets).await;
        assert!(!has_damage(&good) && has_entry(&good, stored.measured), "{good:?}");
        for i in 0..stored.octets.len() {
            for bit in [0x01, 0x80, 0xff] {
                let mut flipped = stored.octets.clone();
                flipped[i] ^= bit;
                let served = stored.serve_from(&flipped).await;
                let items = stored.scan(&flipped).await;
                assert!(has_damage(&items), "octet {i} ^ {bit:x}: {items:?}");
                let inside = stored.extent().contains(&i);
                if inside {
                    assert!(matches!(served, Err(BlobError::Corrupt(_))), "octet {i} ^ {bit:x}: {served:?}");
                } else {
                    served.unwrap();
                }
                // Damage around an entry never costs the entry.
                assert_eq!(has_entry(&items, stored.measured), !inside, "octet {i} ^ {bit:x}: {items:?}");
            }
        }
    }
}

#[tokio::test]
async fn every_truncation_is_found() {
    let stored = stored(prose(1500, 2)).await;
    for end in 0..stored.octets.len() {
        let served = stored.serve_from(&stored.octets[..end]).await;
        if end < stored.extent().end {
            assert!(matches!(served, Err(BlobError::Corrupt(_))), "cut at {end}: {served:?}");
        } else {
            served.unwrap();
        }
        let items = stored.scan(&stored.octets[..end]).await;
        assert!(has_damage(&items), "cut at {end}");
        assert_eq!(has_entry(&items, stored.measured), end >= stored.extent().end, "cut at {end}");
    }
}

#[tokio::test]
async fn every_wrong_extent_is_found() {
    let stored = stored(prose(1500, 3)).await;
    let right = stored.entry.extent;
    for (offset, length) in [
        (right.offset - 1, right.length + 1),
        (right.offset + 1, right.length - 1),
        (right.offset, right.length - 1),
        (right.offset, right.length + 1),
        (right.offset, 0),
        (right.offset, 10),
        (0, right.length),
        (1 << 40, right.length),
        (u64::MAX, right.length),
        (right.offset, u64::MAX - right.offset),
    ] {
        let extent = Extent { offset, length, ..right };
        let (out, result) = stored.house.served(extent, stored.measured).await;
        assert!(matches!(result, Err(BlobError::Corrupt(_))), "{extent:?}: {result:?}");
        assert!(out.is_empty());
    }
}

#[tokio::test]
async fn a_row_that_tells_of_another_message_gets_nothing_complete() {
    let stored = stored(prose(100_000, 4)).await;
    let right = stored.measured;
    let others = [
        Measured { octets: right.octets + 1, ..right },
        Measured { octets: right.octets - 1, ..right },
        Measured { octets: 0, ..right },
        Measured { digest: measure(b"other").digest, ..right },
    ];
    for other in others {
        let (out, result) = stored.house.served(stored.entry.extent, other).await;
        assert!(matches!(result, Err(BlobError::Corrupt(_))), "{other:?}: {result:?}");
        assert!((out.len() as u64) < other.octets.max(1), "what the row calls the end is not served");
    }
}

#[tokio::test]
async fn another_tenants_key_opens_nothing() {
    let stored = stored(prose(1500, 5)).await;
    let other = stored.house.neighbour();
    // Even if the object lay under the other tenant's name, with a header to match.
    let name = other.layout.pack(other.tenant, stored.entry.extent.pack);
    let mut octets = stored.octets.clone();
    let header = PackHeader { tenant: other.tenant, pack: stored.entry.extent.pack };
    octets[..PACK_HEADER_OCTETS].copy_from_slice(&header.to_octets());
    stored.store.replace(name.as_str(), octets);
    let (out, result) = other.served(stored.entry.extent, stored.measured).await;
    assert!(matches!(result, Err(BlobError::Corrupt(_))) && out.is_empty(), "{result:?}");
    let mut items = Vec::new();
    let pack = stored.entry.extent.pack;
    other.packs.scan(other.tenant, &other.key, pack, |item| items.push(item)).await.unwrap();
    assert!(has_damage(&items) && !has_entry(&items, stored.measured));
    // Nor does its sealed key open under our name.
    let read = stored.house.packs.read(
        stored.house.tenant,
        &other.key,
        stored.entry.extent,
        maildrop::port::Read::Head { octets: 1 },
    );
    assert!(matches!(read.await.map(|_| ()), Err(BlobError::WrongKey)));
}

/// Where the frames of an entry are.
fn frames(entry: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut at, mut found) = (PREFIX_OCTETS, Vec::new());
    while let Some(header) = entry[at..].first_chunk::<FRAME_HEADER_OCTETS>() {
        let header = FrameHeader::parse(header).unwrap();
        let end = at + FRAME_HEADER_OCTETS + header.sealed_octets as usize;
        found.push(at..end);
        at = end;
    }
    found
}

#[tokio::test]
async fn swapped_doubled_and_dropped_chunks_are_found() {
    // Chunks of equal size, so that only the seal can tell them apart.
    let stored = stored(noise(4 * 65_536, 6)).await;
    let entry = stored.octets[stored.extent()].to_vec();
    let at = frames(&entry);
    assert_eq!(at.len(), 6);
    let assemble = |order: &[usize], from: &[&[u8]]| {
        let mut octets = stored.octets[..PACK_HEADER_OCTETS].to_vec();
        octets.extend_from_slice(&entry[..PREFIX_OCTETS]);
        for (frame, source) in order.iter().zip(from.iter().cycle()) {
            octets.extend_from_slice(&source[at[*frame].clone()]);
        }
        octets
    };
    for order in [
        &[0, 2, 1, 3, 4, 5][..],
        &[0, 1, 1, 3, 4, 5],
        &[0, 1, 2, 3, 5, 5],
        &[1, 0, 2, 3, 4, 5],
        &[5, 1, 2, 3, 4, 0],
    ] {
        let octets = assemble(order, &[&entry]);
        let served = stored.serve_from(&octets).await;
        assert!(matches!(served, Err(BlobError::Corrupt(_))), "{order:?}: {served:?}");
        assert!(!has_entry(&stored.scan(&octets).await, stored.measured));
    }
    // The same message stored again: same octets inside, another key for each entry.
    let again = stored.house.store(&stored.message).await.unwrap();
    let name = stored.house.layout.pack(stored.house.tenant, again.extent.pack);
    let other = stored.store.objects.lock().unwrap()[name.as_str()].clone();
    let other = &other[stored.extent()];
    let octets = assemble(&[0, 1, 2, 3, 4, 5], &[&entry, other]);
    let served = stored.serve_from(&octets).await;
    assert!(matches!(served, Err(BlobError::Corrupt(_))), "{served:?}");
}

/// A pack of several entries, as compaction or group commit make them: entries copied as they are.
async fn gathered(
    count: u64,
) -> (House, PackId, Vec<u8>, Vec<(std::ops::Range<usize>, Measured)>, MemoryStore) {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let pack = PackId::generate();
    let mut octets = PackHeader { tenant: house.tenant, pack }.to_octets().to_vec();
    let mut entries = Vec::new();
    for i in 0..count {
        let message = prose(900 + 400 * i as usize, i);
        let stored = house.store(&message).await.unwrap();
        let name = house.layout.pack(house.tenant, stored.extent.pack);
        let from = stored.extent.offset as usize;
        let source = store.objects.lock().unwrap()[name.as_str()].clone();
        let start = octets.len();
        octets.extend_from_slice(&source[from..from + stored.extent.length as usize]);
        entries.push((start..octets.len(), measure(&message)));
    }
    let index: Vec<FooterEntry> = entries
        .iter()
        .map(|(at, _)| FooterEntry { offset: at.start as u64, length: at.len() as u64 })
        .collect();
    let footer_at = octets.len() as u64;
    write_footer(&mut octets, footer_at, &index);
    (house, pack, octets, entries, store)
}

#[tokio::test]
async fn entries_copied_into_another_pack_are_read_there() {
    let (house, pack, octets, entries, store) = gathered(4).await;
    let name = house.layout.pack(house.tenant, pack);
    store.replace(name.as_str(), octets.clone());
    for (at, measured) in &entries {
        let extent = Extent { pack, offset: at.start as u64, length: at.len() as u64 };
        house.served(extent, *measured).await.1.unwrap();
    }
    let items = scan(house.tenant, house.opened_key().await, pack, &octets);
    assert!(!has_damage(&items) && items.len() == 4, "{items:?}");
}

#[tokio::test]
async fn damage_costs_only_the_entry_it_is_in() {
    let (house, pack, octets, entries, _) = gathered(4).await;
    let key = house.opened_key().await;
    for i in (0..octets.len()).step_by(7) {
        let mut flipped = octets.clone();
        flipped[i] ^= 0x10;
        let items = scan(house.tenant, key.clone(), pack, &flipped);
        assert!(has_damage(&items), "octet {i}");
        for (at, measured) in &entries {
            assert_eq!(has_entry(&items, *measured), !at.contains(&i), "octet {i}: {items:?}");
        }
    }
    // Header and footer gone, something foreign in their place: all entries are still found.
    let middle = &octets[entries[0].0.start..entries[3].0.end];
    for junk in [&b""[..], b"PENT", b"PENTPFTRPENT\x01\0\0\0", &noise(5000, 1)] {
        let mangled = [junk, middle, junk].concat();
        let items = scan(house.tenant, key.clone(), pack, &mangled);
        assert!(has_damage(&items));
        assert!(entries.iter().all(|(_, measured)| has_entry(&items, *measured)), "{items:?}");
    }
    // A pack under another pack's name is noticed.
    assert!(has_damage(&scan(house.tenant, key, PackId::generate(), &octets)));
}
