//! Manifests: what is due to be written, what is put back.

use std::time::Duration;

use index::Store;
use maildrop::{
    Alias, AliasAddress, MailboxId, NodeId, PackId, SealedKey, TenantId, Uid,
    port::{FoundMessage, ManifestRound, MessageRecord, REBUILD_TASK, RestoredPack, RowOutcome},
};
use time::OffsetDateTime;

use crate::{backend::Backend, fixture::*};

fn round(round: u64, full: bool) -> ManifestRound {
    let id = PackId::generate().as_uuid();
    ManifestRound { round, id, full, octets: 0, begun_at: OffsetDateTime::UNIX_EPOCH, finished: false }
}

pub(crate) async fn is_due(store: &Store, tenant: TenantId) -> bool {
    store.manifests.all_tenants_manifests_due(None, 100).await.unwrap().contains(&tenant)
}

pub(crate) async fn key_of(store: &Store, tenant: TenantId) -> SealedKey {
    store.directory.tenant(tenant).await.unwrap().unwrap().key
}

async fn due(store: &Store, tenant: TenantId) -> Vec<MailboxId> {
    store.manifests.manifest_mailboxes(tenant, false, None, 100).await.unwrap()
}

/// Writes down that all of it was written.
pub(crate) async fn save(store: &Store, tenant: TenantId, number: u64, full: bool) {
    let manifests = &store.manifests;
    let begun = round(number, full);
    manifests.begin_manifest(tenant, &begun, &key_of(store, tenant).await).await.unwrap();
    let notes: Vec<i64> =
        manifests.manifest_notes(tenant, 1000).await.unwrap().into_iter().map(|(note, _)| note).collect();
    let mailboxes = manifests.manifest_mailboxes(tenant, full, None, 1000).await.unwrap();
    let records = manifests.mailbox_records(tenant, &mailboxes).await.unwrap();
    let saved: Vec<_> = records.iter().map(|record| (record.id, record.changes)).collect();
    let finished = ManifestRound { finished: true, octets: 10, ..begun };
    manifests.finish_manifest(tenant, &finished, &saved, &notes).await.unwrap();
}

async fn messages(store: &Store, tenant: TenantId, mailbox: MailboxId) -> Vec<MessageRecord> {
    store.manifests.message_records(tenant, mailbox, Uid(0), Uid(u64::MAX >> 1), 1000).await.unwrap()
}

pub(crate) async fn what_changed_is_due_until_it_is_written(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    assert!(is_due(store, one).await && is_due(store, two).await, "there is none yet");
    save(store, one, 1, true).await;
    assert!(!is_due(store, one).await && is_due(store, two).await);
    deliver(store, one, a, 100).await;
    assert!(is_due(store, one).await);
    assert_eq!(due(store, one).await, [a]);
    // What changes while it is written is due still.
    let record = store.manifests.mailbox_records(one, &[a]).await.unwrap().remove(0);
    deliver(store, one, a, 100).await;
    let stale = ManifestRound { finished: true, ..round(2, false) };
    store.manifests.begin_manifest(one, &stale, &key_of(store, one).await).await.unwrap();
    store.manifests.finish_manifest(one, &stale, &[(a, record.changes)], &[]).await.unwrap();
    assert_eq!(due(store, one).await, [a]);
    save(store, one, 3, false).await;
    assert!(due(store, one).await.is_empty() && !is_due(store, one).await);
    // Beside the row: an alias, a new hash of the same password; and that a mailbox is gone.
    let noted = async |expected: &[MailboxId]| {
        let notes = store.manifests.manifest_notes(one, 100).await.unwrap();
        let of: Vec<_> = notes.into_iter().filter_map(|(_, mailbox)| mailbox).collect();
        assert_eq!(of, expected);
    };
    let alias = Alias {
        address: AliasAddress::try_from("c@one.test").unwrap(),
        mailbox: address("b@one.test"),
        created_at: AT,
    };
    store.directory.create_alias(one, &alias, &actor()).await.unwrap();
    noted(&[b]).await;
    assert!(is_due(store, one).await);
    save(store, one, 4, false).await;
    noted(&[]).await;
    store.directory.rehash(one, b, "$hash$1", "$hash$2").await.unwrap();
    assert!(is_due(store, one).await);
    save(store, one, 5, false).await;
    store.directory.delete_mailbox(one, &address("b@one.test"), &actor(), AT).await.unwrap();
    let notes = store.manifests.manifest_notes(one, 100).await.unwrap();
    assert!(notes.iter().any(|(_, mailbox)| *mailbox == Some(b)));
    assert!(store.manifests.mailbox_records(one, &[b]).await.unwrap().is_empty());
    // A full round makes those before it superfluous.
    save(store, one, 6, true).await;
    let rounds: Vec<u64> =
        store.manifests.manifest_rounds(one).await.unwrap().iter().map(|round| round.round).collect();
    assert_eq!(rounds, [6]);
    // One that another's full round made superfluous is not finished after it.
    let late = ManifestRound { finished: true, ..round(5, false) };
    assert!(store.manifests.finish_manifest(one, &late, &[], &[]).await.is_err());
    assert_eq!(store.manifests.manifest_rounds(one).await.unwrap().len(), 1);
    assert!(store.manifests.manifest_rounds(two).await.unwrap().is_empty());
    delete_tenant(store, one).await;
    assert_eq!(backend.number("SELECT count(*) FROM manifest_rounds").await, 0);
    let left =
        "SELECT count(*) FROM manifest_notes n WHERE n.tenant_id NOT IN (SELECT tenant_id FROM tenants)";
    assert_eq!(backend.number(left).await, 0);
}

