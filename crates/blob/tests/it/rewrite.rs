//! Entries are copied into new packs as they are, and a damaged one is never lost sight of.

use std::sync::atomic::Ordering;

use maildrop::{
    EntryEnvelope, Extent, MailboxId, PackId, Uid,
    port::{BlobError, BlobStore, LiveEntry, PackStore, Sealed, SealedEntry},
};
use time::OffsetDateTime;

use crate::support::{House, MemoryStore, envelope, measure, prose};

/// A pack of these messages.
async fn pack_of(house: &House, messages: &[Vec<u8>]) -> Vec<LiveEntry> {
    let mut sealed: Vec<SealedEntry> = Vec::new();
    for message in messages {
        let envelope: EntryEnvelope = envelope();
        let mut writer = house.packs.writer(house.tenant, &house.key, envelope).await.unwrap();
        writer.write(message).await.unwrap();
        match writer.seal(measure(message)).await.unwrap() {
            Sealed::Entry(entry) => sealed.push(entry),
            Sealed::Stored(_) => panic!("a small message was stored alone"),
        }
    }
    let stored = house.packs.store_pack(house.tenant, sealed).await.unwrap();
    let mailbox = MailboxId::generate();
    let live = |(stored, message): (&maildrop::StoredEntry, &Vec<u8>)| LiveEntry {
        extent: stored.extent,
        digest: measure(message).digest,
        mailbox,
        uid: Uid(stored.extent.offset),
        rows: 1,
    };
    stored.iter().zip(messages).map(live).collect()
}

fn messages(seed: u64) -> Vec<Vec<u8>> {
    (0..5).map(|nth| prose(700 + 30_000 * nth as usize, seed + nth)).collect()
}

#[tokio::test]
async fn what_is_left_of_packs_is_put_together_by_mailbox() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let (first, second) = (messages(1), messages(10));
    let (one, two) = (pack_of(&house, &first).await, pack_of(&house, &second).await);
    // In whatever order they are named.
    let live = vec![two[4], one[3], two[0], one[1]];
    let rewritten = house.packs.rewrite(house.tenant, &house.key, live, PackId::generate()).await.unwrap();
    let pack = rewritten.pack.unwrap();
    assert!(rewritten.damaged.is_empty());
    assert_eq!(pack.entries, 4);
    let of = |entry: &LiveEntry| {
        let moved = rewritten.moved.iter().find(|moved| moved.from == entry.extent).unwrap();
        Extent { pack: pack.pack, offset: moved.to, length: entry.extent.length }
    };
    for (entry, message) in
        [(one[1], &first[1]), (one[3], &first[3]), (two[0], &second[0]), (two[4], &second[4])]
    {
        house.check_served(of(&entry), message).await;
    }
    // Beside each other are those of a mailbox, in their order.
    let mut order = [one[1], one[3], two[0], two[4]];
    order.sort_by_key(|entry| (entry.mailbox, entry.uid));
    assert!(order.windows(2).all(|pair| of(&pair[0]).offset < of(&pair[1]).offset));
    let page = house.packs.list_packs(house.tenant, None).await.unwrap();
    assert_eq!((page.packs.len(), page.more), (3, false));
    assert!(page.packs.contains(&(pack.pack, pack.octets)));
    // The object is as any pack: without an index it says the same.
    let mut entries = 0;
    let each = |item| match item {
        blob::ScanItem::Entry(_) => entries += 1,
        blob::ScanItem::Damage(damage) => panic!("{damage:?}"),
    };
    house.packs.scan(house.tenant, &house.key, pack.pack, each).await.unwrap();
    assert_eq!(entries, 4);
    let old = [one[0].extent.pack, two[0].extent.pack];
    for _ in 0..2 {
        house.packs.delete_packs(house.tenant, &old).await.unwrap();
    }
    assert_eq!(house.packs.list_packs(house.tenant, None).await.unwrap().packs.len(), 1);
}

