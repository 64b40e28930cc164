//! What every object store must do. Each case takes a fresh, empty store.

use std::sync::Arc;

use blob::{BlobKey, LIST_PAGE, ObjectStore, collect};
use bytes::Bytes;
use futures_util::future::join_all;
use maildrop::port::BlobError;

use crate::support::noise;

/// Makes a test of each case for a store made by an expression, which gives a future of the store and of
/// something to hold meanwhile.
macro_rules! contract {
    ($store:expr) => {
        crate::contract::contract!(
            $store;
            put_then_get ranges empty_object missing_object multipart_is_what_was_sent
            unfinished_uploads_leave_nothing lists_in_order_by_pages deletes_also_what_is_not_there
            many_at_once ready large_put
        );
    };
    ($store:expr; $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _guard) = $store.await;
                crate::contract::$case(std::sync::Arc::new(store)).await;
            }
        )*
    };
}
pub(crate) use contract;

type Store = Arc<dyn ObjectStore>;

fn key(text: &str) -> BlobKey {
    BlobKey::try_from(text).unwrap()
}

async fn get(store: &Store, name: &str, range: std::ops::Range<u64>) -> Bytes {
    collect(store.get(&key(name), range).await.unwrap()).await.unwrap()
}

async fn listed(store: &Store, prefix: &str) -> Vec<String> {
    let page = store.list(prefix, None).await.unwrap();
    assert!(!page.more);
    page.objects.iter().map(|object| object.key.to_string()).collect()
}

pub(crate) async fn put_then_get(store: Store) {
    let octets = Bytes::from(noise(100_000, 1));
    store.put(&key("t/a/p/00/x"), octets.clone()).await.unwrap();
    assert_eq!(get(&store, "t/a/p/00/x", 0..100_000).await, octets);
    assert_eq!(store.size(&key("t/a/p/00/x")).await.unwrap(), Some(100_000));
    assert_eq!(listed(&store, "t/").await, ["t/a/p/00/x"]);
}

pub(crate) async fn ranges(store: Store) {
    let octets = Bytes::from(noise(1_000_000, 2));
    store.put(&key("a"), octets.clone()).await.unwrap();
    for range in [0..1, 0..10, 5..6, 999_999..1_000_000, 100..900_000, 400_000..400_001, 300..300] {
        let expected = octets.slice(range.start as usize..range.end as usize);
        assert!(get(&store, "a", range.clone()).await == expected, "{range:?}");
    }
    assert_eq!(get(&store, "a", 999_990..2_000_000).await, octets.slice(999_990..));
    assert_eq!(get(&store, "a", 1_000_000..1_000_010).await, Bytes::new());
    assert_eq!(get(&store, "a", 5_000_000..9_000_000).await, Bytes::new());
}

pub(crate) async fn empty_object(store: Store) {
    store.put(&key("empty"), Bytes::new()).await.unwrap();
    assert_eq!(get(&store, "empty", 0..10).await, Bytes::new());
    assert_eq!(store.size(&key("empty")).await.unwrap(), Some(0));
}

pub(crate) async fn missing_object(store: Store) {
    store.put(&key("dir/file"), Bytes::from_static(b"x")).await.unwrap();
    for name in ["nowhere", "no/where/at/all", "dir/fil", "dir/file/below"] {
        for range in [0..10, 3..3] {
            let got = store.get(&key(name), range).await.map(|_| ());
            assert!(matches!(got, Err(BlobError::NotFound(_))), "{name}: {got:?}");
        }
        assert_eq!(store.size(&key(name)).await.unwrap(), None);
    }
    assert_eq!(listed(&store, "nowhere/").await, [""; 0]);
}

pub(crate) async fn large_put(store: Store) {
    let octets = Bytes::from(noise(9 * 1024 * 1024, 3));
    store.put(&key("large"), octets.clone()).await.unwrap();
    assert!(get(&store, "large", 0..octets.len() as u64).await == octets);
}

pub(crate) async fn multipart_is_what_was_sent(store: Store) {
    let octets = Bytes::from(noise(12 * 1024 * 1024 + 17, 4));
    let name = key("t/a/p/01/large");
    let mut upload = store.upload(&name).await.unwrap();
    for start in (0..octets.len()).step_by(5 * 1024 * 1024) {
        upload.part(octets.slice(start..octets.len().min(start + 5 * 1024 * 1024))).await.unwrap();
        assert_eq!(store.size(&name).await.unwrap(), None, "it exists before it is complete");
    }
    upload.complete().await.unwrap();
    assert!(get(&store, name.as_str(), 0..octets.len() as u64).await == octets);
    let end = octets.len() as u64;
    assert!(get(&store, name.as_str(), 6_000_000..end + 5).await == octets.slice(6_000_000..));
}

