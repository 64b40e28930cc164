//! A client that fell silent, and comes back (P3).

use maildrop::{
    Credential, CredentialId, LockToken, MailboxId, NodeId, TenantId,
    port::{CommitOutcome, OpenOutcome, OpenRequest, Opened},
};

use crate::{backend::Backend, fixture::*};

const BY_PASSWORD: Credential = Credential::Password;

fn taken_over(outcome: &OpenOutcome) -> Option<bool> {
    match outcome {
        OpenOutcome::Opened(Opened { taken_over, .. }) => Some(*taken_over),
        _ => None,
    }
}

pub(crate) async fn a_silent_clients_lock_is_taken_over(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let uid = deliver(store, tenant, a, 10).await;
    let (first, second) = (node(store, LONG).await, node(&other, LONG).await);
    let (old, opened) = opened(store, tenant, a, first).await;
    assert!(!opened.taken_over);
    let note =
        async |token, silent| store.index.note_silence(tenant, a, token, BY_PASSWORD, silent).await.unwrap();
    // Heard again before anybody came: it goes on as if nothing had been.
    assert!(note(old, true).await && note(old, true).await && note(old, false).await);
    assert_eq!(open(&other, tenant, a, second).await.1, OpenOutcome::InUse);
    assert!(note(old, true).await);
    let token = LockToken::generate();
    let again = request(tenant, a, second, token);
    assert_eq!(taken_over(&other.index.open(again.clone()).await.unwrap()), Some(true));
    assert!(
        taken_over(&other.index.open(again.clone()).await.unwrap()).is_some(),
        "asked again, as after a lost answer"
    );
    // Fenced: it cannot note, commit or release what is no longer its own.
    assert!(!note(old, true).await && !note(old, false).await);
    let commit = store.index.commit_update(tenant, a, old, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    store.index.release(tenant, a, old).await.unwrap();
    assert_eq!(
        open(store, tenant, a, first).await.1,
        OpenOutcome::InUse,
        "what was noted of one counts for it"
    );
    let sessions = store.index.sessions(Some(tenant), None, 10).await.unwrap();
    assert_eq!(sessions.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), [again.session]);
    let commit = other.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 1 });
    assert_eq!(taken_over(&open(store, tenant, a, first).await.1), Some(false));
}

pub(crate) async fn only_the_same_credential_takes_over(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let app = Credential::App(CredentialId::generate());
    let with = |credential| OpenRequest { credential, ..request(one, a, node, LockToken::generate()) };
    let holder = with(app);
    assert!(taken_over(&store.index.open(holder.clone()).await.unwrap()).is_some());
    let two = tenant(store, "two").await;
    assert!(!store.index.note_silence(two, a, holder.token, app, true).await.unwrap(), "of another tenant");
    assert!(store.index.note_silence(one, a, holder.token, app, true).await.unwrap());
    for other in [BY_PASSWORD, Credential::Certificate, Credential::App(CredentialId::generate())] {
        assert_eq!(store.index.open(with(other)).await.unwrap(), OpenOutcome::InUse, "{other:?}");
    }
    // One whose version is an old one is not the same, and costs the holder nothing.
    let stale = OpenRequest { credential_version: 0, ..with(app) };
    assert_eq!(store.index.open(stale).await.unwrap(), OpenOutcome::Stale);
    assert!(store.index.note_silence(one, a, holder.token, app, true).await.unwrap(), "still held");
    // It is one session after, as it was one before.
    let limited = OpenRequest { sessions_max: Some(1), ..with(app) };
    assert_eq!(taken_over(&store.index.open(limited).await.unwrap()), Some(true));
}

pub(crate) async fn of_a_crowd_one_takes_over(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let nodes = [node(store, LONG).await, node(&other, LONG).await];
    for _ in 0..10 {
        let (old, _) = opened(store, tenant, a, nodes[0]).await;
        assert!(store.index.note_silence(tenant, a, old, BY_PASSWORD, true).await.unwrap());
        let mut crowd = tokio::task::JoinSet::new();
        for i in 0..16 {
            let (store, node) = (if i % 2 == 0 { store.clone() } else { other.clone() }, nodes[i % 2]);
            crowd.spawn(async move { open(&store, tenant, a, node).await });
        }
        let results = crowd.join_all().await;
        let winners: Vec<_> = results.iter().filter(|(_, o)| taken_over(o).is_some()).collect();
        assert_eq!(winners.len(), 1);
        store.index.release(tenant, a, winners[0].0).await.unwrap();
    }
}

/// A commit and a taking over at the very same moment: one of them wins, and whoever comes sees which.
pub(crate) async fn a_commit_and_a_taking_over_exclude_each_other(backend: &Backend) {
    let (store, other) = (&backend.store, backend.second().await);
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let (first, second) = (node(store, LONG).await, node(&other, LONG).await);
    let (mut committed, mut lost) = (0, 0);
    for round in 0..60 {
        let uid = deliver(store, tenant, a, 10).await;
        let (old, _) = opened(store, tenant, a, first).await;
        assert!(store.index.note_silence(tenant, a, old, BY_PASSWORD, true).await.unwrap());
        let (of_commit, of_comer) = (store.clone(), other.clone());
        let commit = tokio::spawn(async move {
            if round % 3 == 1 {
                tokio::task::yield_now().await;
            }
            of_commit.index.commit_update(tenant, a, old, &[uid], NOT_KEPT).await.unwrap()
        });
        let comer = tokio::spawn(comes(of_comer, tenant, a, second, round % 3 == 0));
        let (commit, (token, opened)) = (commit.await.unwrap(), comer.await.unwrap());
        if commit == CommitOutcome::LockLost {
            lost += 1;
            assert_eq!((opened.message_count, opened.taken_over), (1, true), "nothing was deleted");
            other.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
        } else {
            committed += 1;
            assert_eq!((opened.message_count, opened.taken_over), (0, false), "all was deleted before");
            other.index.release(tenant, a, token).await.unwrap();
        }
    }
    println!("{committed} committed, {lost} were taken over");
    assert_eq!(committed + lost, 60);
}

/// Tries until the maildrop is open: a commit under way is waited for.
async fn comes(
    store: index::Store,
    tenant: TenantId,
    mailbox: MailboxId,
    node: NodeId,
    late: bool,
) -> (LockToken, Opened) {
    if late {
        tokio::task::yield_now().await;
    }
    loop {
        if let (token, OpenOutcome::Opened(opened)) = open(&store, tenant, mailbox, node).await {
            return (token, opened);
        }
    }
}
