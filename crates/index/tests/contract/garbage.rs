//! Garbage: added up, packs that die, are rewritten, are deleted; sweeps.

use std::time::Duration;

use index::Store;
use maildrop::{
    Extent, MailboxId, PackId, StoredEntry, TenantId, Uid,
    port::{GARBAGE_SHARDS, Inspected, LiveEntry, MovedEntry, PackedEntry, RewrittenPack, RowOutcome, Sweep},
};
use time::OffsetDateTime;

use crate::{backend::Backend, deleted::DAY, fixture::*};

fn shard(tenant: TenantId) -> u8 {
    tenant.as_uuid().as_bytes()[15] % GARBAGE_SHARDS
}

/// Octets of a pack of `entries` of 100 each.
fn octets(entries: u64) -> u64 {
    64 + 100 * entries + 8 + 24 * entries + 40
}

/// A pack with an entry of 100 octets for each of these; gives the uids.
async fn pack_for(store: &Store, tenant: TenantId, to: &[&[MailboxId]]) -> (PackId, Vec<Uid>) {
    let pack = PackId::generate();
    let entries: Vec<PackedEntry> = (0..)
        .zip(to)
        .map(|(nth, mailboxes)| PackedEntry {
            stored: StoredEntry {
                extent: Extent { pack, offset: 64 + 100 * nth, length: 100 },
                pack_octets: octets(to.len() as u64),
                pack_entries: to.len() as u32,
            },
            messages: mailboxes.iter().map(|mailbox| message(*mailbox, 10)).collect(),
        })
        .collect();
    let outcomes = store.index.deliver_pack(tenant, &entries).await.unwrap();
    let uid = |outcome| match outcome {
        RowOutcome::Delivered(uid) => uid,
        other => panic!("{other:?}"),
    };
    (pack, outcomes.into_iter().map(uid).collect())
}

async fn delete(store: &Store, tenant: TenantId, mailbox: MailboxId, uids: &[Uid], kept: Duration) {
    let (token, _) = opened(store, tenant, mailbox, node(store, LONG).await).await;
    store.index.commit_update(tenant, mailbox, token, uids, kept).await.unwrap();
}

async fn due(store: &Store, tenant: TenantId) -> Vec<PackId> {
    while store.garbage.all_tenants_fold(shard(tenant), 0.5, 3).await.unwrap() == 3 {}
    let due = store.garbage.all_tenants_due(shard(tenant), None, 100).await.unwrap();
    due.into_iter().map(|(_, pack)| pack).collect()
}

async fn live(store: &Store, tenant: TenantId, pack: PackId) -> (u64, Vec<LiveEntry>) {
    match store.garbage.inspect(tenant, pack).await.unwrap() {
        Inspected::Live { live_octets, entries, .. } => (live_octets, entries),
        other => panic!("{other:?}"),
    }
}

async fn condemned(store: &Store, tenant: TenantId, grace: Duration) -> Vec<PackId> {
    let all = store.garbage.all_tenants_condemned(shard(tenant), grace, 100).await.unwrap();
    all.into_iter().map(|(_, pack, _)| pack).collect()
}

