//! What can be checked, and mended.

use maildrop::{
    Extent, PackId, TenantId, Uid,
    port::{PackFacts, RestoredPack},
};

use crate::{backend::Backend, fixture::*};

pub(crate) async fn wrong_counters_are_found_and_mended(backend: &Backend) {
    let (store, checks) = (&backend.store, &backend.store.checks);
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let mut mailboxes = Vec::new();
    for local in ["a", "b", "c"] {
        let id = mailbox(store, one, &format!("{local}@one.test"), Some(9000)).await;
        deliver(store, one, id, 100).await;
        deliver(store, one, id, 50).await;
        mailboxes.push(id);
    }
    mailboxes.sort_unstable();
    assert_eq!(checks.check_counters(one, None, 2).await.unwrap(), (Vec::new(), Some(mailboxes[1])));
    assert_eq!(checks.check_counters(one, Some(mailboxes[1]), 2).await.unwrap(), (Vec::new(), None));
    assert_eq!(checks.check_usage(one).await.unwrap(), [(3, 3), (6, 6), (450, 450), (27_000, 27_000)]);
    assert_eq!(checks.check_usage(two).await.unwrap(), [(0, 0); 4]);

    backend
        .execute("UPDATE mailboxes SET message_count = message_count + 2 WHERE address = 'a@one.test'")
        .await;
    backend.execute("UPDATE mailboxes SET octets = 1 WHERE address = 'b@one.test'").await;
    backend.execute("UPDATE mailboxes SET next_uid = 2 WHERE address = 'c@one.test'").await;
    let wrong = checks.check_counters(one, None, 10).await.unwrap().0;
    let by = |address: &str| wrong.iter().find(|wrong| wrong.address == address).unwrap().clone();
    assert_eq!(wrong.len(), 3);
    assert_eq!(by("a@one.test").messages, (4, 2));
    assert_eq!(by("b@one.test").octets, (1, 150));
    assert_eq!(by("c@one.test").next_uid, (2, 2));
    for wrong in &wrong {
        checks.mend_counters(one, wrong.mailbox).await.unwrap();
    }
    assert!(checks.check_counters(one, None, 10).await.unwrap().0.is_empty());
    assert_eq!(deliver(store, one, by("c@one.test").mailbox, 10).await, Uid(3));
    // What is counted of a tenant follows its mailboxes, whatever is wrong with these.
    assert_eq!(checks.check_usage(one).await.unwrap()[1], (7, 7));
    backend.execute("UPDATE tenant_usage SET messages = messages + 5, octets = octets - 3").await;
    let usage = checks.check_usage(one).await.unwrap();
    assert!(usage[1].0 != usage[1].1 && usage[2].0 != usage[2].1, "{usage:?}");
    checks.mend_usage(one).await.unwrap();
    let mended = [(3, 3), (7, 7), (460, 460), (27_000, 27_000)];
    assert_eq!(checks.check_usage(one).await.unwrap(), mended);
    assert_eq!(store.index.usage(one).await.unwrap().messages, 7);
}

pub(crate) async fn packs_and_what_points_at_them_are_told(backend: &Backend) {
    let (store, checks) = (&backend.store, &backend.store.checks);
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let shared = entry();
    store.index.deliver(one, &shared, &[message(a, 100), message(b, 100)]).await.unwrap();
    for _ in 0..3 {
        deliver(store, one, a, 10).await;
    }
    let empty = RestoredPack { pack: PackId::generate(), octets: 77, entries: 2 };
    store.manifests.restore_packs(one, &[empty]).await.unwrap();
    backend.execute("DELETE FROM packs WHERE octets = 200 AND pack_id IN (SELECT pack_id FROM packs WHERE octets = 200 ORDER BY pack_id DESC LIMIT 1)").await;
    let mut facts: Vec<PackFacts> = Vec::new();
    let mut after = None;
    loop {
        let (page, last) = checks.check_packs(one, after, 2).await.unwrap();
        facts.extend(page);
        after = last;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(facts.len(), 5, "each once: {facts:?}");
    assert!(facts.is_sorted_by_key(|facts| facts.pack));
    assert_eq!(facts.iter().filter(|facts| facts.octets.is_none() && facts.alive).count(), 1);
    let of_empty = facts.iter().find(|facts| facts.pack == empty.pack).unwrap();
    assert_eq!((of_empty.octets, of_empty.alive, of_empty.collected), (Some(77), false, false));
    store.manifests.note_garbage(one, &[empty.pack]).await.unwrap();
    let pointers = checks.check_pointers(one, shared.extent.pack).await.unwrap();
    assert_eq!(pointers.len(), 1);
    assert_eq!((pointers[0].extent, pointers[0].rows, pointers[0].uid), (shared.extent, 2, Uid(1)));
    assert!(pointers[0].mailbox == a || pointers[0].mailbox == b);
    assert!(checks.check_pointers(two, shared.extent.pack).await.unwrap().is_empty());
    assert!(checks.check_packs(two, None, 10).await.unwrap().0.is_empty());
    // For the scrub: of all tenants, in order.
    let none = (TenantId::from_uuid(uuid_nil()), PackId::from_uuid(uuid_nil()));
    let all = checks.all_tenants_packs(none, 100).await.unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(checks.all_tenants_packs(all[1], 1).await.unwrap(), [all[2]]);

    // Taken out, and kept.
    let elsewhere = Extent { offset: 65, ..shared.extent };
    assert_eq!(checks.quarantine(one, elsewhere, "why", AT).await.unwrap(), 0);
    assert_eq!(checks.quarantine(two, shared.extent, "why", AT).await.unwrap(), 0);
    assert_eq!(checks.quarantine(one, shared.extent, "why", AT).await.unwrap(), 2);
    assert_eq!(checks.quarantine(one, shared.extent, "why", AT).await.unwrap(), 0);
    assert_eq!(checks.quarantined(one, shared.extent.pack).await.unwrap(), [shared.extent]);
    assert!(checks.quarantined(two, shared.extent.pack).await.unwrap().is_empty());
    let (facts, _) = checks.check_packs(one, None, 100).await.unwrap();
    let of_shared = facts.iter().find(|facts| facts.pack == shared.extent.pack).unwrap();
    assert!(of_shared.alive, "it is kept");
    assert!(checks.check_pointers(one, shared.extent.pack).await.unwrap().is_empty());
    assert_eq!(uids(store, one, a).await, [2, 3, 4]);
    assert!(uids(store, one, b).await.is_empty());
    assert!(checks.check_counters(one, None, 10).await.unwrap().0.is_empty());
    assert_eq!(
        backend.number("SELECT count(*) FROM message_quarantine WHERE why = 'why' AND uid = 1").await,
        2
    );
    delete_tenant(store, one).await;
    assert_eq!(backend.number("SELECT count(*) FROM message_quarantine").await, 0);
}

fn uuid_nil() -> sqlx::types::Uuid {
    sqlx::types::Uuid::nil()
}
