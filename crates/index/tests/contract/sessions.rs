//! Who is logged in, what stands in the way of a login, and how a session is ended.

use std::time::Duration;

use maildrop::{
    LockToken, MailboxId, State,
    port::{CommitOutcome, MailboxUpdate, OpenOutcome, OpenRequest, TenantUpdate},
};

use crate::{backend::Backend, fixture::*};

pub(crate) async fn a_changed_tenant_is_stale(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let node = node(store, LONG).await;
    store.directory.update_tenant(one, &TenantUpdate::default(), &actor(), AT).await.unwrap();
    assert_eq!(open(store, one, a, node).await.1, OpenOutcome::Stale);
    let now = OpenRequest { tenant_revision: 2, ..request(one, a, node, LockToken::generate()) };
    assert!(matches!(store.index.open(now).await.unwrap(), OpenOutcome::Opened(_)));
}

pub(crate) async fn a_login_delay_is_kept(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let (a, b) =
        (mailbox(store, one, "a@one.test", None).await, mailbox(store, one, "b@one.test", None).await);
    let node = node(store, LONG).await;
    let ask = async |mailbox: MailboxId, delay| {
        let token = LockToken::generate();
        let request = OpenRequest { login_delay: delay, ..request(one, mailbox, node, token) };
        let outcome = store.index.open(request).await.unwrap();
        if matches!(outcome, OpenOutcome::Opened(_)) {
            store.index.release(one, mailbox, token).await.unwrap();
        }
        outcome
    };
    let delay = Duration::from_secs(1);
    assert!(matches!(ask(a, delay).await, OpenOutcome::Opened(_)));
    assert_eq!(ask(a, delay).await, OpenOutcome::TooSoon);
    assert!(matches!(ask(b, delay).await, OpenOutcome::Opened(_)), "each mailbox by itself");
    assert!(matches!(ask(a, Duration::ZERO).await, OpenOutcome::Opened(_)), "no delay is no delay");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(matches!(ask(a, delay).await, OpenOutcome::Opened(_)));
}

pub(crate) async fn a_tenants_sessions_are_limited(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let (first, second) = (node(store, LONG).await, node(store, LONG).await);
    let other = backend.second().await;
    let mut tokens = Vec::new();
    let mut outcomes = Vec::new();
    for i in 0..4 {
        let mailbox = mailbox(store, one, &format!("a{i}@one.test"), None).await;
        let (store, node) = if i % 2 == 0 { (store, first) } else { (&other, second) };
        let token = LockToken::generate();
        let request = OpenRequest { sessions_max: Some(2), ..request(one, mailbox, node, token) };
        outcomes.push(store.index.open(request).await.unwrap());
        tokens.push((mailbox, token));
    }
    let opened = outcomes.iter().filter(|outcome| matches!(outcome, OpenOutcome::Opened(_))).count();
    assert_eq!((opened, outcomes[3]), (2, OpenOutcome::TooManySessions), "{outcomes:?}");
    let x = mailbox(store, two, "x@two.test", None).await;
    let elsewhere = OpenRequest { sessions_max: Some(2), ..request(two, x, first, LockToken::generate()) };
    assert!(matches!(store.index.open(elsewhere).await.unwrap(), OpenOutcome::Opened(_)));
    store.index.release(one, tokens[0].0, tokens[0].1).await.unwrap();
    let again = OpenRequest { sessions_max: Some(2), ..request(one, tokens[3].0, first, tokens[3].1) };
    assert!(matches!(store.index.open(again).await.unwrap(), OpenOutcome::Opened(_)));
}

pub(crate) async fn sessions_are_seen_and_ended(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let x = mailbox(store, two, "x@two.test", None).await;
    let node = node(store, LONG).await;
    deliver(store, one, a, 10).await;
    let (token, _) = opened(store, one, a, node).await;
    opened(store, one, b, node).await;
    opened(store, two, x, node).await;
    let all = store.index.sessions(None, None, 10).await.unwrap();
    assert_eq!(all.len(), 3);
    let own = store.index.sessions(Some(one), None, 10).await.unwrap();
    let addresses: Vec<_> = own.iter().map(|session| session.address.as_str()).collect();
    assert_eq!(addresses, ["a@one.test", "b@one.test"]);
    let session = &own[0];
    assert_eq!(session.id, request(one, a, node, token).session);
    assert_eq!((session.node.as_str(), session.peer.as_str()), ("test", "192.0.2.1"));
    assert_eq!((session.tenant, session.tenant_name.as_str()), (one, "one"));
    let page = store.index.sessions(Some(one), Some((one, a)), 10).await.unwrap();
    assert_eq!(page, own[1..]);
    let end = async |tenant, id: &str| store.index.end_session(tenant, id, &actor(), AT).await.unwrap();
    assert!(!end(two, &session.id).await, "not another tenant's");
    assert!(!end(one, "nothing").await);
    assert!(end(one, &session.id).await);
    assert!(!end(one, &session.id).await);
    let commit = store.index.commit_update(one, a, token, &[maildrop::Uid(1)], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    let pulse = store.index.heartbeat(node, "test", LONG).await.unwrap();
    assert_eq!(pulse.ended, std::slice::from_ref(&session.id));
    assert_eq!(pulse.nodes, 1);
    assert_eq!(backend.number("SELECT count(*) FROM audit_log WHERE action = 'session.end'").await, 1);
    assert!(matches!(open(store, one, a, node).await.1, OpenOutcome::Opened(_)), "the maildrop is free");
}

pub(crate) async fn suspension_ends_sessions(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let node = node(store, LONG).await;
    opened(store, one, a, node).await;
    opened(store, one, b, node).await;
    let suspend = MailboxUpdate { state: Some(State::Suspended), ..MailboxUpdate::default() };
    store.directory.update_mailbox(one, &address("a@one.test"), &suspend, &actor(), AT).await.unwrap();
    assert_eq!(store.index.heartbeat(node, "test", LONG).await.unwrap().ended.len(), 1);
    assert_eq!(store.index.sessions(Some(one), None, 10).await.unwrap().len(), 1);
    let suspend = TenantUpdate { state: Some(State::Suspended), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &suspend, &actor(), AT).await.unwrap();
    assert!(store.index.sessions(Some(one), None, 10).await.unwrap().is_empty());
    assert_eq!(store.index.heartbeat(node, "test", LONG).await.unwrap().ended.len(), 2);
}

pub(crate) async fn a_task_has_one_holder(backend: &Backend) {
    let store = &backend.store;
    let (first, second) = (node(store, LONG).await, node(store, LONG).await);
    let take = async |node, ttl| store.index.take_task("sweep", node, ttl).await.unwrap();
    assert!(take(first, LONG).await && take(first, LONG).await);
    assert!(!take(second, LONG).await);
    assert!(store.index.take_task("other", second, LONG).await.unwrap());
    assert!(take(first, Duration::from_millis(50)).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(take(second, LONG).await);
    assert!(!take(first, LONG).await);
    let pulse = store.index.heartbeat(first, "test", LONG).await.unwrap();
    assert_eq!(pulse.nodes, 2);
}
