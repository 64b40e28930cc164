//! Manifests, and what packs say when only their ends are read.

use maildrop::{
    PackId, TenantId,
    port::{BlobError, BlobStore, ManifestPart, ManifestStore, PackStore, SealedEntry},
};

use crate::support::{House, MemoryStore, envelope, measure, noise, prose};

fn part(round: u64, nth: u32, last: bool) -> ManifestPart {
    ManifestPart { round, id: PackId::generate().as_uuid(), full: nth == 0, part: nth, last }
}

#[tokio::test]
async fn a_manifest_opens_as_what_it_is_and_nothing_else() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let (packs, tenant) = (&house.packs, house.tenant);
    let texts = [prose(5000, 1), noise(300, 2), b"{}".to_vec(), Vec::new()];
    let parts: Vec<_> = (0..).zip(&texts).map(|(nth, _)| part(7, nth, nth == 3)).collect();
    for (part, text) in parts.iter().zip(&texts) {
        packs.put_manifest(tenant, &house.key, part, text).await.unwrap();
    }
    // A pack is none, nor is a manifest a pack.
    house.store(b"Subject: x\r\n\r\n").await.unwrap();
    let mut listed = packs.list_manifests(tenant).await.unwrap();
    listed.sort_unstable_by_key(|part| part.part);
    assert_eq!(listed, parts);
    assert_eq!(packs.list_packs(tenant, None).await.unwrap().packs.len(), 1);
    for (part, text) in parts.iter().zip(&texts) {
        let (key, read) = packs.read_manifest(tenant, part).await.unwrap();
        assert!(key == house.key && read == *text);
    }
    let missing = part(8, 0, true);
    assert!(matches!(packs.read_manifest(tenant, &missing).await, Err(BlobError::NotFound(_))));
    // Another one's octets under its name, this tenant's or another's.
    let neighbour = house.neighbour();
    packs.put_manifest(neighbour.tenant, &neighbour.key, &parts[0], &texts[0]).await.unwrap();
    let name = |tenant, part| house.layout.manifest(tenant, part).as_str().to_owned();
    let octets = |name: &str| store.objects.lock().unwrap()[name].clone();
    let good = octets(&name(tenant, &parts[0]));
    for other in [name(tenant, &parts[1]), name(neighbour.tenant, &parts[0])] {
        store.replace(&name(tenant, &parts[0]), octets(&other));
        let read = packs.read_manifest(tenant, &parts[0]).await;
        assert!(matches!(read, Err(BlobError::Corrupt(_))), "{other}");
    }
    // Any octet that is not what was written.
    for i in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[i] ^= 0x20;
        store.replace(&name(tenant, &parts[0]), flipped);
        let read = packs.read_manifest(tenant, &parts[0]).await;
        assert!(matches!(read, Err(BlobError::Corrupt(_))), "octet {i}: {read:?}");
    }
    store.replace(&name(tenant, &parts[0]), good.slice(..good.len() - 1));
    assert!(packs.read_manifest(tenant, &parts[0]).await.is_err());

    let first = tenant.min(neighbour.tenant);
    let second = tenant.max(neighbour.tenant);
    assert_eq!(packs.all_tenants_next(None).await.unwrap(), Some(first));
    assert_eq!(packs.all_tenants_next(Some(first)).await.unwrap(), Some(second));
    assert_eq!(packs.all_tenants_next(Some(second)).await.unwrap(), None::<TenantId>);
    packs.delete_manifests(tenant, &parts).await.unwrap();
    assert!(packs.list_manifests(tenant).await.unwrap().is_empty());
}

/// A pack of these messages.
async fn pack_of(house: &House, messages: &[Vec<u8>]) -> PackId {
    let mut entries: Vec<SealedEntry> = Vec::new();
    for message in messages {
        let mut writer = house.packs.writer(house.tenant, &house.key, envelope()).await.unwrap();
        writer.write(message).await.unwrap();
        match writer.seal(measure(message)).await.unwrap() {
            maildrop::port::Sealed::Entry(entry) => entries.push(entry),
            maildrop::port::Sealed::Stored(stored) => return stored.extent.pack,
        }
    }
    house.packs.store_pack(house.tenant, entries).await.unwrap()[0].extent.pack
}

#[tokio::test]
async fn both_ends_of_entries_tell_what_the_whole_pack_does() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    for messages in [
        vec![prose(900, 1)],
        vec![prose(900, 1), prose(70_000, 2), Vec::new(), prose(65_536, 3)],
        vec![noise(200_000, 4), prose(500, 5), noise(300_000, 6)],
        // What shrinks to nearly nothing has far more frames than its octets would tell.
        vec![vec![b'a'; 40_000_000]],
        vec![noise(3_000_000, 7)],
    ] {
        let pack = pack_of(&house, &messages).await;
        let name = house.layout.pack(house.tenant, pack).as_str().to_owned();
        let octets = store.objects.lock().unwrap()[&name].len() as u64;
        let whole = house.packs.scan_pack(house.tenant, &house.key, pack).await.unwrap();
        let before = store.fetched.load(std::sync::atomic::Ordering::Relaxed);
        let ends = house.packs.look_into_pack(house.tenant, &house.key, pack, octets).await.unwrap();
        let fetched = store.fetched.load(std::sync::atomic::Ordering::Relaxed) - before;
        assert_eq!(ends.entries, whole.entries);
        assert!(ends.damage.is_empty() && whole.damage.is_empty());
        let measured: Vec<_> = ends.entries.iter().map(|entry| entry.measured).collect();
        assert_eq!(measured, messages.iter().map(|message| measure(message)).collect::<Vec<_>>());
        assert!(octets < 1_000_000 || fetched < 200_000, "{fetched} of {octets}");
        // Another tenant's key opens nothing of it, wherever it lies.
        let neighbour = house.neighbour();
        let theirs = house.layout.pack(neighbour.tenant, pack).as_str().to_owned();
        let copied = store.objects.lock().unwrap()[&name].clone();
        store.replace(&theirs, copied);
        let seen =
            neighbour.packs.look_into_pack(neighbour.tenant, &neighbour.key, pack, octets).await.unwrap();
        assert!(seen.entries.is_empty() && !seen.damage.is_empty());
    }
}

#[tokio::test]
async fn a_damaged_pack_is_read_whole() {
    let store = MemoryStore::default();
    let house = House::new(store.clone());
    let messages = [prose(900, 1), noise(150_000, 2), noise(150_000, 3)];
    let pack = pack_of(&house, &messages).await;
    let name = house.layout.pack(house.tenant, pack).as_str().to_owned();
    let good = store.objects.lock().unwrap()[&name].to_vec();
    // Trailer, footer, an envelope, a summary.
    let entries = house.packs.scan_pack(house.tenant, &house.key, pack).await.unwrap().entries;
    let second = entries[1].extent;
    for (at, left) in [
        (good.len() - 3, 3),
        (good.len() - 60, 3),
        (second.offset as usize + 60, 2),
        ((second.offset + second.length) as usize - 5, 2),
    ] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        store.replace(&name, flipped);
        let seen =
            house.packs.look_into_pack(house.tenant, &house.key, pack, good.len() as u64).await.unwrap();
        assert_eq!(seen.entries.len(), left, "octet {at}");
        assert!(!seen.damage.is_empty());
    }
}
