//! Deleted messages: kept, restored, expired, forgotten.

use std::time::Duration;

use index::Store;
use maildrop::{
    MailboxId, MailboxSettings, Policy, TenantId, TenantSettings, Uid,
    port::{CommitOutcome, KeptMore, MailboxUpdate, NewMessage, RowOutcome, TenantUpdate},
};
use time::OffsetDateTime;

use crate::{backend::Backend, fixture::*};

pub(crate) const DAY: Duration = Duration::from_hours(24);

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

/// Delivers messages of so many octets, and deletes each at once; they are kept for a day.
pub(crate) async fn deliver_and_delete(store: &Store, tenant: TenantId, mailbox: MailboxId, octets: &[u64]) {
    for octets in octets {
        let uid = deliver(store, tenant, mailbox, *octets).await;
        let gone = store.index.remove_messages(tenant, mailbox, &[uid], DAY, &actor(), AT).await.unwrap();
        assert_eq!(gone, [uid]);
    }
}

async fn kept(store: &Store, tenant: TenantId, mailbox: MailboxId) -> Vec<u64> {
    let kept = store.index.deleted_messages(tenant, mailbox, Uid(0), 100).await.unwrap();
    kept.iter().map(|info| info.uid.0).collect()
}

pub(crate) async fn what_is_kept_of_a_mailbox_is_bounded_by_its_quota(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", Some(100)).await;
    let free = mailbox(store, one, "free@one.test", None).await;
    let look = async |after, limit| store.index.all_tenants_kept_more(after, limit).await.unwrap();
    let bound =
        async |mailbox, limit| store.index.bound_kept(one, mailbox, limit, &actor(), AT).await.unwrap();
    assert_eq!(look(None, 9).await, KeptMore::default());
    deliver_and_delete(store, one, a, &[60, 40]).await;
    deliver_and_delete(store, one, free, &[1000, 1000]).await;
    let first = look(None, 1).await;
    assert_eq!((first.looked_at, first.over.len()), (1, 0), "in steps");
    let second = look(first.last, 1).await;
    assert_eq!((second.looked_at, second.over.len()), (1, 0));
    assert!(first.last < second.last, "{first:?}, {second:?}");
    assert_eq!(look(second.last, 1).await, KeptMore::default());
    assert_eq!(look(None, 9).await.looked_at, 0, "each is looked at once");
    assert_eq!((bound(a, 9).await, bound(free, 9).await), (0, 0), "it keeps what it may hold");
    deliver_and_delete(store, one, a, &[30, 70, 20]).await;
    let over = KeptMore { looked_at: 1, last: Some((one, a)), over: vec![(one, a)] };
    assert_eq!(look(None, 9).await, over);
    assert_eq!(look(None, 9).await, over, "until it is within its bounds");
    assert_eq!(look(over.last, 9).await, KeptMore::default());
    // 220 octets are kept: those deleted first go first, and no more than must.
    assert_eq!((bound(a, 2).await, kept(store, one, a).await), (2, vec![3, 4, 5]));
    assert_eq!((bound(a, 9).await, kept(store, one, a).await), (1, vec![4, 5]));
    assert_eq!(bound(a, 9).await, 0);
    assert_eq!(look(None, 9).await, KeptMore { over: vec![], ..over });
    assert_eq!(look(None, 9).await, KeptMore::default());
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 3);
    let forgotten =
        "SELECT count(*) FROM audit_log WHERE action = 'message.forget' AND target = 'a@one.test'";
    assert_eq!(backend.number(forgotten).await, 2, "each step is told");
    assert_eq!(kept(store, one, free).await, [1, 2], "without a quota there is no such bound");
    // Nothing of it stands in the way of mail.
    deliver(store, one, a, 100).await;
    let restored = store.index.restore_message(one, a, Uid(5), &actor(), AT).await.unwrap();
    assert_eq!(restored, RowOutcome::OverQuota);
    // Messages have a quota, too.
    let few = MailboxUpdate {
        settings: Some(MailboxSettings { quota_messages: Some(1), ..MailboxSettings::default() }),
        ..MailboxUpdate::default()
    };
    store.directory.update_mailbox(one, &address("a@one.test"), &few, &actor(), AT).await.unwrap();
    assert_eq!((bound(a, 9).await, kept(store, one, a).await), (1, vec![5]));
    let two = tenant(store, "two").await;
    assert_eq!(store.index.bound_kept(two, a, 9, &actor(), AT).await.unwrap(), 0);
}

pub(crate) async fn what_is_kept_of_a_tenant_is_bounded_by_its_quota(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let pool = TenantUpdate {
        settings: Some(TenantSettings { quota_octets: Some(100), ..TenantSettings::default() }),
        ..TenantUpdate::default()
    };
    store.directory.update_tenant(one, &pool, &actor(), AT).await.unwrap().unwrap();
    deliver_and_delete(store, one, a, &[30]).await;
    deliver_and_delete(store, one, b, &[50, 50, 10]).await;
    let more = store.index.all_tenants_kept_more(None, 9).await.unwrap();
    assert_eq!(more.looked_at, 2);
    assert!(more.over.contains(&(one, b)), "{more:?}");
    // 140 octets are kept. Whichever mailbox was looked at, the one that keeps most gives way.
    assert_eq!(store.index.bound_kept(one, a, 9, &actor(), AT).await.unwrap(), 1);
    assert_eq!(store.index.bound_kept(one, a, 9, &actor(), AT).await.unwrap(), 0);
    assert_eq!((kept(store, one, a).await, kept(store, one, b).await), (vec![1], vec![2, 3]));
}

pub(crate) async fn what_is_kept_is_counted_to_the_end(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let counted = async || {
        let of = async |column: &str| {
            backend.number(&format!("SELECT coalesce(sum({column}), 0) FROM kept_usage")).await
        };
        (of("messages").await, of("octets").await)
    };
    deliver_and_delete(store, one, a, &[10, 20]).await;
    deliver_and_delete(store, one, b, &[40]).await;
    assert_eq!(counted().await, (3, 70));
    store.index.restore_message(one, a, Uid(1), &actor(), AT).await.unwrap();
    assert_eq!(counted().await, (2, 60));
    // Several mailboxes at once, and one of them to its last message.
    deliver_and_delete(store, one, a, &[5]).await;
    let gone = deliver(store, one, a, 7).await;
    let instant = Duration::from_micros(1);
    store.index.remove_messages(one, a, &[gone], instant, &actor(), AT).await.unwrap();
    let gone = deliver(store, one, b, 7).await;
    store.index.remove_messages(one, b, &[gone], instant, &actor(), AT).await.unwrap();
    assert_eq!(counted().await, (5, 79));
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(store.index.all_tenants_purge_deleted(9).await.unwrap(), 2);
    assert_eq!(counted().await, (3, 65));
    store.directory.delete_mailbox(one, &address("b@one.test"), &actor(), AT).await.unwrap();
    assert!(!store.directory.continue_mailbox_deletion(one, b, 9).await.unwrap());
    assert_eq!(counted().await, (2, 25));
    assert_eq!(
        backend.number("SELECT count(*) FROM kept_usage").await,
        1,
        "where nothing is kept, there is no row"
    );
    delete_tenant(store, one).await;
    assert_eq!(backend.number("SELECT count(*) FROM kept_usage").await, 0);
}
