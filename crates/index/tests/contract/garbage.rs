//! Garbage: added up, packs that die, are rewritten, are deleted; sweeps.

use std::time::Duration;

use index::Store;
use maildrop::{
    Extent, MailboxId, PackId, StoredEntry, TenantId, Uid,
    port::{
        GARBAGE_SHARDS, HELD_MARGIN, Inspected, LiveEntry, MovedEntry, PACK_AGE_MAX, PackedEntry,
        RewrittenPack, RowOutcome, Sweep,
    },
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
    assert_eq!(store.garbage.all_tenants_forget_packs(shard(tenant), LONG, 10).await.unwrap(), 0);
    assert_eq!(store.garbage.all_tenants_forget_packs(shard(tenant), Duration::ZERO, 10).await.unwrap(), 1);
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
    // Manifests know it from before there is anything of it, and only they.
    let since = OffsetDateTime::now_utc() - time::Duration::MINUTE;
    let first = PackId::first(0, OffsetDateTime::UNIX_EPOCH);
    let committed = async || store.manifests.committed_packs(tenant, first, since, 10).await.unwrap();
    store.garbage.begin_rewriting(tenant, to.pack).await.unwrap();
    store.garbage.begin_rewriting(tenant, to.pack).await.unwrap();
    assert!(committed().await.contains(&to.pack) && committed().await.len() == 3);
    assert!(store.garbage.known_packs(tenant, &[to.pack]).await.unwrap().is_empty(), "it may be an orphan");
    let both = [one, to.pack];
    assert_eq!(store.garbage.reachable_packs(tenant, &both).await.unwrap(), [one]);
    assert_eq!(store.garbage.retarget(tenant, &to, &moved).await.unwrap(), 3);
    assert!(committed().await.contains(&to.pack) && committed().await.len() == 3);
    assert_eq!(backend.number("SELECT count(*) FROM rewritings").await, 0);
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
    let sweeps =
        async |age, pause| store.garbage.all_tenants_sweeps(shard(tenant), age, pause, 10).await.unwrap();
    let first = sweeps(DAY, DAY).await;
    assert_eq!((first.len(), first[0].tenant, first[0].at), (1, tenant, None));
    assert_eq!(first[0].from, OffsetDateTime::UNIX_EPOCH);
    let horizon = OffsetDateTime::now_utc() - DAY;
    assert!((first[0].until - horizon).abs() < time::Duration::MINUTE, "{} {horizon}", first[0].until);
    let begun = Sweep { at: Some(PackId::generate()), ..first[0] };
    store.garbage.note_sweep(&begun).await.unwrap();
    assert_eq!(sweeps(DAY, LONG).await, [begun], "it is under way");
    // A clock that was fast when it began does not let it reach further.
    assert!(sweeps(DAY * 2, DAY).await[0].until < begun.until);
    store.garbage.note_sweep(&first[0]).await.unwrap();
    assert!(sweeps(DAY, DAY).await.is_empty());
    let again = sweeps(Duration::ZERO, Duration::from_hours(23)).await;
    assert_eq!((again.len(), again[0].from, again[0].at), (1, first[0].until, None));
    assert!(delete_tenant(store, tenant).await);
    assert_eq!(backend.number("SELECT count(*) FROM pack_sweeps").await, 0);
    store.garbage.note_sweep(&begun).await.unwrap();
    assert_eq!(backend.number("SELECT count(*) FROM pack_sweeps").await, 0, "of a tenant that is gone");
}

pub(crate) async fn rows_are_not_made_for_old_packs(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let (old, uids) = pack_for(store, tenant, &[&[a], &[a]]).await;
    let aged = |age: Duration| {
        let pack = PackId::first(7, OffsetDateTime::now_utc() - age);
        let extent = Extent { pack, offset: 64, length: 100 };
        (pack, StoredEntry { extent, pack_octets: octets(1), pack_entries: 1 })
    };
    let minute = Duration::from_mins(1);
    let (_, stored) = aged(PACK_AGE_MAX + minute);
    let refused = store.index.deliver(tenant, &stored, &[message(a, 10)]).await.unwrap_err();
    assert!(
        refused.to_string().contains("too old") || format!("{refused:?}").contains("too old"),
        "{refused:?}"
    );
    let (_, stored) = aged(PACK_AGE_MAX.checked_sub(minute).unwrap());
    store.index.deliver(tenant, &stored, &[message(a, 10)]).await.unwrap();
    delete(store, tenant, a, &uids[..1], NOT_KEPT).await;
    let (_, entries) = live(store, tenant, old).await;
    let moved = [MovedEntry { from: entries[0].extent, to: 64 }];
    let (pack, _) = aged(PACK_AGE_MAX + minute);
    let to = RewrittenPack { pack, octets: octets(1), entries: 1 };
    assert!(store.garbage.retarget(tenant, &to, &moved).await.is_err());
    assert_eq!(live(store, tenant, old).await.0, 100, "it is where it was");
    assert_eq!(backend.number("SELECT count(*) FROM packs").await, 2);
}

pub(crate) async fn an_index_that_was_set_back_holds_what_it_may_have_lost(backend: &Backend) {
    let store = &backend.store;
    let [first, second, third, fourth] = [1, 2, 3, 4].map(uuid::Uuid::from_u128);
    let note = async |found: &[uuid::Uuid], next| store.garbage.note_beacon(3, found, next).await.unwrap();
    assert_eq!(note(&[], first).await, None, "all is new");
    assert_eq!(note(&[first], second).await, None);
    assert_eq!(note(&[first, second], third).await, None, "a node died before it put the first out");
    assert_eq!(note(&[second], fourth).await, None, "and another before it set the third");
    assert_eq!(note(&[second], fourth).await, None, "repeated");
    assert!(store.garbage.held_times(3).await.unwrap().is_empty());
    assert_eq!(store.garbage.note_beacon(4, &[], first).await.unwrap(), None);
    assert!(store.garbage.note_beacon(4, &[second], third).await.unwrap().is_some(), "another shard's");
    // One that it knew and has forgotten, as after a restore.
    let held = note(&[third], first).await.expect("the third is not known any more");
    let now = OffsetDateTime::now_utc();
    let (from, until) = (now - held.from - HELD_MARGIN, now - held.until + HELD_MARGIN);
    assert!(from.abs() < time::Duration::MINUTE && until.abs() < time::Duration::MINUTE, "{held:?}");
    assert_eq!(store.garbage.held_times(3).await.unwrap(), [held]);
    assert_eq!(note(&[first], second).await, None, "once");
    // A database that is all new knows nothing of whatever there is.
    let held = store.garbage.note_beacon(5, &[first], second).await.unwrap().expect("nothing is known");
    assert_eq!(held.from, OffsetDateTime::UNIX_EPOCH);
}

pub(crate) async fn a_promoted_server_is_noticed(backend: &Backend) {
    let store = &backend.store;
    let [first, second, third] = [1, 2, 3].map(uuid::Uuid::from_u128);
    assert_eq!(store.garbage.note_beacon(0, &[], first).await.unwrap(), None);
    if !backend.is_postgres() {
        return;
    }
    assert_eq!(backend.number("SELECT count(*) FROM pack_beacons WHERE timeline LIKE '00000001/%'").await, 1);
    backend.execute("UPDATE pack_beacons SET timeline = '00000007'").await;
    assert!(store.garbage.note_beacon(0, &[first], second).await.unwrap().is_some());
    assert_eq!(store.garbage.note_beacon(0, &[second], third).await.unwrap(), None, "once");
}
