//! Bodies that break off.

use std::sync::atomic::Ordering::Relaxed;

use maildrop::port::{BlobError, Read};

use crate::support::{House, MemoryStore, measure, noise};

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_did() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    for (octets, cut) in [(3000, 1000), (200_000, 70_000), (6_000_000, 900_001), (6_000_000, 1_000_000)] {
        let message = noise(octets, 1);
        let stored = house.store(&message).await.unwrap();
        store.cut_after.store(cut, Relaxed);
        store.fetched.store(0, Relaxed);
        house.check_served(stored.extent, &message).await;
        assert_eq!(store.fetched.load(Relaxed), stored.extent.length, "nothing is fetched twice");
        store.cut_after.store(0, Relaxed);
    }
}

#[tokio::test]
async fn a_server_that_always_cuts_is_given_up() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let message = noise(100_000, 2);
    let stored = house.store(&message).await.unwrap();
    store.cut_after.store(100, Relaxed);
    store.gets.store(0, Relaxed);
    let (out, result) = house.served(stored.extent, measure(&message)).await;
    assert!(matches!(result, Err(BlobError::Unavailable(_))), "{result:?}");
    assert!(out.is_empty());
    assert_eq!(store.gets.load(Relaxed), 4);
    let head = house.open(stored.extent, Read::Head { octets: 10 }).await.map(|_| ());
    assert!(matches!(head, Err(BlobError::Unavailable(_))), "{head:?}");
}
