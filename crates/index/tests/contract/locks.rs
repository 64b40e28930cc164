//! One at a time, whoever dies (P3).

use std::time::Duration;

use maildrop::{
    LockToken, Uid,
    port::{CommitOutcome, OpenOutcome, OpenRequest},
};

use crate::{backend::Backend, fixture::*};

pub(crate) async fn one_session_at_a_time(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let (a, b) =
        (mailbox(store, tenant, "a@one.test", None).await, mailbox(store, tenant, "b@one.test", None).await);
    let (first, second) = (node(store, LONG).await, node(&other, LONG).await);
    let (token, _) = opened(store, tenant, a, first).await;
    assert_eq!(open(store, tenant, a, first).await.1, OpenOutcome::InUse, "same node");
    assert_eq!(open(&other, tenant, a, second).await.1, OpenOutcome::InUse, "other node");
    opened(&other, tenant, b, second).await;
    // Somebody else's token gives nothing back.
    store.index.release(tenant, a, LockToken::generate()).await.unwrap();
    assert_eq!(open(store, tenant, a, first).await.1, OpenOutcome::InUse);
    store.index.release(tenant, a, token).await.unwrap();
    store.index.release(tenant, a, token).await.unwrap();
    opened(&other, tenant, a, second).await;
}

pub(crate) async fn a_racing_crowd_has_one_winner(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let nodes = [node(store, LONG).await, node(&other, LONG).await];
    for _ in 0..10 {
        let mut crowd = tokio::task::JoinSet::new();
        for i in 0..16 {
            let (store, node) = (if i % 2 == 0 { store.clone() } else { other.clone() }, nodes[i % 2]);
            crowd.spawn(async move { open(&store, tenant, a, node).await });
        }
        let results = crowd.join_all().await;
        let winners: Vec<_> =
            results.iter().filter(|(_, outcome)| matches!(outcome, OpenOutcome::Opened(_))).collect();
        assert_eq!(winners.len(), 1);
        assert!(results.iter().all(|(_, o)| matches!(o, OpenOutcome::Opened(_) | OpenOutcome::InUse)));
        store.index.release(tenant, a, winners[0].0).await.unwrap();
    }
}

pub(crate) async fn opening_again_with_the_token_is_the_same_lock(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let mailbox = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let token = LockToken::generate();
    // As after an answer that was lost: the request is repeated.
    let request = request(tenant, mailbox, node, token);
    for _ in 0..2 {
        assert!(matches!(store.index.open(request.clone()).await.unwrap(), OpenOutcome::Opened(_)));
    }
}

pub(crate) async fn a_stale_credential_does_not_open(backend: &Backend) {
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let mailbox = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let token = LockToken::generate();
    let stale = OpenRequest { credential_version: 0, ..request(tenant, mailbox, node, token) };
    assert_eq!(store.index.open(stale.clone()).await.unwrap(), OpenOutcome::Stale);
    // And it took no lock.
    opened(store, tenant, mailbox, node).await;
    let nobody = OpenRequest { mailbox: maildrop::MailboxId::generate(), ..stale };
    assert_eq!(store.index.open(nobody).await.unwrap(), OpenOutcome::Stale);
}

pub(crate) async fn a_dead_nodes_locks_are_taken_over(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let mailbox = mailbox(store, tenant, "a@one.test", None).await;
    let uid = deliver(store, tenant, mailbox, 10).await;
    let dying = node(store, Duration::from_millis(1000)).await;
    let living = node(&other, LONG).await;
    let (old_token, _) = opened(store, tenant, mailbox, dying).await;
    assert_eq!(open(&other, tenant, mailbox, living).await.1, OpenOutcome::InUse);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (new_token, _) = opened(&other, tenant, mailbox, living).await;
    // Fenced: the old session can neither commit nor release what is no longer its own.
    let commit = store.index.commit_update(tenant, mailbox, old_token, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    store.index.release(tenant, mailbox, old_token).await.unwrap();
    assert_eq!(uids(store, tenant, mailbox).await, [uid.0]);
    let commit = other.index.commit_update(tenant, mailbox, new_token, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 1 });
}

pub(crate) async fn a_retired_node_holds_nothing(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let mailbox = mailbox(store, tenant, "a@one.test", None).await;
    let (leaving, staying) = (node(store, LONG).await, node(&other, LONG).await);
    opened(store, tenant, mailbox, leaving).await;
    store.index.retire(leaving).await.unwrap();
    opened(&other, tenant, mailbox, staying).await;
}

pub(crate) async fn a_live_node_keeps_its_locks(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let b = mailbox(store, tenant, "b@one.test", None).await;
    let ttl = Duration::from_millis(1200);
    let (first, second) = (node(store, ttl).await, node(&other, LONG).await);
    opened(store, tenant, a, first).await;
    for _ in 0..4 {
        tokio::time::sleep(ttl / 2).await;
        store.index.heartbeat(first, "test", ttl).await.unwrap();
        assert_eq!(open(&other, tenant, a, second).await.1, OpenOutcome::InUse);
    }
    // A process that was stopped past its lease and goes on says so by itself; it does not lose its own
    // locks to itself.
    tokio::time::sleep(ttl * 2).await;
    opened(store, tenant, b, first).await;
    assert_eq!(open(store, tenant, a, first).await.1, OpenOutcome::InUse);
}

pub(crate) async fn counters_are_those_after_the_lock(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let mailbox = mailbox(store, tenant, "a@one.test", None).await;
    let (first, second) = (node(store, LONG).await, node(&other, LONG).await);
    for _ in 0..30 {
        let uid = deliver(store, tenant, mailbox, 10).await;
        let (token, opened) = opened(store, tenant, mailbox, first).await;
        assert_eq!((opened.message_count, opened.octets, opened.next_uid), (1, 10, Uid(uid.0 + 1)));
        let waiting = other.clone();
        // Tries until the lock is free: it must then see what the holder committed.
        let next = tokio::spawn(async move {
            loop {
                if let (token, OpenOutcome::Opened(opened)) = open(&waiting, tenant, mailbox, second).await {
                    return (token, opened);
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(3)).await;
        store.index.commit_update(tenant, mailbox, token, &[uid], NOT_KEPT).await.unwrap();
        let (token, opened) = next.await.unwrap();
        assert_eq!((opened.message_count, opened.octets), (0, 0));
        other.index.release(tenant, mailbox, token).await.unwrap();
    }
}
