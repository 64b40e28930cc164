//! Bulletins: once to each mailbox, whoever is killed, and taken back from all.

use std::time::Duration;

use index::Store;
use maildrop::{
    Bulletin, BulletinId, BulletinState, Digest, Form, MailboxId, MailboxSettings, MessageOctets, NewMailbox,
    TenantId, Uid,
    port::{
        AuditQuery, BULLETINS_MAX, BulletinStep, CommitOutcome, Conflict, IndexError, MailboxUpdate,
        RowOutcome,
    },
};
use time::OffsetDateTime;

use crate::{backend::Backend, fixture::*};

/// Some time after all that the fixtures do.
const LATER: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::HOUR);

/// A bulletin that is not there yet.
fn new_bulletin(new_mailboxes: bool) -> Bulletin {
    Bulletin {
        id: BulletinId::generate(),
        number: 0,
        note: "maintenance".into(),
        state: BulletinState::RollingOut,
        new_mailboxes,
        expires_at: None,
        extent: entry().extent,
        octets: MessageOctets { ascii: 1000, ascii_extra: None },
        header_octets: 100,
        digest: Digest([9; 32]),
        delivered: 0,
        removed: 0,
        created_by: "test".into(),
        created_at: AT,
        ended_at: None,
    }
}

async fn create_bulletin(store: &Store, tenant: TenantId, bulletin: &Bulletin) -> Result<bool, IndexError> {
    let entry = maildrop::StoredEntry { extent: bulletin.extent, ..entry() };
    store.bulletins.create_bulletin(tenant, bulletin, &entry, &actor()).await
}

/// Posts a bulletin; it has reached nobody yet.
pub(crate) async fn post(store: &Store, tenant: TenantId, new_mailboxes: bool) -> BulletinId {
    let bulletin = new_bulletin(new_mailboxes);
    assert!(create_bulletin(store, tenant, &bulletin).await.unwrap());
    bulletin.id
}

pub(crate) async fn state(store: &Store, tenant: TenantId, id: BulletinId) -> BulletinState {
    found(store, tenant, id).await.0.state
}

async fn found(store: &Store, tenant: TenantId, id: BulletinId) -> (Bulletin, u64) {
    store.bulletins.bulletin(tenant, id).await.unwrap().unwrap()
}

async fn step(store: &Store, tenant: TenantId, id: BulletinId, limit: u32) -> BulletinStep {
    store.bulletins.continue_bulletin(tenant, id, limit, LATER).await.unwrap()
}

/// All steps there are, so many mailboxes at a time.
async fn all_steps(store: &Store, tenant: TenantId, id: BulletinId, limit: u32) {
    while step(store, tenant, id, limit).await.more {}
}

async fn withdraw(store: &Store, tenant: TenantId, id: BulletinId) -> Bulletin {
    store.bulletins.withdraw_bulletin(tenant, id, &actor(), LATER).await.unwrap().unwrap()
}

async fn mailboxes(store: &Store, tenant: TenantId, prefix: &str, count: usize) -> Vec<MailboxId> {
    let new: Vec<NewMailbox> = (0..count).map(|i| new_mailbox(&format!("{prefix}{i}@one.test"))).collect();
    let made = store.directory.create_mailboxes(tenant, &new, &actor(), LATER).await.unwrap();
    made.into_iter().map(|made| made.unwrap().id).collect()
}

