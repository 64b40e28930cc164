//! What comes in takes up bounded room: memory, then a file, then it waits (P6).

use std::{sync::Arc, time::Duration};

use blob::PacksConfig;
use maildrop::port::{BlobStore, Sealed, SealedEntry, SealedOctets};
use tokio::time::timeout;

use crate::support::{House, MemoryStore, envelope, measure, noise};

const KIB: usize = 1024;

fn config(spool: Option<(std::path::PathBuf, u64)>) -> PacksConfig {
    PacksConfig { solo_octets: 256 * KIB, memory_octets: 512 * KIB, spool, ..PacksConfig::default() }
}

async fn seal(house: &House, message: &[u8]) -> SealedEntry {
    let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
    writer.write(message).await.unwrap();
    match writer.seal(measure(message)).await.unwrap() {
        Sealed::Entry(entry) => entry,
        Sealed::Stored(stored) => panic!("stored by itself: {stored:?}"),
    }
}

#[tokio::test]
async fn many_messages_are_one_object() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let messages: Vec<_> = (0..20).map(|i| noise(100 + 4000 * i, i as u64)).collect();
    let mut entries = Vec::new();
    for message in &messages {
        entries.push(seal(&house, message).await);
    }
    let stored = house.packs.store_pack(house.tenant, entries).await.unwrap();
    let (_, pack) = store.only_object();
    for (stored, message) in stored.iter().zip(&messages) {
        assert_eq!((stored.pack_entries, stored.pack_octets), (20, pack.len() as u64));
        house.check_served(stored.extent, message).await;
    }
    assert_eq!(house.packs.memory_free(), 64 * KIB * KIB);
}

#[tokio::test]
async fn past_its_memory_messages_go_to_a_file_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let house = House::with(store.clone(), config(Some((dir.path().to_owned(), 8 << 20))));
    let messages: Vec<_> = (0..12).map(|i| noise(200 * KIB, i)).collect();
    let mut entries = Vec::new();
    for message in &messages {
        entries.push(seal(&house, message).await);
    }
    let spooled = entries.iter().filter(|e| matches!(e.octets, SealedOctets::File { .. })).count();
    assert!((9..12).contains(&spooled), "{spooled}");
    // Nothing of a message can be read there, and no name leads to it.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    for entry in &entries {
        if let SealedOctets::File { file, octets } = &entry.octets {
            use std::os::unix::fs::FileExt as _;
            let mut all = vec![0; usize::try_from(*octets).unwrap()];
            file.read_exact_at(&mut all, 0).unwrap();
            assert!(messages.iter().all(|m| !all.windows(32).any(|window| window == &m[..32])));
        }
    }
    let stored = house.packs.store_pack(house.tenant, entries).await.unwrap();
    for (stored, message) in stored.iter().zip(&messages) {
        house.check_served(stored.extent, message).await;
    }
    assert_eq!(house.packs.memory_free(), 512 * KIB);
}

