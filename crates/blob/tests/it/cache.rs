//! The read cache: fewer requests, and nothing rests on it.

use std::{path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use blob::{BlockCache, CacheConfig, PacksConfig};
use futures_util::StreamExt as _;
use maildrop::{
    Extent, FairGate,
    port::{BlobStore as _, Read, Sealed},
};

use crate::support::{House, MemoryStore, envelope, measure, noise, prose};

async fn cache(memory_octets: usize, disk: Option<&Path>) -> BlockCache {
    let disk = disk.map(|dir| (dir.to_owned(), 128 << 20));
    BlockCache::open(&CacheConfig { memory_octets, disk }).await.unwrap()
}

/// The same packs, with a cache.
fn cached(house: &House, store: &MemoryStore, cache: &BlockCache) -> House {
    let mut other = house.also_on(store.clone());
    other.packs = House::packs_on(store.clone(), PacksConfig::default()).cached_in(cache.clone());
    other
}

/// Reads as sessions do.
async fn read(house: &House, all: &[(Extent, Vec<u8>)]) {
    let mut reader = house.packs.reader(house.tenant, FairGate::new(8, 100));
    for (i, (extent, message)) in all.iter().enumerate() {
        let measured = measure(message);
        let plan = Read::Whole { octets: measured.octets, digest: measured.digest };
        let next: Vec<_> = all[i + 1..].iter().take(20).map(|(extent, _)| *extent).collect();
        let mut body = reader.read(&house.key, *extent, plan, &next).await.unwrap();
        let mut served = Vec::new();
        while let Some(chunk) = body.next().await {
            served.extend_from_slice(&chunk.unwrap());
        }
        assert!(served == *message, "message {i}");
    }
}

async fn fill(house: &House) -> Vec<(Extent, Vec<u8>)> {
    let mut all = Vec::new();
    for i in 0..40_usize {
        let message = if i % 8 == 3 { noise(300_000 + i, i as u64) } else { prose(300 + i * 501, i as u64) };
        all.push((house.store(&message).await.unwrap().extent, message));
    }
    let large = noise(3 << 20, 99);
    all.push((house.store(&large).await.unwrap().extent, large));
    all
}

#[tokio::test]
async fn what_came_in_or_was_read_a_moment_ago_is_not_asked_for() {
    let store = MemoryStore::default();
    let plain = House::new(store.clone());
    let before = fill(&plain).await;
    let cache = cache(64 << 20, None).await;
    let house = cached(&plain, &store, &cache);
    let now = fill(&house).await;
    read(&house, &now[..40]).await;
    assert_eq!(store.gets.load(Relaxed), 0);
    read(&house, &before).await;
    let first = store.gets.load(Relaxed);
    read(&house, &before[..40]).await;
    assert_eq!(store.gets.load(Relaxed), first);
    assert!(cache.stats().memory_octets <= 64 << 20);
}

#[tokio::test]
async fn memory_is_bounded_and_the_disk_takes_what_it_has_no_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let plain = House::new(store.clone());
    let small = cache(600_000, None).await;
    let house = cached(&plain, &store, &small);
    let all = fill(&house).await;
    read(&house, &all).await;
    assert!(small.stats().memory_octets <= 600_000, "{:?}", small.stats());
    assert!(store.gets.swap(0, Relaxed) > 0);

    let disk = cache(600_000, Some(dir.path())).await;
    let house = cached(&plain, &store, &disk);
    read(&house, &all[..40]).await;
    // Writing to disk goes on in the background.
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.gets.store(0, Relaxed);
    read(&house, &all[..40]).await;
    let stats = disk.stats();
    assert!(stats.disk > 0 && store.gets.load(Relaxed) < 20, "{stats:?}, {:?} requests", store.gets);
    disk.close().await;

    // The next process finds what there is.
    let again = cache(600_000, Some(dir.path())).await;
    let house = cached(&plain, &store, &again);
    store.gets.store(0, Relaxed);
    read(&house, &all[..40]).await;
    let stats = again.stats();
    assert!(stats.disk > 0 && store.gets.load(Relaxed) < 20, "{stats:?}, {:?} requests", store.gets);
}

