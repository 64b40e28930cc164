//! What a session reads in order is fetched ahead, and is the same as if it were not.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use blob::PacksConfig;
use futures_util::StreamExt as _;
use maildrop::{
    Extent, FairGate,
    port::{BlobError, BlobStore as _, BodyStream, MessageReader, Read, Sealed},
};

use crate::support::{House, MemoryStore, envelope, measure, noise, prose};

/// Messages of some sizes, in packs of `together`.
async fn fill(house: &House, count: usize, together: usize) -> Vec<(Extent, Vec<u8>)> {
    let messages: Vec<_> = (0..count).map(|i| prose(500 + i * 97 % 30_000, i as u64)).collect();
    let mut stored = Vec::new();
    for pack in messages.chunks(together) {
        let mut entries = Vec::new();
        for message in pack {
            let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
            writer.write(message).await.unwrap();
            match writer.seal(measure(message)).await.unwrap() {
                Sealed::Entry(entry) => entries.push(entry),
                Sealed::Stored(_) => panic!("stored by itself"),
            }
        }
        let extents = house.packs.store_pack(house.tenant, entries).await.unwrap();
        stored.extend(extents.into_iter().map(|stored| stored.extent).zip(pack.iter().cloned()));
    }
    stored
}

fn reader(house: &House) -> Box<dyn MessageReader> {
    house.packs.reader(house.tenant, FairGate::new(8, 1000))
}

async fn gathered(body: Result<BodyStream, BlobError>) -> Result<Vec<u8>, BlobError> {
    let (mut body, mut all) = (body?, Vec::new());
    while let Some(chunk) = body.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

fn whole(message: &[u8]) -> Read {
    let measured = measure(message);
    Read::Whole { octets: measured.octets, digest: measured.digest }
}

/// Reads them in order, as a session does: the next `known` are known.
async fn read_in_order(house: &House, all: &[(Extent, Vec<u8>)], known: usize) {
    let mut reader = reader(house);
    for (i, (extent, message)) in all.iter().enumerate() {
        let next: Vec<_> = all[i + 1..].iter().take(known).map(|(extent, _)| *extent).collect();
        let next = if i == 0 { &[] } else { &next[..] };
        let read = reader.read(&house.key, *extent, whole(message), next).await;
        assert!(gathered(read).await.unwrap() == *message, "message {i}");
    }
}

#[tokio::test]
async fn neighbours_are_read_by_few_requests() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let all = fill(&house, 600, 60).await;
    let octets: u64 = all.iter().map(|(extent, _)| extent.length).sum();
    read_in_order(&house, &all, 100).await;
    let gets = store.gets.load(Relaxed);
    println!("600 messages of {octets} sealed octets in 10 packs: {gets} requests");
    assert!(gets < 40, "{gets}");
    assert!(store.fetched.load(Relaxed) < octets + octets / 20, "{}", store.fetched.load(Relaxed));
}

#[tokio::test]
async fn packs_of_one_are_read_at_the_same_time() {
    let store = MemoryStore { delay: Duration::from_millis(20), ..MemoryStore::default() };
    let house = House::new(store.clone());
    let all = fill(&house, 200, 1).await;
    let start = tokio::time::Instant::now();
    read_in_order(&house, &all, 100).await;
    let took = start.elapsed();
    assert_eq!(store.gets.load(Relaxed), 200);
    assert!(took < Duration::from_millis(200 * 20 / 3), "{took:?}");
}

#[tokio::test]
async fn who_jumps_about_reads_what_is_asked_for() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let all = fill(&house, 60, 20).await;
    let mut reader = reader(&house);
    let mut at = 7;
    for step in 0..200 {
        let (extent, message) = &all[at];
        let next: Vec<_> = all[at + 1..].iter().map(|(extent, _)| *extent).collect();
        let next = if step % 3 == 0 { &[] } else { &next[..] };
        let body = reader.read(&house.key, *extent, whole(message), next).await;
        assert!(gathered(body).await.unwrap() == *message, "message {at}");
        at = if step % 4 == 0 { (at * 31 + 11) % 60 } else { (at + 1) % 60 };
    }
}

#[tokio::test]
async fn beginnings_are_read_ahead_too() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let mut all = fill(&house, 100, 50).await;
    // Beginnings of large ones, of which no more is fetched than is wanted.
    let large = noise(3 << 20, 1);
    for _ in 0..3 {
        all.push((house.store(&large).await.unwrap().extent, large.clone()));
    }
    let mut reader = reader(&house);
    for (i, (extent, message)) in all.iter().enumerate() {
        let next: Vec<_> = all[i + 1..].iter().map(|(extent, _)| *extent).collect();
        let next = if i == 0 { &[] } else { &next[..] };
        let mut body = reader.read(&house.key, *extent, Read::Head { octets: 400 }, next).await.unwrap();
        let first = body.next().await.unwrap().unwrap();
        assert!(first[..] == message[..first.len()] && first.len() >= 400, "message {i}");
    }
    let (gets, fetched) = (store.gets.load(Relaxed), store.fetched.load(Relaxed));
    assert!(gets < 30 && fetched < 3 << 20, "{gets} requests, {fetched} octets");
    // Who then wants the rest gets it.
    let (extent, message) = all.last().unwrap();
    let body = reader.read(&house.key, *extent, whole(message), &[]).await;
    assert!(gathered(body).await.unwrap() == *message);
}

#[tokio::test]
async fn what_is_damaged_on_its_way_is_read_again() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let all = fill(&house, 60, 20).await;
    let large = noise(700_000, 5);
    let extent = house.store(&large).await.unwrap().extent;
    let mut reader = reader(&house);
    for (i, (extent, message)) in all.iter().enumerate() {
        let next: Vec<_> = all[i + 1..].iter().map(|(extent, _)| *extent).collect();
        store.wrong.store(u64::from(i % 5 == 0), Relaxed);
        store.failing.fetch_add(u64::from(i % 7 == 0), Relaxed);
        let mut body = gathered(reader.read(&house.key, *extent, whole(message), &next).await).await;
        // What is wrong twice is an error, and never served.
        for _ in 0..9 {
            if body.is_ok() {
                break;
            }
            store.wrong.store(0, Relaxed);
            body = gathered(reader.read(&house.key, *extent, whole(message), &next).await).await;
        }
        assert!(body.unwrap() == *message, "message {i}");
    }
    store.failing.store(0, Relaxed);
    // In the middle of a large one as well.
    for wrong in 1..=2 {
        store.wrong.store(wrong, Relaxed);
        let body = gathered(reader.read(&house.key, extent, whole(&large), &[]).await).await;
        assert_eq!(body.is_ok(), wrong == 1, "{wrong}");
        store.wrong.store(0, Relaxed);
    }
}

#[tokio::test]
async fn without_room_nothing_is_fetched_ahead_and_all_is_read() {
    let configs = [
        PacksConfig { ahead_octets: 0, ..PacksConfig::default() },
        PacksConfig { ahead_memory_octets: 0, ..PacksConfig::default() },
        PacksConfig { ahead_requests: 1, ..PacksConfig::default() },
        PacksConfig { ahead_octets: 100_000, ahead_memory_octets: 300_000, ..PacksConfig::default() },
    ];
    for config in configs {
        let store = MemoryStore::default();
        let house = House::with(store.clone(), config);
        let all = fill(&house, 80, 10).await;
        tokio::join!(read_in_order(&house, &all, 50), read_in_order(&house, &all[5..], 50));
        // All of the room is given back.
        read_in_order(&house, &all, 50).await;
    }
}