/// Counters of mailboxes and of tenants are what the rows say; and nobody has an entry twice.
async fn counters_are_right(backend: &Backend) {
    let wrong = "SELECT count(*) FROM mailboxes b
         WHERE message_count <> (SELECT count(*) FROM messages m
                                  WHERE m.tenant_id = b.tenant_id AND m.mailbox_id = b.mailbox_id)
            OR octets <> (SELECT coalesce(sum(m.octets), 0) FROM messages m
                           WHERE m.tenant_id = b.tenant_id AND m.mailbox_id = b.mailbox_id)
            OR next_uid <= (SELECT coalesce(max(m.uid), 0) FROM messages m
                             WHERE m.tenant_id = b.tenant_id AND m.mailbox_id = b.mailbox_id)";
    assert_eq!(backend.number(wrong).await, 0, "counters of mailboxes");
    let wrong = "SELECT count(*) FROM tenants t
         WHERE coalesce((SELECT sum(u.messages) FROM tenant_usage u WHERE u.tenant_id = t.tenant_id), 0)
            <> coalesce((SELECT sum(b.message_count) FROM mailboxes b WHERE b.tenant_id = t.tenant_id), 0)
            OR coalesce((SELECT sum(u.octets) FROM tenant_usage u WHERE u.tenant_id = t.tenant_id), 0)
            <> coalesce((SELECT sum(b.octets) FROM mailboxes b WHERE b.tenant_id = t.tenant_id), 0)";
    assert_eq!(backend.number(wrong).await, 0, "counters of tenants");
    let twice = "SELECT count(*) FROM (SELECT 1 FROM messages
                  GROUP BY tenant_id, mailbox_id, pack_id, pack_offset HAVING count(*) > 1) twice";
    assert_eq!(backend.number(twice).await, 0, "nobody has it twice");
}

pub(crate) async fn each_mailbox_gets_it_once(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let boxes = mailboxes(store, one, "m", 7).await;
    let wide = mailbox(store, one, "ü@one.test", None).await;
    let others = mailbox(store, two, "a@two.test", None).await;
    deliver(store, one, boxes[3], 50).await;
    let id = post(store, one, false).await;
    assert_eq!(uids(store, one, boxes[0]).await, [0; 0], "posting it is not putting it anywhere");
    assert_eq!(step(store, one, id, 5).await, BulletinStep { rows: 5, more: true });
    let (half_way, holding) = found(store, one, id).await;
    assert_eq!((half_way.state, half_way.delivered, holding), (BulletinState::RollingOut, 5, 5));
    assert_eq!(step(store, one, id, 5).await, BulletinStep { rows: 3, more: false });
    assert_eq!(step(store, one, id, 5).await, BulletinStep::default());
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.state, done.delivered, holding), (BulletinState::Ended, 8, 8));
    assert_eq!((done.number, done.ended_at), (1, Some(LATER)));
    for (mailbox, uid) in [(boxes[0], 1), (boxes[3], 2), (boxes[6], 1), (wide, 1)] {
        assert_eq!(uids(store, one, mailbox).await.last(), Some(&uid));
        let (info, row) = store.index.message(one, mailbox, Uid(uid)).await.unwrap().unwrap();
        assert_eq!((row.extent, row.digest, row.header_octets), (done.extent, done.digest, 100));
        assert_eq!(info.received_at, LATER, "when it came to the mailbox");
        // As RETR will send it, in both forms, with the mailbox's own address in front.
        let line = maildrop::delivered_to(&row.delivered_to).len() as u64;
        assert_eq!(row.octets_in(Form::Native), 1000 + line);
        assert_eq!(row.ascii_extra.is_some(), mailbox == wide);
    }
    let (_, row) = store.index.message(one, wide, Uid(1)).await.unwrap().unwrap();
    assert_eq!(row.delivered_to, "ü@one.test");
    assert_eq!(uids(store, two, others).await, [0; 0], "another tenant's");
    assert_eq!(backend.number("SELECT count(*) FROM packs").await, 2, "stored once, beside the message");
    counters_are_right(backend).await;
}

pub(crate) async fn a_bulletin_is_noted_once(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let bulletin = new_bulletin(false);
    // As after a lost answer.
    for _ in 0..3 {
        assert!(create_bulletin(store, one, &bulletin).await.unwrap());
    }
    let listed = store.bulletins.bulletins(one, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|b| (b.id, b.number)).collect::<Vec<_>>(), [(bulletin.id, 1)]);
    let query = AuditQuery { tenant: Some(one), limit: 10, ..AuditQuery::default() };
    let audit = store.records.audit(&query).await.unwrap();
    let of_this = audit.iter().filter(|entry| entry.action == "bulletin.create").collect::<Vec<_>>();
    assert_eq!(of_this.len(), 1);
    assert_eq!(of_this[0].target, bulletin.id.to_string());
    assert_eq!(of_this[0].after.as_ref().unwrap()["note"], "maintenance");
    let nobodys = TenantId::generate();
    assert!(!create_bulletin(store, nobodys, &new_bulletin(false)).await.unwrap(), "no such tenant");
}