#[tokio::test]
async fn what_is_damaged_on_disk_is_read_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let plain = House::new(store.clone());
    let first = cache(600_000, Some(dir.path())).await;
    let house = cached(&plain, &store, &first);
    let all = fill(&house).await;
    read(&house, &all).await;
    first.close().await;
    drop((house, first));
    // An octet in each page, everywhere.
    let mut changed = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let mut octets = std::fs::read(&path).unwrap();
        for at in (0..octets.len())
            .step_by(4096)
            .filter(|at| octets[*at..].iter().take(4096).any(|o| *o != 0))
            .collect::<Vec<_>>()
        {
            let middle = (at + 2000).min(octets.len() - 1);
            octets[middle] ^= 1;
            changed += 1;
        }
        std::fs::write(&path, octets).unwrap();
    }
    assert!(changed > 0);
    let second = cache(600_000, Some(dir.path())).await;
    let house = cached(&plain, &store, &second);
    read(&house, &all).await;
    println!("{changed} octets changed: {:?}", second.stats());
}

#[tokio::test]
async fn what_was_damaged_on_its_way_does_not_stay() {
    let store = MemoryStore::default();
    let plain = House::new(store.clone());
    let all = fill(&plain).await;
    let cache = cache(64 << 20, None).await;
    let house = cached(&plain, &store, &cache);
    for at in 0..all.len() {
        store.wrong.store(1, Relaxed);
        read(&house, &all[at..=at]).await;
        store.wrong.store(0, Relaxed);
        // Twice in a row it could not be mended.
        store.gets.store(0, Relaxed);
        read(&house, &all[at..=at]).await;
    }
}

#[tokio::test]
async fn a_body_that_was_cut_short_does_not_stay_as_the_end() {
    let store = MemoryStore::default();
    let plain = House::new(store.clone());
    let messages: Vec<_> = (0..3).map(|seed| prose(20_000, seed)).collect();
    let mut entries = Vec::new();
    for message in &messages {
        let mut writer = plain.packs.writer(plain.tenant, &plain.key, envelope()).await.unwrap();
        writer.write(message).await.unwrap();
        let Sealed::Entry(entry) = writer.seal(measure(message)).await.unwrap() else {
            panic!("stored alone")
        };
        entries.push(entry);
    }
    let stored = plain.packs.store_pack(plain.tenant, entries).await.unwrap();
    let all: Vec<_> = stored.iter().zip(messages).map(|(stored, message)| (stored.extent, message)).collect();
    let house = cached(&plain, &store, &cache(64 << 20, None).await);
    // What the first of them needs, and half of the second, as a server gives that says less than it has.
    let (key, octets) = store.only_object();
    store.replace(&key, octets.slice(..(all[1].0.offset + all[1].0.length / 2) as usize));
    house.check_served(all[0].0, &all[0].1).await;
    store.replace(&key, octets.clone());
    read(&house, &all).await;
    // And where it is the truth, that is said.
    store.replace(&key, octets.slice(..all[1].0.offset as usize));
    let house = cached(&plain, &store, &cache(64 << 20, None).await);
    read(&house, &all[..1]).await;
    let mut reader = house.packs.reader(house.tenant, FairGate::new(8, 100));
    let measured = measure(&all[1].1);
    let plan = Read::Whole { octets: measured.octets, digest: measured.digest };
    assert!(reader.read(&house.key, all[1].0, plan, &[]).await.is_err());
}

#[tokio::test]
async fn what_is_read_in_order_is_fetched_ahead_through_the_cache() {
    let store = MemoryStore { delay: Duration::from_millis(20), ..MemoryStore::default() };
    let plain = House::new(store.clone());
    let mut all = Vec::new();
    for i in 0..300_usize {
        let message = prose(8_000 + i, i as u64);
        all.push((plain.store(&message).await.unwrap().extent, message));
    }
    let cache = cache(64 << 20, None).await;
    let house = cached(&plain, &store, &cache);
    let start = tokio::time::Instant::now();
    read(&house, &all).await;
    // Twenty are known to come, each time.
    let took = start.elapsed();
    assert!(took < Duration::from_millis(300 * 20 / 5), "{took:?}");
    assert_eq!(store.gets.load(Relaxed), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_one_fetches() {
    let store = MemoryStore { delay: Duration::from_millis(30), ..MemoryStore::default() };
    let plain = House::new(store.clone());
    let message = prose(20_000, 1);
    let extent = plain.store(&message).await.unwrap().extent;
    let cache = cache(64 << 20, None).await;
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let house = cached(&plain, &store, &cache);
        let message = message.clone();
        crowd.spawn(async move { read(&house, &[(extent, message)]).await });
    }
    while crowd.join_next().await.transpose().unwrap().is_some() {}
    assert_eq!(store.gets.load(Relaxed), 1);
}