pub(crate) async fn dead_packs_go_in_steps(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let (pack, uids) = pack_for(store, tenant, &[&[a], &[a], &[a], &[a], &[a]]).await;
    assert_eq!(store.garbage.all_tenants_oldest_garbage(shard(tenant)).await.unwrap(), None);
    delete(store, tenant, a, &uids[..1], NOT_KEPT).await;
    assert!(store.garbage.all_tenants_oldest_garbage(shard(tenant)).await.unwrap().is_some());
    let other = (shard(tenant) + 1) % GARBAGE_SHARDS;
    assert_eq!(store.garbage.all_tenants_fold(other, 0.5, 100).await.unwrap(), 0, "another's work");
    assert!(due(store, tenant).await.is_empty(), "most of it is left");
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 0);
    delete(store, tenant, a, &uids[1..4], NOT_KEPT).await;
    assert_eq!(due(store, tenant).await, [pack]);
    let (left, entries) = live(store, tenant, pack).await;
    assert_eq!((left, entries.len(), entries[0].extent.offset, entries[0].uid), (100, 1, 464, uids[4]));
    store.garbage.settle(tenant, pack, left).await.unwrap();
    assert!(due(store, tenant).await.is_empty(), "it was looked at");
    // What can be restored is alive.
    delete(store, tenant, a, &uids[4..], DAY).await;
    assert!(due(store, tenant).await.is_empty());
    let restored = store.index.restore_message(tenant, a, uids[4], &actor(), AT).await.unwrap();
    let RowOutcome::Delivered(restored) = restored else { panic!("{restored:?}") };
    delete(store, tenant, a, &[restored], NOT_KEPT).await;
    assert_eq!(due(store, tenant).await, [pack]);
    assert_eq!(store.garbage.inspect(tenant, pack).await.unwrap(), Inspected::Dead);
    assert!(due(store, tenant).await.is_empty());
    assert!(condemned(store, tenant, LONG).await.is_empty(), "readers have time");
    assert_eq!(condemned(store, tenant, Duration::ZERO).await, [pack]);
    assert_eq!(condemned(store, tenant, Duration::ZERO).await, [pack], "until that is noted");
    assert_eq!(store.garbage.known_packs(tenant, &[pack, PackId::generate()]).await.unwrap(), [pack]);
    store.garbage.note_deleted(tenant, &[pack]).await.unwrap();
    assert!(condemned(store, tenant, Duration::ZERO).await.is_empty());
    assert!(store.garbage.known_packs(tenant, &[pack]).await.unwrap().is_empty());
    // A delivery that is repeated late does not point at what is gone.
    let again = PackedEntry {
        stored: StoredEntry {
            extent: Extent { pack, offset: 64, length: 100 },
            pack_octets: octets(5),
            pack_entries: 5,
        },
        messages: vec![message(a, 10)],
    };
    let again = store.index.deliver_pack(tenant, &[again]).await.unwrap();
    assert_eq!(again, [RowOutcome::DeliveredBefore]);
    let now = OffsetDateTime::now_utc();
    let hour = time::Duration::HOUR;
    assert_eq!(store.garbage.all_tenants_forget_packs(shard(tenant), now - hour, 10).await.unwrap(), 0);
    assert_eq!(store.garbage.all_tenants_forget_packs(shard(tenant), now + hour, 10).await.unwrap(), 1);
    for table in ["packs", "garbage_packs", "pack_refusals"] {
        assert_eq!(backend.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(store.garbage.all_tenants_oldest_garbage(shard(tenant)).await.unwrap(), None);
}

pub(crate) async fn what_something_points_at_again_is_not_deleted(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let (pack, uids) = pack_for(store, tenant, &[&[a]]).await;
    let b = mailbox(store, tenant, "b@one.test", None).await;
    let (other, of_other) = pack_for(store, tenant, &[&[b]]).await;
    delete(store, tenant, a, &uids, NOT_KEPT).await;
    assert_eq!(due(store, tenant).await, [pack]);
    assert_eq!(store.garbage.inspect(tenant, pack).await.unwrap(), Inspected::Dead);
    // As a transaction does that was under way.
    let sql = format!(
        "UPDATE messages SET pack_id = (SELECT pack_id FROM garbage_packs) WHERE uid = {}",
        of_other[0].0
    );
    backend.execute(&sql).await;
    assert!(condemned(store, tenant, Duration::ZERO).await.is_empty());
    assert_eq!(due(store, tenant).await, [pack], "it is looked at again");
    let (_, entries) = live(store, tenant, pack).await;
    assert!(entries.is_empty(), "a pack of one entry is not rewritten");
    assert_ne!(pack, other);
}

pub(crate) async fn rows_follow_what_is_rewritten(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let b = mailbox(store, tenant, "b@one.test", None).await;
    // Uids of a: 1 to 5, 6; of b: 1 to 5.
    let (one, uids) = pack_for(store, tenant, &[&[a], &[a], &[a, b], &[a]]).await;
    let (two, more) = pack_for(store, tenant, &[&[b], &[b], &[a], &[b], &[b]]).await;
    delete(store, tenant, a, &[uids[0], uids[1]], NOT_KEPT).await;
    delete(store, tenant, a, &[uids[4]], DAY).await;
    delete(store, tenant, b, &[more[0], more[1], more[3], more[4]], NOT_KEPT).await;
    // Of the first one more than half is left.
    assert_eq!(due(store, tenant).await, [two]);
    let (_, first) = live(store, tenant, one).await;
    let (_, second) = live(store, tenant, two).await;
    assert_eq!(first.iter().map(|e| (e.extent.offset, e.rows)).collect::<Vec<_>>(), [(264, 2), (364, 1)]);
    assert_eq!(second.len(), 1);
    let moved: Vec<MovedEntry> = (0..)
        .zip(second.iter().chain(&first))
        .map(|(nth, entry)| MovedEntry { from: entry.extent, to: 64 + 100 * nth })
        .collect();
    // One of them goes while it is copied.
    delete(store, tenant, a, &more[2..3], NOT_KEPT).await;
    let to = RewrittenPack { pack: PackId::generate(), octets: octets(3), entries: 3 };
    assert_eq!(store.garbage.retarget(tenant, &to, &moved).await.unwrap(), 3);
    assert_eq!(store.garbage.retarget(tenant, &to, &moved).await.unwrap(), 0, "it was done before");
    let rows = store.index.messages(tenant, b, Uid(1), Uid(100), 10).await.unwrap();
    let shared = Extent { pack: to.pack, offset: 164, length: 100 };
    assert_eq!(rows.iter().map(|row| row.extent).collect::<Vec<_>>(), [shared]);
    // What vanished is garbage of the new pack.
    assert!(due(store, tenant).await.is_empty(), "two thirds of it are left");
    assert_eq!(backend.number("SELECT max(dead_octets) FROM garbage_packs WHERE dead_at IS NULL").await, 100);
    let mut dead = condemned(store, tenant, Duration::ZERO).await;
    dead.sort_unstable();
    let mut old = [one, two];
    old.sort_unstable();
    assert_eq!(dead, old);
    // What was deleted before it moved can be restored from there.
    let outcome = store.index.restore_message(tenant, a, uids[4], &actor(), AT).await.unwrap();
    let RowOutcome::Delivered(uid) = outcome else { panic!("{outcome:?}") };
    let (_, row) = store.index.message(tenant, a, uid).await.unwrap().unwrap();
    assert_eq!(row.extent, Extent { pack: to.pack, offset: 264, length: 100 });
}

pub(crate) async fn sweeps_are_due_once_a_day(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let until = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let sweeps = async |before| store.garbage.all_tenants_sweeps(shard(tenant), before, 10).await.unwrap();
    let first = Sweep { tenant, from: OffsetDateTime::UNIX_EPOCH, until: None, at: None };
    assert_eq!(sweeps(until).await, [first]);
    let begun = Sweep { until: Some(until), at: Some(PackId::generate()), ..first };
    store.garbage.note_sweep(&begun).await.unwrap();
    assert_eq!(sweeps(OffsetDateTime::UNIX_EPOCH).await, [begun], "it is under way");
    store.garbage.note_sweep(&Sweep { from: until, until: None, at: None, ..first }).await.unwrap();
    assert!(sweeps(until).await.is_empty());
    assert_eq!(sweeps(until + time::Duration::DAY).await.len(), 1);
    assert!(delete_tenant(store, tenant).await);
    assert_eq!(backend.number("SELECT count(*) FROM pack_sweeps").await, 0);
    store.garbage.note_sweep(&begun).await.unwrap();
    assert_eq!(backend.number("SELECT count(*) FROM pack_sweeps").await, 0, "of a tenant that is gone");
}