/// A step is a transaction: broken off anywhere, it was done or it was not.
pub(crate) async fn a_step_that_broke_off_is_done_again(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailboxes(store, one, "m", 300).await;
    let id = post(store, one, false).await;
    let mut broken_off = 0;
    for micros in (0..).step_by(150).take(80) {
        let step = store.bulletins.continue_bulletin(one, id, 7, LATER);
        broken_off += i32::from(tokio::time::timeout(Duration::from_micros(micros), step).await.is_err());
    }
    println!("{broken_off} of 80 steps were broken off");
    assert!(broken_off > 0);
    all_steps(store, one, id, 7).await;
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.delivered, holding), (300, 300));
    counters_are_right(backend).await;
    // And on the way back.
    withdraw(store, one, id).await;
    for micros in (0..).step_by(150).take(80) {
        let step = store.bulletins.continue_bulletin(one, id, 7, LATER);
        let _ = tokio::time::timeout(Duration::from_micros(micros), step).await;
    }
    all_steps(store, one, id, 7).await;
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.state, done.removed, holding), (BulletinState::Withdrawn, 300, 0));
    counters_are_right(backend).await;
}

pub(crate) async fn two_workers_at_once_put_it_once(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailboxes(store, one, "m", 200).await;
    let id = post(store, one, false).await;
    let workers: Vec<_> = [backend.second().await, backend.second().await, backend.second().await]
        .into_iter()
        .map(|store| tokio::spawn(async move { all_steps(&store, one, id, 9).await }))
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.state, done.delivered, holding), (BulletinState::Ended, 200, 200));
    counters_are_right(backend).await;
}

pub(crate) async fn mailboxes_come_and_go_while_it_is_on_its_way(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let boxes = mailboxes(store, one, "m", 6).await;
    let id = post(store, one, false).await;
    step(store, one, id, 2).await;
    // One that has it, and one that would.
    for name in ["m0@one.test", "m4@one.test"] {
        assert!(store.directory.delete_mailbox(one, &address(name), &actor(), AT).await.unwrap());
    }
    // From after it: not for these, wherever their ids lie.
    let early =
        NewMailbox { id: MailboxId::from_uuid(uuid::Uuid::from_u128(1)), ..new_mailbox("e@one.test") };
    let late = NewMailbox { id: MailboxId::from_uuid(uuid::Uuid::max()), ..new_mailbox("l@one.test") };
    for new in [&early, &late] {
        assert_eq!(create(store, one, new).await.unwrap().message_count, 0);
    }
    all_steps(store, one, id, 2).await;
    let (done, _) = found(store, one, id).await;
    assert_eq!(done.delivered, 5, "the two of the first step and three after that");
    for (mailbox, holds) in [(boxes[1], 1), (boxes[5], 1), (early.id, 0), (late.id, 0)] {
        assert_eq!(uids(store, one, mailbox).await.len(), holds);
    }
    while store.directory.continue_mailbox_deletion(one, boxes[0], 10).await.unwrap() {}
    assert_eq!(found(store, one, id).await.1, 4);
    counters_are_right(backend).await;
}

