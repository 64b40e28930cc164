//! Messages in, messages out.

use std::sync::atomic::Ordering::Relaxed;

use blob::{DiskConfig, DiskStore, PacksConfig, ScanItem};
use futures_util::StreamExt;
use maildrop::port::{BlobError, BlobStore, Read};
use proptest::prelude::*;

use crate::support::{House, MemoryStore, envelope, measure, noise, prose};

#[tokio::test]
async fn messages_of_every_shape_come_back() {
    let house = House::new(MemoryStore::default());
    for octets in [0, 1, 63, 64, 65, 65_535, 65_536, 65_537, 131_072, 700_000, 3_000_000] {
        for message in [noise(octets, 1), prose(octets, 2), vec![b'x'; octets]] {
            let stored = house.store(&message).await.unwrap();
            assert_eq!(stored.pack_entries, 1);
            house.check_served(stored.extent, &message).await;
        }
    }
}

#[tokio::test]
async fn a_large_message_is_streamed_in_parts() {
    let store = MemoryStore::default();
    let house = House::with(store.clone(), PacksConfig { part_octets: 5 << 20, ..PacksConfig::default() });
    // Around the size of a part, where the footer may fall into a part of its own.
    for octets in [(5 << 20) - 3000, (5 << 20) - 300, 5 << 20, 23_000_000] {
        let message = noise(octets, 3);
        let stored = house.store(&message).await.unwrap();
        let object = store.only_object().1;
        assert_eq!(object.len() as u64, stored.pack_octets);
        house.check_served(stored.extent, &message).await;
        let mut items = Vec::new();
        let pack = stored.extent.pack;
        house.packs.scan(house.tenant, &house.key, pack, |item| items.push(item)).await.unwrap();
        let [ScanItem::Entry(entry)] = &items[..] else { panic!("{items:?}") };
        assert_eq!((entry.offset, entry.length), (stored.extent.offset, stored.extent.length));
        assert_eq!(entry.measured, measure(&message));
        store.objects.lock().unwrap().clear();
    }
    assert_eq!(store.uploads.load(Relaxed), 0);
}

#[tokio::test]
async fn a_dropped_writer_leaves_nothing() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    for octets in [1000, 2_000_000, 20_000_000] {
        let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
        writer.write(&noise(octets, 4)).await.unwrap();
        drop(writer);
        while store.uploads.load(Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(store.objects.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_failing_store_fails_the_message_and_no_other() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    for octets in [1000, 20_000_000] {
        *store.write_error.lock().unwrap() = Some(BlobError::Full);
        let stored = house.store(&noise(octets, 5)).await;
        assert!(matches!(stored, Err(BlobError::Full(_))), "{stored:?}");
        *store.write_error.lock().unwrap() = None;
        house.store(&noise(octets, 5)).await.unwrap();
    }
    assert_eq!(store.uploads.load(Relaxed), 0);
}

#[tokio::test]
async fn a_measure_of_something_else_is_refused() {
    let house = House::new(MemoryStore::default());
    let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
    writer.write(b"abc").await.unwrap();
    let finished = writer.finish(measure(b"abcd")).await;
    assert!(matches!(finished, Err(BlobError::Corrupt(_))), "{finished:?}");
}

#[tokio::test]
async fn a_head_fetches_what_it_needs() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let message = noise(10_000_000, 6);
    let stored = house.store(&message).await.unwrap();
    store.gets.store(0, Relaxed);
    store.fetched.store(0, Relaxed);

    let mut body = house.open(stored.extent, Read::Head { octets: 2000 }).await.unwrap();
    let first = body.next().await.unwrap().unwrap();
    assert!(first == message[..first.len()] && first.len() >= 2000);
    assert_eq!(store.gets.load(Relaxed), 1);
    assert!(store.fetched.load(Relaxed) <= 72 * 1024, "{}", store.fetched.load(Relaxed));

    // Asked for more, it goes on, to the end if need be.
    let mut out = first.to_vec();
    while let Some(chunk) = body.next().await {
        out.extend_from_slice(&chunk.unwrap());
    }
    assert!(out == message);
    assert!(store.fetched.load(Relaxed) <= stored.extent.length);

    let small = prose(20_000, 7);
    let stored = house.store(&small).await.unwrap();
    store.fetched.store(0, Relaxed);
    let mut body = house.open(stored.extent, Read::Head { octets: 100_000 }).await.unwrap();
    assert!(body.next().await.unwrap().unwrap() == small);
    assert!(body.next().await.is_none());
    assert_eq!(store.fetched.load(Relaxed), stored.extent.length);
}

#[tokio::test]
async fn thousands_of_recipients_are_one_entry() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let message = prose(3000, 10);
    for count in [0, 500, 5000] {
        let mut envelope = envelope();
        envelope.recipients =
            (0..count).map(|i| (maildrop::MailboxId::generate(), format!("user-{i}@b.test"))).collect();
        let mut writer = house.packs.writer(house.tenant, &house.key, envelope.clone()).await.unwrap();
        writer.write(&message).await.unwrap();
        let stored = writer.finish(measure(&message)).await.unwrap();
        house.check_served(stored.extent, &message).await;
        let mut body = house.open(stored.extent, Read::Head { octets: 10 }).await.unwrap();
        assert!(body.next().await.unwrap().unwrap() == message);
        let mut items = Vec::new();
        let pack = stored.extent.pack;
        house.packs.scan(house.tenant, &house.key, pack, |item| items.push(item)).await.unwrap();
        let [ScanItem::Entry(entry)] = &items[..] else { panic!("{items:?}") };
        assert!(entry.envelope == envelope);
    }
    let mut envelope = envelope();
    envelope.sender = "x".repeat(5 << 20);
    let refused = house.packs.writer(house.tenant, &house.key, envelope).await.map(|_| ());
    assert!(matches!(refused, Err(BlobError::Misconfigured(_))), "{refused:?}");
}

