//! Sealed keys: counted by master key, exchanged, followed by manifests.

use std::time::Duration;

use index::Store;
use maildrop::{
    MasterKeyId, NodeId, SealedKey, Tenant, TenantId,
    port::{ClusterSecret, KeyCount},
};

use crate::{
    backend::Backend,
    fixture::*,
    manifests::{is_due, key_of, save},
};

fn sealed(master: u8, key: u8) -> SealedKey {
    SealedKey([&[1, 1][..], &[master; 8], &[key; 60]].concat())
}

fn id(master: u8) -> MasterKeyId {
    MasterKeyId::from_octets([master; 8])
}

async fn tenant_under(store: &Store, name: &str, key: &SealedKey) -> TenantId {
    let tenant = Tenant { key: key.clone(), ..new_tenant(name) };
    store.directory.create_tenant(&tenant, &actor()).await.unwrap();
    tenant.id
}

async fn counts(store: &Store) -> Vec<(MasterKeyId, u64)> {
    let counts = store.keys.all_tenants_key_counts().await.unwrap();
    counts.into_iter().map(|KeyCount { key, tenants }| (key, tenants)).collect()
}

pub(crate) async fn sealed_keys_are_exchanged_once(backend: &Backend) {
    let store = &backend.store;
    assert_eq!(counts(store).await, []);
    let mut old = Vec::new();
    for n in 0..5 {
        old.push(tenant_under(store, &format!("old{n}"), &sealed(7, n)).await);
    }
    let new = tenant_under(store, "new", &sealed(8, 1)).await;
    assert_eq!(counts(store).await, [(id(7), 5), (id(8), 1)]);
    let left = async |after| {
        let left = store.keys.all_tenants_keys_not_under(id(8), after, 3).await.unwrap();
        left.into_iter().map(|(tenant, _)| tenant).collect::<Vec<_>>()
    };
    old.sort_unstable();
    assert_eq!(left(None).await, old[..3]);
    assert_eq!(left(Some(old[2])).await, old[3..]);
    // Only what is still as it was is exchanged, and of this tenant alone.
    let (first, from, to) = (old[0], key_of(store, old[0]).await, sealed(8, 9));
    assert!(!store.keys.exchange_key(first, &sealed(7, 99), &to).await.unwrap());
    assert!(!store.keys.exchange_key(new, &from, &to).await.unwrap());
    assert!(store.keys.exchange_key(first, &from, &to).await.unwrap());
    assert!(!store.keys.exchange_key(first, &from, &to).await.unwrap());
    assert_eq!(key_of(store, first).await, to);
    let revision = store.directory.tenant(first).await.unwrap().unwrap().revision;
    assert_eq!(revision, 1, "whoever is logged in stays so");
    assert_eq!(counts(store).await, [(id(7), 4), (id(8), 2)]);
    // A tenant that is being deleted has no key any more, and gets none.
    let (second, from) = (old[1], key_of(store, old[1]).await);
    assert!(store.directory.begin_tenant_deletion(second, &actor(), AT).await.unwrap());
    assert!(!store.keys.exchange_key(second, &from, &to).await.unwrap());
    assert!(!store.keys.exchange_key(second, &SealedKey(Vec::new()), &to).await.unwrap());
    assert_eq!(counts(store).await, [(id(7), 3), (id(8), 2)]);
    // One that is no key counts by itself, and is found.
    let broken = tenant_under(store, "broken", &SealedKey(vec![1, 2, 3])).await;
    assert_eq!(counts(store).await[0], (id(0), 1));
    let left = store.keys.all_tenants_keys_not_under(id(8), None, 100).await.unwrap();
    assert!(left.len() == 4 && left.iter().any(|(tenant, _)| *tenant == broken), "{left:?}");
}

