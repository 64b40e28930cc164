//! UPDATE: what was asked for goes, nothing else (P2).

use maildrop::{
    TenantId, Uid,
    port::{CommitOutcome, OpenOutcome},
};

use crate::{backend::Backend, fixture::*};

pub(crate) async fn deletes_and_gives_the_lock_back(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let (a, b) =
        (mailbox(store, tenant, "a@one.test", None).await, mailbox(store, tenant, "b@one.test", None).await);
    let node = node(store, LONG).await;
    for octets in [10, 20, 30] {
        deliver(store, tenant, a, octets).await;
        deliver(store, tenant, b, octets).await;
    }
    let (token, before) = opened(store, tenant, a, node).await;
    assert_eq!((before.message_count, before.octets, before.next_uid), (3, 60, Uid(4)));
    let commit = store.index.commit_update(tenant, a, token, &[Uid(1), Uid(3)], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 2 });
    let (_, after) = opened(store, tenant, a, node).await;
    assert_eq!((after.message_count, after.octets, after.next_uid), (1, 20, Uid(4)), "uids are not reused");
    assert_eq!(uids(store, tenant, a).await, [2]);
    assert_eq!(uids(store, tenant, b).await, [1, 2, 3], "the same uids of another mailbox");
    // The next message gets a uid of its own.
    assert_eq!(deliver(store, tenant, a, 1).await, Uid(4));
}

pub(crate) async fn a_lost_lock_deletes_nothing(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let uid = deliver(store, tenant, a, 10).await;
    let (token, _) = opened(store, tenant, a, node).await;
    store.index.release(tenant, a, token).await.unwrap();
    let commit = store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    // Nor while somebody else holds it, nor twice with a token that was good once.
    let (other, _) = opened(store, tenant, a, node).await;
    let commit = store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    assert_eq!(uids(store, tenant, a).await, [uid.0]);
    assert_eq!(open(store, tenant, a, node).await.1, OpenOutcome::InUse, "the other's lock is untouched");
    store.index.commit_update(tenant, a, other, &[uid], NOT_KEPT).await.unwrap();
    let commit = store.index.commit_update(tenant, a, other, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
}

pub(crate) async fn what_vanished_is_not_counted_twice(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let uid = deliver(store, tenant, a, 10).await;
    deliver(store, tenant, a, 5).await;
    let (token, _) = opened(store, tenant, a, node).await;
    let deleted = [uid, Uid(99)];
    let commit = store.index.commit_update(tenant, a, token, &deleted, NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 1 });
    let (_, after) = opened(store, tenant, a, node).await;
    assert_eq!((after.message_count, after.octets), (1, 5));
}

pub(crate) async fn another_tenants_token_is_no_good(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, two, "b@two.test", None).await;
    let node = node(store, LONG).await;
    let uid = deliver(store, one, a, 10).await;
    deliver(store, two, b, 10).await;
    let (token, _) = opened(store, one, a, node).await;
    let (other, _) = opened(store, two, b, node).await;
    for (tenant, mailbox, token) in [(one, a, other), (two, a, token), (two, b, token), (one, b, other)] {
        let commit = store.index.commit_update(tenant, mailbox, token, &[uid], NOT_KEPT).await.unwrap();
        assert_eq!(commit, CommitOutcome::LockLost);
    }
    assert_eq!((uids(store, one, a).await.len(), uids(store, two, b).await.len()), (1, 1));
    assert!(uids(store, two, a).await.is_empty(), "a mailbox is nobody's under another tenant");
}

pub(crate) async fn garbage_is_recorded(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let uid = deliver(store, tenant, a, 10).await;
    deliver(store, tenant, a, 10).await;
    let (token, _) = opened(store, tenant, a, node).await;
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 0);
    store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 1);
    assert_eq!(backend.number("SELECT sum(octets) FROM pack_garbage").await, 100);
    store.directory.delete_mailbox(tenant, &address("a@one.test"), &actor(), AT).await.unwrap();
    assert!(!store.directory.continue_mailbox_deletion(tenant, a, 9).await.unwrap());
    assert_eq!(backend.number("SELECT sum(octets) FROM pack_garbage").await, 200);
}

pub(crate) async fn what_is_left_can_be_asked(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let uid = deliver(store, tenant, a, 10).await;
    assert!(store.index.any_left(tenant, a, &[Uid(9), uid]).await.unwrap());
    assert!(!store.index.any_left(tenant, a, &[Uid(9)]).await.unwrap());
    assert!(!store.index.any_left(TenantId::generate(), a, &[uid]).await.unwrap());
}
