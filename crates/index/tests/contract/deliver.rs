//! Delivery: rows, uids and counters in one transaction (P1, P4).

use maildrop::{
    Extent, Form, MailboxId, MessageOrder, PackId, StoredEntry, Uid, UniqueId, View,
    port::{NewMessage, PackedEntry, RowOutcome},
};

use crate::{backend::Backend, deleted::DAY, fixture::*};

pub(crate) async fn rows_uids_and_counters_agree(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let (a, b) =
        (mailbox(store, tenant, "a@one.test", None).await, mailbox(store, tenant, "b@one.test", None).await);
    deliver(store, tenant, a, 5).await;
    let entry = entry();
    let new = [message(b, 20), NewMessage { delivered_to: String::new(), ..message(a, 10) }];
    let outcomes = store.index.deliver(tenant, &entry, &new).await.unwrap();
    assert_eq!(outcomes, [RowOutcome::Delivered(Uid(1)), RowOutcome::Delivered(Uid(2))]);
    let rows = store.index.messages(tenant, a, Uid(2), Uid(100), 10).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.uid, row.octets, row.header_octets), (Uid(2), 10, 10));
    assert_eq!((row.extent, row.digest, row.delivered_to.as_str()), (entry.extent, new[0].digest, ""));
    let shown = store.directory.mailbox(tenant, &address("a@one.test")).await.unwrap().unwrap();
    assert_eq!((shown.message_count, shown.octets), (2, 15));
    assert_eq!(backend.number("SELECT count(*) FROM packs").await, 2);
}

pub(crate) async fn a_repeated_delivery_changes_nothing(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let small = mailbox(store, tenant, "b@one.test", Some(5)).await;
    let (entry, new) = (entry(), [message(a, 10), message(small, 10), message(MailboxId::generate(), 10)]);
    let first = store.index.deliver(tenant, &entry, &new).await.unwrap();
    assert_eq!(first, [RowOutcome::Delivered(Uid(1)), RowOutcome::OverQuota, RowOutcome::Unknown]);
    assert_eq!(store.index.deliver(tenant, &entry, &new).await.unwrap(), first);
    assert_eq!(uids(store, tenant, a).await, [1]);
    let shown = store.directory.mailbox(tenant, &address("a@one.test")).await.unwrap().unwrap();
    assert_eq!((shown.message_count, shown.octets), (1, 10));
}

pub(crate) async fn a_pack_of_many_is_one_call(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", Some(15)).await;
    let b = mailbox(store, tenant, "b@one.test", None).await;
    let pack = PackId::generate();
    let entry = |offset, messages| PackedEntry {
        stored: StoredEntry {
            extent: Extent { pack, offset, length: 100 },
            pack_octets: 900,
            pack_entries: 4,
        },
        messages,
    };
    let entries = [
        entry(64, vec![message(a, 10)]),
        entry(164, vec![message(a, 10)]),
        entry(264, vec![message(b, 10), message(a, 5)]),
        entry(364, vec![message(b, 7)]),
    ];
    let first = store.index.deliver_pack(tenant, &entries).await.unwrap();
    let delivered = |uid| RowOutcome::Delivered(Uid(uid));
    assert_eq!(first, [delivered(1), RowOutcome::OverQuota, delivered(1), delivered(2), delivered(2)]);
    assert_eq!(store.index.deliver_pack(tenant, &entries).await.unwrap(), first);
    let rows = store.index.messages(tenant, b, Uid(1), Uid(100), 10).await.unwrap();
    let offsets: Vec<u64> = rows.iter().map(|row| row.extent.offset).collect();
    assert_eq!(offsets, [264, 364]);
    assert_eq!(backend.number("SELECT count(*) FROM packs").await, 1);
    // What no row points at is garbage from the start.
    assert_eq!(backend.number("SELECT CAST(sum(octets) AS bigint) FROM pack_garbage").await, 100);
    // Of one mailbox, one message refused and one deleted meanwhile are told apart.
    let (token, _) = opened(store, tenant, a, node(store, LONG).await).await;
    store.index.commit_update(tenant, a, token, &[Uid(1)], NOT_KEPT).await.unwrap();
    let again = store.index.deliver_pack(tenant, &entries).await.unwrap();
    assert_eq!(again[..3], [RowOutcome::DeliveredBefore, RowOutcome::OverQuota, delivered(1)]);
}