pub(crate) async fn unfinished_uploads_leave_nothing(store: Store) {
    let part = Bytes::from(noise(5 * 1024 * 1024, 5));
    let mut aborted = store.upload(&key("x/aborted")).await.unwrap();
    aborted.part(part.clone()).await.unwrap();
    aborted.abort().await.unwrap();
    let mut dropped = store.upload(&key("x/dropped")).await.unwrap();
    dropped.part(part).await.unwrap();
    drop(dropped);
    drop(store.upload(&key("x/never-used")).await.unwrap());
    for name in ["x/aborted", "x/dropped", "x/never-used"] {
        assert_eq!(store.size(&key(name)).await.unwrap(), None);
    }
    assert_eq!(listed(&store, "").await, [""; 0]);
    // What was dropped is forgotten in the background; then there is nothing left to sweep.
    let later = time::OffsetDateTime::now_utc() + time::Duration::HOUR;
    for _ in 0..100 {
        if store.abort_leftovers("x/none-here/", later).await.unwrap() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub(crate) async fn lists_in_order_by_pages(store: Store) {
    // No segment is the beginning of another, as in our layout: SeaweedFS sorts `a/x` before `a-b/x`.
    let mut names: Vec<String> = (0..LIST_PAGE + 205)
        .map(|i| format!("t/{}/p/{:02x}/{i:05}", ["a-b", "a.b", "aab", "bbb"][i % 4], i % 7))
        .collect();
    for batch in names.chunks(64) {
        let keys: Vec<BlobKey> = batch.iter().map(|name| key(name)).collect();
        join_all(keys.iter().map(|key| store.put(key, Bytes::from_static(b"12345"))))
            .await
            .into_iter()
            .for_each(Result::unwrap);
    }
    store.put(&key("other"), Bytes::new()).await.unwrap();
    names.sort_unstable();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("t/", after.as_ref()).await.unwrap();
        assert!(page.objects.len() <= LIST_PAGE && page.objects.iter().all(|object| object.octets == 5));
        all.extend(page.objects.iter().map(|object| object.key.to_string()));
        after = page.objects.last().map(|object| object.key.clone());
        if !page.more {
            break;
        }
    }
    assert!(all == names, "{} of {}", all.len(), names.len());
    // A prefix need not end at a slash, and `after` need not exist (any more).
    let some: Vec<_> = names.iter().filter(|name| name.starts_with("t/a-b/p/0")).cloned().collect();
    assert!(listed(&store, "t/a-b/p/0").await == some);
    let from = key("t/a.b/p/03/00018");
    let page = store.list("t/", Some(&from)).await.unwrap();
    let rest: Vec<_> = names.iter().filter(|name| name.as_str() > from.as_str()).cloned().collect();
    let found: Vec<_> = page.objects.iter().map(|object| object.key.to_string()).collect();
    assert!(found == rest, "{:?} instead of {:?}", &found[..3], &rest[..3]);
}

pub(crate) async fn deletes_also_what_is_not_there(store: Store) {
    store.put(&key("d/one"), Bytes::from_static(b"1")).await.unwrap();
    store.put(&key("d/two"), Bytes::from_static(b"2")).await.unwrap();
    store.put(&key("d/three"), Bytes::from_static(b"3")).await.unwrap();
    store.delete(&[key("d/one"), key("d/never"), key("no/such"), key("d/three")]).await.unwrap();
    store.delete(&[]).await.unwrap();
    assert_eq!(listed(&store, "d/").await, ["d/two"]);
}

pub(crate) async fn many_at_once(store: Store) {
    let keys: Vec<BlobKey> = (0..200).map(|i| key(&format!("m/{:02x}/{i}", i % 16))).collect();
    let works = keys.iter().enumerate().map(|(i, key)| {
        let store = Arc::clone(&store);
        async move {
            let octets = Bytes::from(noise(1000 + i * 37, i as u64));
            store.put(key, octets.clone()).await.unwrap();
            let got = collect(store.get(key, 0..u64::from(u32::MAX)).await.unwrap()).await.unwrap();
            assert!(got == octets, "{key}");
        }
    });
    join_all(works).await;
    assert_eq!(listed(&store, "m/").await.len(), 200);
}

pub(crate) async fn ready(store: Store) {
    store.ready().await.unwrap();
}
