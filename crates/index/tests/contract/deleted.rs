//! Deleted messages: kept, restored, expired, forgotten.

use std::time::Duration;

use maildrop::{
    MailboxSettings, Policy, TenantSettings, Uid,
    port::{CommitOutcome, MailboxUpdate, NewMessage, RowOutcome, TenantUpdate},
};
use time::OffsetDateTime;

use crate::{backend::Backend, fixture::*};

const DAY: Duration = Duration::from_hours(24);

pub(crate) async fn what_is_kept_can_be_restored(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    for octets in [10, 20, 30] {
        deliver(store, one, a, octets).await;
    }
    let node = node(store, LONG).await;
    let (token, _) = opened(store, one, a, node).await;
    let commit = store.index.commit_update(one, a, token, &[Uid(1), Uid(2)], DAY).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 2 });
    assert_eq!(uids(store, one, a).await, [3]);
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 0, "the packs are still needed");
    let deleted = store.index.deleted_messages(one, a, Uid(0), 10).await.unwrap();
    assert_eq!(deleted.iter().map(|info| info.uid.0).collect::<Vec<_>>(), [1, 2]);
    assert!(deleted[0].restorable_until > deleted[0].deleted_at);
    let restore = async |uid| store.index.restore_message(one, a, Uid(uid), &actor(), AT).await.unwrap();
    assert_eq!(restore(2).await, RowOutcome::Delivered(Uid(4)), "under a new uid");
    assert_eq!(restore(2).await, RowOutcome::Unknown);
    assert_eq!(restore(3).await, RowOutcome::Unknown, "it is not deleted");
    assert_eq!(uids(store, one, a).await, [3, 4]);
    let infos = store.index.message_infos(one, a, Uid(0), 10).await.unwrap();
    assert_eq!(infos.iter().map(|info| (info.uid.0, info.octets)).collect::<Vec<_>>(), [(3, 30), (4, 20)]);
    assert_ne!(infos[1].unique_id, deleted[1].unique_id, "a unique-id never comes back");
    let at = address("a@one.test");
    let counted = store.directory.mailbox(one, &at).await.unwrap().unwrap();
    assert_eq!((counted.message_count, counted.octets), (2, 50));
    let tight = MailboxUpdate {
        settings: Some(MailboxSettings { quota_octets: Some(55), ..MailboxSettings::default() }),
        ..MailboxUpdate::default()
    };
    store.directory.update_mailbox(one, &at, &tight, &actor(), AT).await.unwrap();
    assert_eq!(restore(1).await, RowOutcome::OverQuota);
    let two = tenant(store, "two").await;
    let foreign = store.index.restore_message(two, a, Uid(1), &actor(), AT).await.unwrap();
    assert_eq!(foreign, RowOutcome::Unknown);
    assert!(store.index.deleted_messages(two, a, Uid(0), 10).await.unwrap().is_empty());
    assert_eq!(backend.number("SELECT count(*) FROM audit_log WHERE action = 'message.restore'").await, 1);
}

pub(crate) async fn what_is_not_kept_is_garbage(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    deliver(store, one, a, 10).await;
    deliver(store, one, a, 10).await;
    let remove = async |uid, kept| {
        store.index.remove_messages(one, a, &[Uid(uid), Uid(99)], kept, &actor(), AT).await.unwrap()
    };
    assert_eq!(remove(1, NOT_KEPT).await, [Uid(1)]);
    assert!(remove(1, NOT_KEPT).await.is_empty());
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 1);
    assert_eq!(remove(2, Duration::from_millis(50)).await, [Uid(2)]);
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(store.index.deleted_messages(one, a, Uid(0), 10).await.unwrap().is_empty());
    assert_eq!(store.index.all_tenants_purge_deleted(10).await.unwrap(), 1);
    assert_eq!(store.index.all_tenants_purge_deleted(10).await.unwrap(), 0);
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 2);
    assert_eq!(backend.number("SELECT count(*) FROM deleted_messages").await, 0);
    // Each removal is in the audit log, with the messages it took; one that found none is not.
    assert_eq!(backend.number("SELECT count(*) FROM audit_log WHERE action = 'message.delete'").await, 2);
    let at = store.directory.mailbox(one, &address("a@one.test")).await.unwrap().unwrap();
    assert_eq!((at.message_count, at.octets), (0, 0));
}

pub(crate) async fn old_messages_expire(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let now = OffsetDateTime::now_utc();
    for (mailbox, days) in [(a, 40), (a, 35), (a, 1), (b, 40)] {
        let message = NewMessage { received_at: now - time::Duration::days(days), ..message(mailbox, 10) };
        store.index.deliver(one, &entry(), &[message]).await.unwrap();
    }
    let expiring = async || store.index.all_tenants_expiring(None, 10).await.unwrap();
    assert!(expiring().await.is_empty(), "without a rule nothing expires");
    let rule = MailboxUpdate {
        settings: Some(MailboxSettings {
            policy: Policy { expire_days: Some(30), undelete_days: Some(1), ..Policy::default() },
            ..MailboxSettings::default()
        }),
        ..MailboxUpdate::default()
    };
    store.directory.update_mailbox(one, &address("a@one.test"), &rule, &actor(), AT).await.unwrap();
    assert_eq!(expiring().await, [(one, a)]);
    let expire = async |limit| store.index.expire_messages(one, a, limit, &actor(), now).await.unwrap();
    let none = store.index.expire_messages(one, b, 10, &actor(), now).await.unwrap();
    assert_eq!(none, 0, "a mailbox without a rule loses nothing");
    assert_eq!((expire(1).await, expire(10).await, expire(10).await), (1, 1, 0));
    assert_eq!((uids(store, one, a).await, uids(store, one, b).await), (vec![3], vec![1]));
    assert_eq!(backend.number("SELECT count(*) FROM audit_log WHERE action = 'message.expire'").await, 2);
    assert_eq!(store.index.deleted_messages(one, a, Uid(0), 10).await.unwrap().len(), 2);
    let settings = TenantSettings {
        policy: Policy { expire_days: Some(365), ..Policy::default() },
        ..TenantSettings::default()
    };
    let rule = TenantUpdate { settings: Some(settings), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &rule, &actor(), AT).await.unwrap();
    assert_eq!(expiring().await, [(one, a), (one, b)]);
    assert_eq!(store.index.all_tenants_expiring(Some((one, a)), 10).await.unwrap(), [(one, b)]);
    let young = store.index.expire_messages(one, b, 10, &actor(), now).await.unwrap();
    assert_eq!(young, 0, "a year has not passed");
}

pub(crate) async fn one_message_is_found_with_its_row(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    deliver(store, one, a, 10).await;
    deliver(store, one, a, 20).await;
    let (info, row) = store.index.message(one, a, Uid(2)).await.unwrap().unwrap();
    assert_eq!((info.uid, row.uid, info.octets, row.octets), (Uid(2), Uid(2), 20, 20));
    assert!(store.index.message(one, a, Uid(3)).await.unwrap().is_none());
    assert!(store.index.message(two, a, Uid(2)).await.unwrap().is_none());
    assert!(store.index.message_infos(two, a, Uid(0), 10).await.unwrap().is_empty());
    let taken = store.index.remove_messages(two, a, &[Uid(1)], NOT_KEPT, &actor(), AT).await.unwrap();
    assert!(taken.is_empty());
    assert_eq!(uids(store, one, a).await, [1, 2]);
}