pub(crate) async fn quota_holds(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", Some(25)).await;
    deliver(store, tenant, a, 10).await;
    deliver(store, tenant, a, 15).await;
    let full = store.index.deliver(tenant, &entry(), &[message(a, 1)]).await.unwrap();
    assert_eq!(full, [RowOutcome::OverQuota]);
    assert_eq!(uids(store, tenant, a).await, [1, 2]);
    // The pack of a message that fitted nowhere is garbage from the start.
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await, 1);
    let found = store.directory.all_tenants_recipients(&[address("a@one.test")]).await.unwrap();
    assert_eq!(found[0].clone().unwrap().free_octets, Some(0));
    // Room that was made can be used again.
    let (token, _) = opened(store, tenant, a, node(store, LONG).await).await;
    store.index.commit_update(tenant, a, token, &[Uid(2)], NOT_KEPT).await.unwrap();
    assert_eq!(deliver(store, tenant, a, 15).await, Uid(3));
}

pub(crate) async fn a_mailbox_that_is_gone_is_unknown(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    store.directory.delete_mailbox(tenant, &address("a@one.test"), &actor(), AT).await.unwrap();
    let outcome = store.index.deliver(tenant, &entry(), &[message(a, 1)]).await.unwrap();
    assert_eq!(outcome, [RowOutcome::Unknown]);
}

pub(crate) async fn concurrent_deliveries_get_distinct_uids(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let mut mailboxes = Vec::new();
    for name in ["a", "b", "c"] {
        mailboxes.push(mailbox(store, tenant, &format!("{name}@one.test"), None).await);
    }
    let mut crowd = tokio::task::JoinSet::new();
    for i in 0..40_usize {
        let store = if i % 2 == 0 { store.clone() } else { other.clone() };
        // In different orders, which must not make them wait for each other.
        let mut new: Vec<_> = mailboxes.iter().map(|m| message(*m, 3)).collect();
        new.rotate_left(i % 3);
        crowd.spawn(async move { store.index.deliver(tenant, &entry(), &new).await.unwrap() });
    }
    for outcomes in crowd.join_all().await {
        assert!(outcomes.iter().all(|o| matches!(o, RowOutcome::Delivered(_))));
    }
    for mailbox in mailboxes {
        assert_eq!(uids(store, tenant, mailbox).await, (1..=40).collect::<Vec<_>>());
    }
    let shown = store.directory.mailbox(tenant, &address("b@one.test")).await.unwrap().unwrap();
    assert_eq!((shown.message_count, shown.octets), (40, 120));
}

pub(crate) async fn listings_keep_order_and_bounds(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    for octets in 1..=7 {
        deliver(store, tenant, a, octets).await;
    }
    let listing = store.index.listing(tenant, a, Uid(6), View::default()).await.unwrap();
    assert_eq!(listing.len(), 5, "what came later is not seen");
    assert_eq!(listing.octets(), 15);
    assert!((0..5).all(|i| listing.get(i).unwrap().octets == i as u64 + 1));
    let rows = store.index.messages(tenant, a, Uid(3), Uid(6), 2).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.uid.0).collect::<Vec<_>>(), [3, 4]);
}

pub(crate) async fn imported_unique_ids_are_kept(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    for name in [None, Some("first"), None, Some("second")] {
        let unique_id = name.map(|n| UniqueId::try_from(n.to_owned()).unwrap());
        store.index.deliver(tenant, &entry(), &[NewMessage { unique_id, ..message(a, 1) }]).await.unwrap();
    }
    let listing = store.index.listing(tenant, a, Uid(100), View::default()).await.unwrap();
    let unique_ids: Vec<_> = (0..4)
        .map(|i| {
            let mut text = String::new();
            listing.write_unique_id(i, &mut text);
            text
        })
        .collect();
    assert_eq!((unique_ids[1].as_str(), unique_ids[3].as_str()), ("first", "second"));
    assert!(unique_ids[0].ends_with('1') && unique_ids[2].ends_with('3'));
}

pub(crate) async fn a_repeated_delivery_of_what_was_deleted_is_no_refusal(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let (entry, new) = (entry(), [message(a, 10)]);
    store.index.deliver(tenant, &entry, &new).await.unwrap();
    let (token, _) = opened(store, tenant, a, node(store, LONG).await).await;
    store.index.commit_update(tenant, a, token, &[Uid(1)], NOT_KEPT).await.unwrap();
    // Its answer was lost, and its owner was quick.
    assert_eq!(store.index.deliver(tenant, &entry, &new).await.unwrap(), [RowOutcome::DeliveredBefore]);
    assert!(uids(store, tenant, a).await.is_empty());
}