#[tokio::test]
async fn the_end_of_a_message_does_not_wait_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::with(MemoryStore::default(), config(Some((dir.path().to_owned(), 400 * KIB as u64))));
    let _memory = [seal(&house, &noise(240 * KIB, 1)).await, seal(&house, &noise(240 * KIB, 2)).await];
    let message = noise(150 * KIB, 3);
    let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
    writer.write(&message).await.unwrap();
    writer.room(0).await.unwrap();
    // Others take the rest of the file's room, and the overdraft.
    let _spooled = seal(&house, &noise(150 * KIB, 4)).await;
    let _over = seal(&house, &noise(150 * KIB, 5)).await;
    let sealed = timeout(Duration::from_secs(1), writer.seal(measure(&message))).await;
    let Ok(Ok(Sealed::Entry(entry))) = sealed else { panic!("it waits: {sealed:?}") };
    let entries = house.packs.recall(vec![entry]).await.unwrap();
    let entries = entries.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let stored = house.packs.store_pack(house.tenant, entries).await.unwrap();
    house.check_served(stored[0].extent, &message).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_the_loss_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::with(MemoryStore::default(), config(Some((dir.path().to_owned(), 8 << 20))));
    let messages: Vec<_> = (0..5).map(|i| noise(200 * KIB, i)).collect();
    let mut entries = Vec::new();
    for message in &messages {
        entries.push(seal(&house, message).await);
    }
    let SealedOctets::File { file, .. } = &entries[3].octets else { panic!("{:?}", entries[3]) };
    file.set_len(1000).unwrap();
    let recalled = house.packs.recall(entries).await.unwrap();
    assert_eq!(recalled.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false, true]);
    let kept: Vec<_> = recalled.into_iter().flatten().collect();
    let stored = house.packs.store_pack(house.tenant, kept).await.unwrap();
    for (stored, at) in stored.iter().zip([0, 1, 2, 4]) {
        house.check_served(stored.extent, &messages[at]).await;
    }
    assert_eq!(house.packs.memory_free(), 512 * KIB);
}

#[tokio::test]
async fn where_there_is_no_room_messages_wait_for_those_in_front() {
    for spool in [None, Some(("/nowhere/at/all".into(), 8 << 20))] {
        let house = House::with(MemoryStore::default(), config(spool));
        let held = [seal(&house, &noise(240 * KIB, 1)).await, seal(&house, &noise(240 * KIB, 2)).await];
        // One may go on without room, so that not all of them wait for one another.
        let over = seal(&house, &noise(100 * KIB, 3)).await;
        let mut waiting = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
        let room = timeout(Duration::from_millis(100), waiting.room(100 * KIB)).await;
        assert!(room.is_err(), "there is room: {room:?}");
        house.packs.store_pack(house.tenant, held.into()).await.unwrap();
        waiting.room(100 * KIB).await.unwrap();
        drop((over, waiting));
        assert_eq!(house.packs.memory_free(), 512 * KIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_fills_the_room_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    for spool in [None, Some((dir.path().to_owned(), 300 * KIB as u64))] {
        let house = Arc::new(House::with(MemoryStore::default(), config(spool)));
        let mut crowd = tokio::task::JoinSet::new();
        for i in 0..40 {
            let house = Arc::clone(&house);
            crowd.spawn(async move {
                let message = noise(180 * KIB, i);
                let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
                for piece in message.chunks(20 * KIB) {
                    writer.write(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                let stored = writer.finish(measure(&message)).await.unwrap();
                house.check_served(stored.extent, &message).await;
            });
        }
        let all = async { while crowd.join_next().await.transpose().unwrap().is_some() {} };
        timeout(Duration::from_secs(30), all).await.expect("nobody waits for ever");
        assert_eq!(house.packs.memory_free(), 512 * KIB);
    }
}

#[tokio::test]
async fn a_message_that_outgrows_a_pack_while_it_is_spooled_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::with(MemoryStore::default(), config(Some((dir.path().to_owned(), 8 << 20))));
    let _held = [seal(&house, &noise(240 * KIB, 1)).await, seal(&house, &noise(240 * KIB, 2)).await];
    for octets in [250 * KIB, 257 * KIB, 400 * KIB, 9 << 20] {
        let message = noise(octets, 3);
        let stored = house.store(&message).await.unwrap();
        house.check_served(stored.extent, &message).await;
    }
}

#[tokio::test]
async fn what_fits_into_a_part_takes_one_request() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let stored = house.store(&noise(7 << 20, 1)).await.unwrap();
    assert_eq!(store.begun.load(std::sync::atomic::Ordering::Relaxed), 0);
    house.check_served(stored.extent, &noise(7 << 20, 1)).await;
    house.store(&noise(9 << 20, 1)).await.unwrap();
    assert_eq!(store.begun.load(std::sync::atomic::Ordering::Relaxed), 1);
}