#[tokio::test]
async fn a_beacon_is_set_before_the_last_one_is_put_out() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let [first, second, third] = [1, 2, 3].map(uuid::Uuid::from_u128);
    assert!(house.packs.beacons(3).await.unwrap().is_empty());
    house.packs.set_beacon(3, first, &[]).await.unwrap();
    house.packs.set_beacon(4, third, &[]).await.unwrap();
    assert_eq!(house.packs.beacons(3).await.unwrap(), [first]);
    house.packs.set_beacon(3, second, &[first]).await.unwrap();
    assert_eq!(house.packs.beacons(3).await.unwrap(), [second]);
    // Where it cannot be set, the last one is there.
    *store.write_error.lock().unwrap() = Some(BlobError::Unavailable);
    assert!(house.packs.set_beacon(3, third, &[second]).await.is_err());
    assert_eq!(house.packs.beacons(3).await.unwrap(), [second]);
    assert_eq!(house.packs.beacons(4).await.unwrap(), [third]);
}

#[tokio::test]
async fn a_damaged_entry_keeps_its_pack_and_no_other() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let (first, second) = (messages(1), messages(10));
    let one = pack_of(&house, &first).await;
    let (key, whole) = store.only_object();
    let two = pack_of(&house, &second).await;
    let live = || one[1..].iter().chain(&two[2..]).copied().collect::<Vec<_>>();
    let damaged_at = one[2].extent;
    let last = damaged_at.offset + damaged_at.length - 1;
    for at in [damaged_at.offset, damaged_at.offset + 5, damaged_at.offset + 60, last] {
        let mut octets = whole.to_vec();
        octets[at as usize] ^= 1;
        store.replace(&key, octets);
        let rewritten =
            house.packs.rewrite(house.tenant, &house.key, live(), PackId::generate()).await.unwrap();
        assert_eq!(rewritten.damaged.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [damaged_at]);
        assert!(rewritten.moved.iter().all(|moved| moved.from.pack == two[0].extent.pack));
        assert_eq!(rewritten.moved.len(), 3);
    }
    // One that is whole, and not the message of its row.
    store.replace(&key, whole.to_vec());
    let mut wrong = live();
    wrong[0].digest = one[0].digest;
    let rewritten = house.packs.rewrite(house.tenant, &house.key, wrong, PackId::generate()).await.unwrap();
    assert_eq!((rewritten.damaged.len(), rewritten.moved.len()), (1, 3));
    // An object that is cut short, or gone.
    store.replace(&key, whole.slice(..whole.len() / 2));
    let rewritten = house.packs.rewrite(house.tenant, &house.key, live(), PackId::generate()).await.unwrap();
    assert!(!rewritten.damaged.is_empty());
    assert_eq!(rewritten.moved.len(), 3);
    house.packs.delete_packs(house.tenant, &[one[0].extent.pack]).await.unwrap();
    let rewritten =
        house.packs.rewrite(house.tenant, &house.key, one[1..].to_vec(), PackId::generate()).await.unwrap();
    assert_eq!((rewritten.damaged.len(), rewritten.pack), (4, None));
}

#[tokio::test]
async fn what_was_damaged_on_its_way_is_read_again() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let messages = messages(1);
    let live = pack_of(&house, &messages).await;
    store.wrong.store(1, Ordering::Relaxed);
    let rewritten =
        house.packs.rewrite(house.tenant, &house.key, live.clone(), PackId::generate()).await.unwrap();
    assert_eq!((rewritten.damaged.len(), rewritten.moved.len()), (0, live.len()));
    let pack = rewritten.pack.unwrap().pack;
    for (moved, message) in rewritten.moved.iter().zip(&messages) {
        let extent = Extent { pack, offset: moved.to, length: moved.from.length };
        house.check_served(extent, message).await;
    }
}

#[tokio::test]
async fn another_tenants_entries_are_not_copied() {
    let house = House::new(MemoryStore::default());
    let live = pack_of(&house, &messages(1)).await;
    let neighbour = house.neighbour();
    let rewritten = neighbour
        .packs
        .rewrite(neighbour.tenant, &neighbour.key, live.clone(), PackId::generate())
        .await
        .unwrap();
    assert_eq!((rewritten.pack, rewritten.damaged.len()), (None, 5), "they are not where its own lie");
    let page =
        neighbour.packs.list_packs(neighbour.tenant, Some(PackId::first(0, OffsetDateTime::UNIX_EPOCH)));
    assert!(page.await.unwrap().packs.is_empty());
}

#[tokio::test]
async fn a_store_that_is_away_is_no_damage() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let live = pack_of(&house, &messages(1)).await;
    store.failing.store(1000, Ordering::Relaxed);
    let error = house.packs.rewrite(house.tenant, &house.key, live, PackId::generate()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}