pub(crate) async fn new_mailboxes_get_what_is_for_them(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let old = mailbox(store, one, "old@one.test", None).await;
    let (first, only_old, second) =
        (post(store, one, true).await, post(store, one, false).await, post(store, one, true).await);
    // Those on their way are for new mailboxes already, in the moment they are created.
    let made = create(store, one, &new_mailbox("new@one.test")).await.unwrap();
    let line = maildrop::delivered_to("new@one.test").len() as u64;
    assert_eq!((made.message_count, made.octets), (2, 2 * (1000 + line)));
    assert_eq!(uids(store, one, made.id).await, [1, 2]);
    for id in [first, only_old, second] {
        all_steps(store, one, id, 10).await;
    }
    assert_eq!(uids(store, one, made.id).await, [1, 2], "once, although it was there before the steps");
    assert_eq!(uids(store, one, old).await, [1, 2, 3]);
    assert_eq!(state(store, one, first).await, BulletinState::Active);
    assert_eq!(state(store, one, only_old).await, BulletinState::Ended);
    assert_eq!(found(store, one, first).await.0.delivered, 2);
    assert_eq!(found(store, one, only_old).await.0.delivered, 1);
    // The next message is behind them.
    assert_eq!(deliver(store, one, made.id, 10).await, Uid(3));
    // One of several in a call that cannot be created gets nothing, and takes nothing from the others.
    let batch = [new_mailbox("x@one.test"), new_mailbox("new@one.test"), new_mailbox("y@one.test")];
    let made = store.directory.create_mailboxes(one, &batch, &actor(), AT).await.unwrap();
    assert_eq!(made[1].as_ref().unwrap_err(), &Conflict::Address);
    for (made, asked) in [(&made[0], &batch[0]), (&made[2], &batch[2])] {
        let made = made.as_ref().unwrap();
        assert_eq!((made.id, made.message_count), (asked.id, 2));
        let read = store.directory.mailbox(one, &made.address).await.unwrap().unwrap();
        assert_eq!((read.id, read.message_count, read.octets), (made.id, 2, made.octets));
    }
    // Withdrawn, it is for nobody new.
    withdraw(store, one, first).await;
    assert_eq!(create(store, one, &new_mailbox("z@one.test")).await.unwrap().message_count, 1);
    counters_are_right(backend).await;
}

/// Each of many mailboxes is from before a bulletin or from after it, and has it once in either case.
pub(crate) async fn mailboxes_created_in_the_same_moment_get_it_once(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let second = backend.second().await;
    let creating = tokio::spawn(async move {
        for i in 0..60 {
            mailboxes(&second, one, &format!("c{i}-"), 2).await;
        }
    });
    let mut posted = Vec::new();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        posted.push(post(store, one, true).await);
        step(store, one, posted[0], 11).await;
    }
    creating.await.unwrap();
    for id in &posted {
        all_steps(store, one, *id, 11).await;
        let (done, holding) = found(store, one, *id).await;
        assert_eq!((done.delivered, holding), (120, 120));
    }
    counters_are_right(backend).await;
}

pub(crate) async fn quotas_do_not_refuse_it_and_counters_are_right(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let full = mailbox(store, one, "a@one.test", Some(10)).await;
    let suspended = NewMailbox { suspended: true, ..new_mailbox("s@one.test") };
    let suspended = create(store, one, &suspended).await.unwrap().id;
    deliver(store, one, full, 10).await;
    let id = post(store, one, true).await;
    all_steps(store, one, id, 10).await;
    assert_eq!(uids(store, one, full).await, [1, 2]);
    assert_eq!(uids(store, one, suspended).await, [1]);
    let over = store.index.deliver(one, &entry(), &[message(full, 1)]).await.unwrap();
    assert_eq!(over, [RowOutcome::OverQuota], "it counts with what the mailbox holds");
    let small = NewMailbox {
        settings: MailboxSettings { quota_messages: Some(0), ..MailboxSettings::default() },
        ..new_mailbox("n@one.test")
    };
    assert_eq!(create(store, one, &small).await.unwrap().message_count, 1);
    counters_are_right(backend).await;
}

pub(crate) async fn who_deletes_it_is_not_shown_it_again(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let boxes = mailboxes(store, one, "m", 3).await;
    let id = post(store, one, true).await;
    step(store, one, id, 2).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, one, boxes[0], node).await;
    let commit = store.index.commit_update(one, boxes[0], token, &[Uid(1)], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 1 });
    all_steps(store, one, id, 2).await;
    step(store, one, id, 2).await;
    assert_eq!(uids(store, one, boxes[0]).await, [0; 0]);
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.delivered, holding), (3, 2));
    counters_are_right(backend).await;
}