/// Into an index of either kind.
pub(crate) async fn what_was_written_is_put_back(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", Some(5000)).await;
    let alias = Alias {
        address: AliasAddress::try_from("c@one.test").unwrap(),
        mailbox: address("a@one.test"),
        created_at: AT,
    };
    store.directory.create_alias(one, &alias, &actor()).await.unwrap();
    for octets in [100, 200, 300] {
        deliver(store, one, a, octets).await;
    }
    let (token, _) = opened(store, one, a, node(store, LONG).await).await;
    store.index.commit_update(one, a, token, &[Uid(2)], NOT_KEPT).await.unwrap();
    let record = store.manifests.tenant_record(one).await.unwrap().unwrap();
    let of_a = store.manifests.mailbox_records(one, &[a]).await.unwrap().remove(0);
    let rows = messages(store, one, a).await;
    assert_eq!(rows.iter().map(|row| row.uid).collect::<Vec<_>>(), [1, 3]);

    for other in [Backend::sqlite().await, Backend::postgres().await] {
        let to = &other.store.manifests;
        let key = SealedKey(vec![9, 9]);
        for again in [false, true] {
            let restored = to.restore_tenant(one, &key, &record).await.unwrap();
            assert_eq!((restored.added > 0, restored.taken.len()), (!again, 0));
            let restored = to.restore_mailbox(one, &of_a, Uid(50)).await.unwrap();
            assert_eq!((restored.added > 0, restored.taken.len()), (!again, 0));
            let packs: Vec<_> = rows
                .iter()
                .map(|row| RestoredPack { pack: row.extent().pack, octets: 200, entries: 2 })
                .collect();
            assert_eq!(to.restore_packs(one, &packs).await.unwrap(), if again { 0 } else { 2 });
            let restored = to.restore_messages(one, a, &rows).await.unwrap();
            assert_eq!((restored.added, restored.renumbered), (if again { 0 } else { 2 }, 0));
            to.recount(one, a).await.unwrap();
        }
        assert_eq!(messages(&other.store, one, a).await, rows);
        let mut kept = to.tenant_record(one).await.unwrap().unwrap();
        assert_eq!(kept["tenants"][0]["data_key"], "0909");
        kept.get_mut("tenants").unwrap()[0]["data_key"] = record["tenants"][0]["data_key"].clone();
        let plain = |record: &maildrop::port::Record| {
            serde_json::to_string(record).unwrap().replace('-', "").to_lowercase()
        };
        assert_eq!(plain(&kept), plain(&record));
        let account =
            other.store.directory.all_tenants_account(&address("a@one.test")).await.unwrap().unwrap();
        assert_eq!(account.password_hash.as_deref(), Some("$hash$1"));
        let found = other.store.directory.mailbox(one, &address("a@one.test")).await.unwrap().unwrap();
        assert_eq!((found.message_count, found.octets), (2, 400));
        assert_eq!(other.store.index.usage(one).await.unwrap().messages, 2);
        let resolved = other.store.directory.all_tenants_recipients(&[address("c@one.test")]).await.unwrap();
        assert_eq!(resolved[0].as_ref().unwrap().mailbox, a);
        assert_eq!(deliver(&other.store, one, a, 10).await, Uid(50), "behind what was skipped");
        // Names that somebody else has by now are told, and nothing of theirs is touched.
        let stranger = TenantId::generate();
        let restored = to.restore_tenant(stranger, &key, &record).await.unwrap();
        assert_eq!(restored.taken, ["tenants: one"]);
        assert!(to.tenant_record(stranger).await.unwrap().is_none());
        other.end().await;
    }
}