/// A message with an 8-bit header has two lengths, whatever becomes of it.
pub(crate) async fn octets_are_those_of_the_form(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let new = [(100, None), (100, Some(30)), (100, Some(-5)), (100, Some(0))]
        .map(|(octets, extra)| NewMessage { ascii_extra: extra, ..message(a, octets) });
    for message in new {
        store.index.deliver(tenant, &entry(), &[message]).await.unwrap();
    }
    let listed = async |form| {
        let listing =
            store.index.listing(tenant, a, Uid(100), View { form, ..View::default() }).await.unwrap();
        (0..listing.len()).map(|i| listing.get(i).unwrap().octets).collect::<Vec<_>>()
    };
    assert_eq!(listed(Form::Ascii).await, [100, 100, 100, 100]);
    assert_eq!(listed(Form::Native).await, [100, 70, 105, 100]);
    let rows = store.index.messages(tenant, a, Uid(1), Uid(100), 10).await.unwrap();
    let of_rows = |form| rows.iter().map(|row| row.octets_in(form)).collect::<Vec<_>>();
    assert_eq!(of_rows(Form::Ascii), [100, 100, 100, 100]);
    assert_eq!(of_rows(Form::Native), [100, 70, 105, 100]);
    assert_eq!(
        rows.iter().map(|row| row.ascii_extra).collect::<Vec<_>>(),
        [None, Some(30), Some(-5), Some(0)]
    );
    let at = store.directory.mailbox(tenant, &address("a@one.test")).await.unwrap().unwrap();
    assert_eq!(at.octets, 400, "counters are of what most clients see");
    // Both ways out of the maildrop, and back.
    let gone = store.index.remove_messages(tenant, a, &[Uid(2)], DAY, &actor(), AT).await.unwrap();
    assert_eq!(gone, [Uid(2)]);
    let restored = store.index.restore_message(tenant, a, Uid(2), &actor(), AT).await.unwrap();
    assert_eq!(restored, RowOutcome::Delivered(Uid(5)));
    let (_, row) = store.index.message(tenant, a, Uid(5)).await.unwrap().unwrap();
    assert_eq!((row.octets, row.ascii_extra), (100, Some(30)));
    assert_eq!(listed(Form::Native).await, [100, 105, 100, 70]);
}

pub(crate) async fn views_leave_out_and_arrange(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    for (days, unique_id) in [(3, None), (1, Some("x")), (2, None), (2, Some("y")), (9, None)] {
        let received_at = AT + time::Duration::days(days);
        let unique_id = unique_id.map(|id| UniqueId::try_from(id.to_owned()).unwrap());
        let new = NewMessage { received_at, unique_id, ..message(a, days as u64) };
        store.index.deliver(tenant, &entry(), &[new]).await.unwrap();
    }
    let listed = async |before, view| {
        let listing = store.index.listing(tenant, a, Uid(before), view).await.unwrap();
        let entry = |i| {
            let (entry, mut unique_id) = (listing.get(i).unwrap(), String::new());
            listing.write_unique_id(i, &mut unique_id);
            assert_eq!(unique_id == "x", entry.uid == Uid(2), "{entry:?}");
            assert_eq!(unique_id == "y", entry.uid == Uid(4), "{entry:?}");
            entry.uid.0
        };
        (0..listing.len()).map(entry).collect::<Vec<_>>()
    };
    let all = View::default();
    let received = View { order: MessageOrder::Received, ..all };
    assert_eq!(listed(9, all).await, [1, 2, 3, 4, 5]);
    assert_eq!(listed(9, received).await, [2, 3, 4, 1, 5]);
    assert_eq!(listed(5, received).await, [2, 3, 4, 1]);
    assert_eq!(listed(9, View { last: Some(2), ..all }).await, [4, 5]);
    assert_eq!(listed(5, View { last: Some(2), ..all }).await, [3, 4]);
    assert_eq!(listed(9, View { last: Some(5), ..all }).await, [1, 2, 3, 4, 5]);
    assert_eq!(listed(9, View { last: Some(2), ..received }).await, [1, 5]);
    let since = Some(AT + time::Duration::days(2));
    assert_eq!(listed(9, View { since, ..all }).await, [1, 3, 4, 5]);
    assert_eq!(listed(5, View { since, last: Some(2), ..all }).await, [3, 4]);
    assert_eq!(listed(9, View { since, last: Some(3), ..received }).await, [4, 1, 5]);
    let later = View { since: Some(AT + time::Duration::days(10)), ..all };
    assert!(listed(9, later).await.is_empty());
}