pub(crate) async fn a_withdrawal_takes_it_from_all(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let boxes = mailboxes(store, one, "m", 8).await;
    deliver(store, one, boxes[2], 70).await;
    let (id, stays) = (post(store, one, true).await, post(store, one, false).await);
    for id in [id, stays] {
        all_steps(store, one, id, 5).await;
    }
    // One deleted it and keeps it for a while; one has had it restored; one is being deleted.
    let removed = store.index.remove_messages(one, boxes[0], &[Uid(1)], LONG, &actor(), AT).await.unwrap();
    assert_eq!(removed, [Uid(1)]);
    store.index.remove_messages(one, boxes[1], &[Uid(1)], LONG, &actor(), AT).await.unwrap();
    let restored = store.index.restore_message(one, boxes[1], Uid(1), &actor(), AT).await.unwrap();
    assert_eq!(restored, RowOutcome::Delivered(Uid(3)));
    store.directory.delete_mailbox(one, &address("m7@one.test"), &actor(), AT).await.unwrap();
    let withdrawn = withdraw(store, one, id).await;
    assert_eq!((withdrawn.state, withdrawn.delivered), (BulletinState::Withdrawing, 8));
    assert_eq!(
        withdraw(store, one, id).await.state,
        BulletinState::Withdrawing,
        "to ask again changes nothing"
    );
    all_steps(store, one, id, 3).await;
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.state, holding, done.ended_at), (BulletinState::Withdrawn, 0, Some(LATER)));
    assert_eq!(done.removed, 7, "who had deleted it held it no longer");
    assert_eq!(uids(store, one, boxes[1]).await, [2]);
    assert_eq!(uids(store, one, boxes[2]).await, [1, 3], "nothing else went");
    assert!(store.index.deleted_messages(one, boxes[0], Uid(0), 10).await.unwrap().is_empty());
    let restored = store.index.restore_message(one, boxes[0], Uid(1), &actor(), AT).await.unwrap();
    assert_eq!(restored, RowOutcome::Unknown, "nobody can restore it");
    assert_eq!(backend.number("SELECT coalesce(sum(messages), 0) FROM kept_usage").await, 0);
    let query = AuditQuery { tenant: Some(one), limit: 100, ..AuditQuery::default() };
    let audit = store.records.audit(&query).await.unwrap();
    let of_this: Vec<_> = audit.iter().filter(|entry| entry.action == "bulletin.withdraw").collect();
    assert_eq!((of_this.len(), of_this[0].target.clone()), (1, id.to_string()));
    assert_eq!(of_this[0].before.as_ref().unwrap()["delivered"], 8);
    assert_eq!(withdraw(store, one, id).await.state, BulletinState::Withdrawn);
    counters_are_right(backend).await;
}

/// P4: a session's numbers hold still, and its commit deletes what it asked for and nothing else.
pub(crate) async fn a_withdrawal_and_an_open_session(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    deliver(store, one, a, 10).await;
    let id = post(store, one, false).await;
    all_steps(store, one, id, 10).await;
    deliver(store, one, a, 20).await;
    let node = node(store, LONG).await;
    let (token, session) = opened(store, one, a, node).await;
    assert_eq!((session.message_count, session.next_uid), (3, Uid(4)));
    let listing = store.index.listing(one, a, session.next_uid, maildrop::View::default()).await.unwrap();
    withdraw(store, one, id).await;
    all_steps(store, one, id, 10).await;
    assert_eq!(listing.len(), 3, "the session goes on with its own");
    assert!(store.index.message(one, a, Uid(2)).await.unwrap().is_none(), "what is asked for is not there");
    // A bulletin that comes meanwhile is beyond what the session sees.
    let next = post(store, one, false).await;
    all_steps(store, one, next, 10).await;
    let seen = store.index.listing(one, a, session.next_uid, maildrop::View::default()).await.unwrap();
    assert_eq!(seen.len(), 2);
    let commit = store.index.commit_update(one, a, token, &[Uid(2), Uid(3)], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::Committed { deleted: 1 });
    assert_eq!(uids(store, one, a).await, [1, 4]);
    counters_are_right(backend).await;
}