#[tokio::test]
async fn a_missing_pack_is_said_at_once() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let message = noise(1000, 8);
    let stored = house.store(&message).await.unwrap();
    store.objects.lock().unwrap().clear();
    let (_, result) = house.served(stored.extent, measure(&message)).await;
    assert!(matches!(result, Err(BlobError::NotFound(_))), "{result:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any body, written in any pieces, comes back.
    #[test]
    fn any_body_in_any_pieces(
        seed: u64,
        octets in prop_oneof![0..2000_usize, 60_000..140_000_usize],
        compressible: bool,
        pieces in prop::collection::vec(1..40_000_usize, 1..8),
    ) {
        let message = if compressible { prose(octets, seed) } else { noise(octets, seed) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = House::new(MemoryStore::default());
            let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
            let (mut rest, mut sizes) = (&message[..], pieces.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
                writer.write(now).await.unwrap();
                rest = later;
            }
            let stored = writer.finish(measure(&message)).await.unwrap();
            house.check_served(stored.extent, &message).await;
        });
    }
}

/// In KiB, from the kernel.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Each test is a process of its own (nextest), so that the peak is this test's.
#[tokio::test]
async fn a_message_of_96_mib_streams_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::new(DiskStore::open(DiskConfig::new(dir.path())).await.unwrap());
    let piece = noise(1 << 20, 9);
    let mut measured = maildrop::Measure::default();
    let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    for _ in 0..96 {
        measured.update(&piece);
        writer.write(&piece).await.unwrap();
    }
    let measured = measured.finish();
    let stored = writer.finish(measured).await.unwrap();
    let grown = memory("VmHWM") - before;
    assert!(grown < 40 * 1024, "storing took {grown} KiB");

    let mut hasher = blake3::Hasher::new();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    let read = Read::Whole { octets: measured.octets, digest: measured.digest };
    let mut body = house.open(stored.extent, read).await.unwrap();
    while let Some(chunk) = body.next().await {
        hasher.update(&chunk.unwrap());
    }
    let grown = memory("VmHWM") - before;
    assert_eq!(*hasher.finalize().as_bytes(), measured.digest.0);
    assert!(grown < 8 * 1024, "reading took {grown} KiB");
}