pub(crate) async fn what_an_index_that_was_set_back_gave_away_gets_new_uids(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    deliver(store, one, a, 100).await;
    let known = messages(store, one, a).await.remove(0);
    let other = MessageRecord { digest: "ab".repeat(32), ..known.clone() };
    let free = MessageRecord { uid: 7, digest: "cd".repeat(32), ..known.clone() };
    let record = store.manifests.mailbox_records(one, &[a]).await.unwrap().remove(0);
    store.manifests.restore_mailbox(one, &record, Uid(50)).await.unwrap();
    for again in [0, 1] {
        let rows = [known.clone(), other.clone(), free.clone()];
        let restored = store.manifests.restore_messages(one, a, &rows).await.unwrap();
        assert_eq!((restored.added, restored.renumbered), if again == 0 { (2, 1) } else { (0, 0) });
    }
    let uids: Vec<_> = messages(store, one, a).await.into_iter().map(|row| (row.uid, row.digest)).collect();
    assert_eq!(uids, [(1, known.digest.clone()), (7, free.digest), (50, other.digest.clone())]);
    assert_eq!(store.manifests.recount(one, a).await.unwrap(), (-2, -200));
    assert_eq!(store.manifests.recount(one, a).await.unwrap(), (0, 0));

    // Of a pack that nobody knows: once, and not what the mailbox has already.
    let pack = RestoredPack { pack: PackId::generate(), octets: 300, entries: 2 };
    let new = MessageRecord { digest: "ef".repeat(32), pack_id: pack.pack.as_uuid(), ..known.clone() };
    let found: Vec<_> = [new, other]
        .into_iter()
        .map(|row| FoundMessage { mailbox: a, row })
        .chain([FoundMessage { mailbox: MailboxId::generate(), row: known.clone() }])
        .collect();
    let restored = store.manifests.restore_found(one, &pack, &found).await.unwrap();
    assert_eq!((restored.added, restored.known), (1, 1));
    let restored = store.manifests.restore_found(one, &pack, &found).await.unwrap();
    assert_eq!((restored.added, restored.known), (0, 2));
    let there = store.directory.mailbox(one, &address("a@one.test")).await.unwrap().unwrap();
    assert_eq!((there.message_count, there.octets), (4, 400));
    // A delivery of it that was under way finds that it is done.
    let extent = maildrop::Extent { pack: pack.pack, offset: known.pack_offset as u64, length: 100 };
    let entry = maildrop::StoredEntry { extent, pack_octets: 300, pack_entries: 2 };
    let outcome = store.index.deliver(one, &entry, &[message(a, 100)]).await.unwrap();
    assert_eq!(outcome, [RowOutcome::Delivered(Uid(51))]);
    store.manifests.note_garbage(one, &[pack.pack]).await.unwrap();
    // 300 less what is around the entries, and the one that there is.
    assert_eq!(backend.number("SELECT coalesce(sum(octets), 0) FROM pack_garbage").await, 300 - 112 - 124);
}

pub(crate) async fn who_rebuilds_keeps_everybody_else_from_their_tasks(backend: &Backend) {
    let store = &backend.store;
    let (worker, rebuilder) = (NodeId::generate(), NodeId::generate());
    let take = async |task, node, ttl| store.index.take_task(task, node, ttl).await.unwrap();
    assert!(take("gc/1", worker, LONG).await);
    assert!(take(REBUILD_TASK, rebuilder, LONG).await);
    assert!(!take("gc/1", worker, LONG).await, "it does not keep it");
    assert!(!take("gc/2", worker, LONG).await);
    assert!(!take(REBUILD_TASK, worker, LONG).await);
    assert!(take(REBUILD_TASK, rebuilder, Duration::ZERO).await);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(take("gc/1", worker, LONG).await);
}