pub(crate) async fn cluster_secrets_are_kept(backend: &Backend) {
    let (keys, other) = (&backend.store.keys, backend.second().await.keys);
    assert_eq!(keys.cluster_secret_if_any(ClusterSecret::Decoys).await.unwrap(), None);
    assert_eq!(keys.cluster_secret(ClusterSecret::Decoys, &sealed(7, 1)).await.unwrap(), sealed(7, 1));
    // The first is everybody's.
    assert_eq!(other.cluster_secret(ClusterSecret::Decoys, &sealed(7, 2)).await.unwrap(), sealed(7, 1));
    assert_eq!(other.cluster_secret_if_any(ClusterSecret::Tickets).await.unwrap(), None);
    let exchange =
        async |from, to| keys.exchange_cluster_secret(ClusterSecret::Decoys, &from, &to).await.unwrap();
    assert!(!exchange(sealed(7, 2), sealed(8, 1)).await);
    assert!(exchange(sealed(7, 1), sealed(8, 1)).await);
    assert_eq!(other.cluster_secret_if_any(ClusterSecret::Decoys).await.unwrap(), Some(sealed(8, 1)));
    // Which master key is expected.
    assert_eq!(backend.store.index.key_check(b"first").await.unwrap(), b"first");
    keys.set_key_check(b"second").await.unwrap();
    assert_eq!(backend.store.index.key_check(b"first").await.unwrap(), b"second");
}

pub(crate) async fn nodes_say_what_they_open(backend: &Backend) {
    let store = &backend.store;
    let (told, silent) = (NodeId::generate(), NodeId::generate());
    let without = async |key: u8| store.keys.nodes_without(id(key)).await.unwrap();
    assert_eq!(without(7).await, Vec::<String>::new());
    store.keys.note_opens(told, &[id(7), id(8)]).await.unwrap();
    store.index.heartbeat(told, "told", LONG).await.unwrap();
    assert_eq!(without(8).await, Vec::<String>::new());
    if !backend.is_postgres() {
        // Whoever asks is the only node there is.
        return;
    }
    assert_eq!(without(9).await, ["told"]);
    store.index.heartbeat(silent, "silent", LONG).await.unwrap();
    assert_eq!(without(8).await, ["silent"]);
    store.keys.note_opens(told, &[id(9)]).await.unwrap();
    assert_eq!(without(8).await, ["silent", "told"]);
    // Those that are gone are not waited for.
    store.index.retire(told).await.unwrap();
    store.index.heartbeat(silent, "silent", Duration::ZERO).await.unwrap();
    assert_eq!(without(8).await, Vec::<String>::new());
}

/// When a sealed key was exchanged, the next round of manifests is a full one under the new key.
pub(crate) async fn manifests_follow_the_key(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant_under(store, "one", &sealed(7, 1)).await;
    let outdated = async || {
        let of_tenant = store.manifests.is_manifest_key_outdated(tenant).await.unwrap();
        assert_eq!(store.keys.all_tenants_outdated_manifests().await.unwrap(), u64::from(of_tenant));
        of_tenant
    };
    let exchange = async |from, to| assert!(store.keys.exchange_key(tenant, &from, &to).await.unwrap());
    assert!(!outdated().await);
    save(store, tenant, 1, true).await;
    save(store, tenant, 2, false).await;
    assert!(!outdated().await && !is_due(store, tenant).await);
    exchange(sealed(7, 1), sealed(8, 1)).await;
    assert!(outdated().await && is_due(store, tenant).await);
    // Changes alone do not do it.
    save(store, tenant, 3, false).await;
    assert!(outdated().await && is_due(store, tenant).await);
    save(store, tenant, 4, true).await;
    assert!(!outdated().await && !is_due(store, tenant).await);
    // A round that read the key before it was exchanged is under the old one, whenever it is begun.
    let before = key_of(store, tenant).await;
    exchange(sealed(8, 1), sealed(9, 1)).await;
    let late = maildrop::port::ManifestRound {
        round: 5,
        id: maildrop::PackId::generate().as_uuid(),
        full: true,
        octets: 1,
        begun_at: AT,
        finished: false,
    };
    store.manifests.begin_manifest(tenant, &late, &before).await.unwrap();
    let late = maildrop::port::ManifestRound { finished: true, ..late };
    store.manifests.finish_manifest(tenant, &late, &[], &[]).await.unwrap();
    assert!(outdated().await && is_due(store, tenant).await);
    save(store, tenant, 6, true).await;
    assert!(!outdated().await && !is_due(store, tenant).await);
    // Nothing of it is left of a tenant that is gone.
    assert!(delete_tenant(store, tenant).await);
    assert_eq!(backend.number("SELECT count(*) FROM tenant_key_changes").await, 0);
}