pub(crate) async fn a_withdrawal_ends_the_roll_out(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let boxes = mailboxes(store, one, "m", 9).await;
    let id = post(store, one, true).await;
    step(store, one, id, 4).await;
    withdraw(store, one, id).await;
    all_steps(store, one, id, 3).await;
    let (done, holding) = found(store, one, id).await;
    assert_eq!((done.state, done.delivered, done.removed, holding), (BulletinState::Withdrawn, 4, 4, 0));
    for mailbox in boxes {
        assert_eq!(uids(store, one, mailbox).await, [0; 0]);
    }
    counters_are_right(backend).await;
}

/// Owners delete it while it is withdrawn: nobody waits for ever, and each row goes once.
pub(crate) async fn withdrawals_and_commits_at_once_agree(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let boxes = mailboxes(store, one, "m", 60).await;
    let id = post(store, one, false).await;
    all_steps(store, one, id, 100).await;
    let node = node(store, LONG).await;
    let mut sessions = Vec::new();
    for mailbox in &boxes {
        sessions.push((*mailbox, opened(store, one, *mailbox, node).await.0));
    }
    withdraw(store, one, id).await;
    let second = backend.second().await;
    let withdrawing = tokio::spawn(async move { all_steps(&second, one, id, 5).await });
    let mut deleted = 0;
    for (mailbox, token) in sessions.into_iter().rev() {
        match store.index.commit_update(one, mailbox, token, &[Uid(1)], NOT_KEPT).await.unwrap() {
            CommitOutcome::Committed { deleted: gone } => deleted += gone,
            CommitOutcome::LockLost => panic!("the lock was held"),
        }
    }
    tokio::time::timeout(LONG, withdrawing).await.unwrap().unwrap();
    all_steps(store, one, id, 5).await;
    let (done, holding) = found(store, one, id).await;
    println!("{deleted} of 60 were deleted by their owners, {} by the withdrawal", done.removed);
    assert_eq!((done.state, holding, done.removed + deleted), (BulletinState::Withdrawn, 0, 60));
    counters_are_right(backend).await;
}

pub(crate) async fn it_expires(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let boxes = mailboxes(store, one, "m", 4).await;
    let expires_at = Some(LATER);
    let bulletin = Bulletin { expires_at, ..new_bulletin(true) };
    assert!(create_bulletin(store, one, &bulletin).await.unwrap());
    let before = LATER - time::Duration::SECOND;
    let due = async |at| store.bulletins.all_tenants_bulletins_due(None, 10, at).await.unwrap();
    assert_eq!(due(before).await, [(one, bulletin.id)]);
    let step =
        async |at, limit| store.bulletins.continue_bulletin(one, bulletin.id, limit, at).await.unwrap();
    assert_eq!(step(before, 3).await, BulletinStep { rows: 3, more: true });
    // Its time is over before it is everywhere: who has it keeps it.
    assert_eq!(step(LATER, 3).await, BulletinStep::default());
    let (done, holding) = found(store, one, bulletin.id).await;
    assert_eq!((done.state, holding, done.ended_at), (BulletinState::Ended, 3, Some(LATER)));
    assert_eq!(uids(store, one, boxes[3]).await, [0; 0]);
    // Another is everywhere, and then over for new mailboxes: at once, whoever notes it when.
    let other = Bulletin { expires_at, ..new_bulletin(true) };
    assert!(create_bulletin(store, one, &other).await.unwrap());
    assert_eq!(store.bulletins.continue_bulletin(one, other.id, 9, before).await.unwrap().rows, 4);
    assert!(due(before).await.is_empty(), "there is nothing to do for it");
    let create = async |name: &str, at| {
        let made = store.directory.create_mailboxes(one, &[new_mailbox(name)], &actor(), at).await.unwrap();
        made[0].as_ref().unwrap().message_count
    };
    assert_eq!(create("early@one.test", before).await, 1);
    assert_eq!(create("late@one.test", LATER).await, 0);
    assert_eq!(due(LATER).await, [(one, other.id)]);
    assert_eq!(
        store.bulletins.continue_bulletin(one, other.id, 9, LATER).await.unwrap(),
        BulletinStep::default()
    );
    assert_eq!(state(store, one, other.id).await, BulletinState::Ended);
    assert!(due(LATER).await.is_empty());
    // What is over can still be withdrawn.
    withdraw(store, one, other.id).await;
    all_steps(store, one, other.id, 9).await;
    assert_eq!(found(store, one, other.id).await.1, 0);
    counters_are_right(backend).await;
}

