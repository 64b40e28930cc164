//! What nobody asks for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use maildrop::{
    BulletinState, EntryEnvelope, Extent, FairGate, Housekeeping, HousekeepingConfig, Policy, SealedKey,
    StoredEntry, TenantId, TenantSettings, Uid,
    port::{BlobError, BlobStore, BodyStream, EntryWriter, MessageReader, Read, SealedEntry, TenantUpdate},
};

use crate::{
    backend::Backend,
    bulletins::{post, state},
    deleted::deliver_and_delete,
    directory::fill,
    fixture::*,
};

/// A store that is away, and counts how often it is asked to purge.
#[derive(Debug, Default)]
struct Away(AtomicU32);

fn away<T>() -> Result<T, BlobError> {
    Err(BlobError::Unavailable("it is away".into()))
}

#[async_trait]
impl BlobStore for Away {
    async fn new_tenant_key(&self, _: TenantId) -> Result<SealedKey, BlobError> {
        away()
    }

    async fn seal_secret(&self, _: TenantId, _: &SealedKey, _: &str, _: &[u8]) -> Result<Vec<u8>, BlobError> {
        away()
    }

    async fn open_secret(&self, _: TenantId, _: &SealedKey, _: &str, _: &[u8]) -> Result<Vec<u8>, BlobError> {
        away()
    }

    async fn purge(&self, _: TenantId) -> Result<u64, BlobError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        away()
    }

    async fn writer(
        &self,
        _: TenantId,
        _: &SealedKey,
        _: EntryEnvelope,
    ) -> Result<Box<dyn EntryWriter>, BlobError> {
        away()
    }

    async fn recall(&self, _: Vec<SealedEntry>) -> Result<Vec<Result<SealedEntry, BlobError>>, BlobError> {
        Err(BlobError::Unavailable("not asked for".into()))
    }

    async fn store_pack(&self, _: TenantId, _: Vec<SealedEntry>) -> Result<Vec<StoredEntry>, BlobError> {
        away()
    }

    async fn read(&self, _: TenantId, _: &SealedKey, _: Extent, _: Read) -> Result<BodyStream, BlobError> {
        away()
    }

    fn reader(&self, _: TenantId, _: FairGate) -> Box<dyn MessageReader> {
        Box::new(Self::default())
    }

    async fn ready(&self) -> Result<(), BlobError> {
        away()
    }
}

#[async_trait]
impl MessageReader for Away {
    async fn read(
        &mut self,
        _: &SealedKey,
        _: Extent,
        _: Read,
        _: &[Extent],
    ) -> Result<BodyStream, BlobError> {
        away()
    }
}

/// Housekeeping with a round every few milliseconds, for a store that is away.
async fn housekeeping(backend: &Backend, blob: &Arc<Away>) -> Housekeeping {
    let store = backend.store.clone();
    let blob: Arc<dyn BlobStore> = Arc::<Away>::clone(blob);
    let node = node(&store, LONG).await;
    let config = HousekeepingConfig { interval: Duration::from_millis(5), ..HousekeepingConfig::default() };
    let (directory, index, records) = (store.directory, store.index, store.records);
    let bulletins = store.bulletins;
    Housekeeping { directory, index, records, bulletins, blob, node, name: "test".into(), config }
}

pub(crate) async fn rows_of_a_deleted_mailbox_go_in_the_background(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    fill(store, one, a, 20).await;
    assert!(store.directory.delete_mailbox(one, &address("a@one.test"), &actor(), AT).await.unwrap());
    let blob = Arc::new(Away::default());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(housekeeping(backend, &blob).await.run(async {
        let _ = ended.await;
    }));
    while backend.number("SELECT count(*) FROM mailbox_deletions").await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for table in ["messages", "deleted_messages"] {
        assert_eq!(backend.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    end.send(()).unwrap();
    running.await.unwrap();
}

pub(crate) async fn a_mailbox_that_receives_and_deletes_keeps_no_more_than_its_quota(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", Some(100)).await;
    let blob = Arc::new(Away::default());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(housekeeping(backend, &blob).await.run(async {
        let _ = ended.await;
    }));
    for _ in 0..5 {
        deliver_and_delete(store, one, a, &[50, 50]).await;
    }
    while backend.number("SELECT coalesce(sum(octets), 0) FROM kept_usage").await != 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let kept = store.index.deleted_messages(one, a, Uid(0), 100).await.unwrap();
    assert_eq!(kept.iter().map(|info| info.uid.0).collect::<Vec<_>>(), [9, 10], "the last ones");
    end.send(()).unwrap();
    running.await.unwrap();
}

pub(crate) async fn a_deletion_that_fails_hurries_nothing_else(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let expires = TenantSettings {
        policy: Policy { expire_days: Some(1), ..Policy::default() },
        ..TenantSettings::default()
    };
    let update = TenantUpdate { settings: Some(expires), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &update, &actor(), AT).await.unwrap().unwrap();
    store.directory.begin_tenant_deletion(two, &actor(), AT).await.unwrap();
    deliver(store, one, a, 1).await;
    let blob = Arc::new(Away::default());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(housekeeping(backend, &blob).await.run(async {
        let _ = ended.await;
    }));
    let asked = async |more: u32| {
        let until = blob.0.load(Ordering::Relaxed) + more;
        while blob.0.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // The object store is asked at the end of each round.
    asked(1).await;
    assert!(uids(store, one, a).await.is_empty(), "the first round expires messages");
    deliver(store, one, a, 1).await;
    asked(3).await;
    assert_eq!(uids(store, one, a).await, [2], "and then none does for an hour");
    end.send(()).unwrap();
    running.await.unwrap();
}

pub(crate) async fn a_bulletin_reaches_everybody_in_the_background(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    for i in 0..1203 {
        mailbox(store, one, &format!("m{i}@one.test"), None).await;
    }
    mailbox(store, two, "a@two.test", None).await;
    let (large, small) = (post(store, one, false).await, post(store, two, false).await);
    let blob = Arc::new(Away::default());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(housekeeping(backend, &blob).await.run(async {
        let _ = ended.await;
    }));
    for (tenant, bulletin, mailboxes) in [(one, large, 1203), (two, small, 1)] {
        while state(store, tenant, bulletin).await != BulletinState::Ended {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (found, holding) = store.bulletins.bulletin(tenant, bulletin).await.unwrap().unwrap();
        assert_eq!((found.delivered, holding), (mailboxes, mailboxes));
    }
    store.bulletins.withdraw_bulletin(one, large, &actor(), AT).await.unwrap().unwrap();
    while state(store, one, large).await != BulletinState::Withdrawn {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(backend.number("SELECT count(*) FROM messages").await, 1, "the other tenant's");
    end.send(()).unwrap();
    running.await.unwrap();
}