pub(crate) async fn they_are_listed_and_walled(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    mailbox(store, one, "a@one.test", None).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(post(store, one, false).await);
    }
    let page = async |before, limit| {
        let page = store.bulletins.bulletins(one, before, limit).await.unwrap();
        page.into_iter().map(|bulletin| (bulletin.id, bulletin.number)).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2).await, [(ids[2], 3), (ids[1], 2)]);
    assert_eq!(page(Some(2), 2).await, [(ids[0], 1)]);
    assert_eq!(page(Some(u64::MAX), 9).await.len(), 3);
    // P5: by another tenant's name there is none.
    assert!(store.bulletins.bulletins(two, None, 10).await.unwrap().is_empty());
    assert!(store.bulletins.bulletin(two, ids[0]).await.unwrap().is_none());
    let foreign = store.bulletins.withdraw_bulletin(two, ids[0], &actor(), AT).await.unwrap();
    assert_eq!(foreign, None);
    assert_eq!(step(store, two, ids[0], 10).await, BulletinStep::default());
    assert_eq!(state(store, one, ids[0]).await, BulletinState::RollingOut);
    assert_eq!(found(store, one, ids[0]).await.0.delivered, 0);
    // They are numbered by tenant.
    let of_two = post(store, two, false).await;
    assert_eq!(found(store, two, of_two).await.0.number, 1);
    let due = store.bulletins.all_tenants_bulletins_due(None, 10, AT).await.unwrap();
    assert_eq!(due.len(), 4);
    let rest = store.bulletins.all_tenants_bulletins_due(Some(due[1]), 10, AT).await.unwrap();
    assert_eq!(rest, due[2..]);
}

pub(crate) async fn there_are_not_too_many_at_once(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    for _ in 0..BULLETINS_MAX {
        post(store, one, true).await;
    }
    let one_more = new_bulletin(false);
    let refused = create_bulletin(store, one, &one_more).await;
    assert!(matches!(refused, Err(IndexError::Conflict(Conflict::Bulletins))), "{refused:?}");
    let made = create(store, one, &new_mailbox("a@one.test")).await.unwrap();
    assert_eq!(made.message_count, u64::from(BULLETINS_MAX));
    // One that is over makes room.
    let first = store.bulletins.bulletins(one, Some(2), 1).await.unwrap().remove(0).id;
    withdraw(store, one, first).await;
    all_steps(store, one, first, 10).await;
    assert!(create_bulletin(store, one, &one_more).await.unwrap());
    counters_are_right(backend).await;
}

pub(crate) async fn a_tenants_deletion_takes_them_along(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailboxes(store, one, "m", 5).await;
    let (id, other) = (post(store, one, true).await, post(store, one, true).await);
    step(store, one, id, 2).await;
    let suspend = MailboxUpdate { state: Some(maildrop::State::Suspended), ..MailboxUpdate::default() };
    store.directory.update_mailbox(one, &address("m0@one.test"), &suspend, &actor(), AT).await.unwrap();
    store.directory.begin_tenant_deletion(one, &actor(), AT).await.unwrap();
    assert!(!create_bulletin(store, one, &new_bulletin(false)).await.unwrap(), "it is going");
    let due = store.bulletins.all_tenants_bulletins_due(None, 10, AT).await.unwrap();
    assert!(due.is_empty(), "nobody puts it anywhere any more: {due:?}");
    // A step that was under way does not keep it.
    step(store, one, other, 2).await;
    assert!(delete_tenant(store, one).await);
    for table in ["bulletins", "messages", "mailboxes", "packs", "pack_garbage"] {
        assert_eq!(backend.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
}
