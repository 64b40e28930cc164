//! The audit log, answers to repeated requests, traffic.

use maildrop::{
    MailboxSettings,
    port::{
        AuditQuery, Claim, IdempotencyKey, MailboxUpdate, Note, StoredAnswer, Traffic, TrafficDay,
        TrafficDelta,
    },
};
use time::{Date, Duration, Month, OffsetDateTime};

use crate::{backend::Backend, fixture::*};

pub(crate) async fn the_audit_log_says_before_and_after(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    mailbox(store, one, "a@one.test", None).await;
    let update = MailboxUpdate {
        settings: Some(MailboxSettings { quota_octets: Some(5), ..MailboxSettings::default() }),
        ..MailboxUpdate::default()
    };
    let later = AT + Duration::HOUR;
    store.directory.update_mailbox(one, &address("a@one.test"), &update, &actor(), later).await.unwrap();
    let all = AuditQuery { limit: 100, ..AuditQuery::default() };
    let own = AuditQuery { tenant: Some(one), ..all.clone() };
    let entries = store.records.audit(&own).await.unwrap();
    let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["mailbox.update", "mailbox.create", "domain.create", "tenant.create"]);
    let entry = &entries[0];
    assert_eq!(
        (entry.actor.as_str(), entry.origin.as_str(), entry.request.as_str()),
        ("test", "127.0.0.1", "r-1")
    );
    assert_eq!((entry.at, entry.target.as_str(), entry.tenant), (later, "a@one.test", Some(one.as_uuid())));
    assert_eq!(entry.before.as_ref().unwrap()["quota_octets"], serde_json::Value::Null);
    assert_eq!(entry.after.as_ref().unwrap()["quota_octets"], 5);
    assert!(entries[1].before.is_none());
    let text = serde_json::to_string(&entries).unwrap();
    assert!(!text.contains("$hash$") && !text.contains("data_key"), "{text}");
    let note = Note {
        tenant: Some(two),
        actor: &actor(),
        at: AT,
        action: "message.read",
        target: "x@two.test",
        after: Some(serde_json::json!({ "uid": 1 })),
    };
    store.records.note(&note).await.unwrap();
    let read = AuditQuery { action: Some("message.read".into()), ..all.clone() };
    let read = store.records.audit(&read).await.unwrap();
    assert_eq!((read.len(), read[0].tenant), (1, Some(two.as_uuid())));
    assert_eq!(read[0].after.as_ref().unwrap()["uid"], 1);
    let count = async |query: AuditQuery| store.records.audit(&query).await.unwrap().len();
    assert_eq!(count(all.clone()).await, 7);
    assert_eq!(count(AuditQuery { tenant: Some(two), ..all.clone() }).await, 3);
    assert_eq!(count(AuditQuery { action: Some("mailbox".into()), ..all.clone() }).await, 2);
    assert_eq!(count(AuditQuery { action: Some("mailbox.create".into()), ..all.clone() }).await, 1);
    assert_eq!(count(AuditQuery { action: Some("mail".into()), ..all.clone() }).await, 0);
    assert_eq!(count(AuditQuery { target: Some("two".into()), ..all.clone() }).await, 1);
    assert_eq!(count(AuditQuery { actor: Some("nobody".into()), ..all.clone() }).await, 0);
    assert_eq!(count(AuditQuery { since: Some(later), ..all.clone() }).await, 1);
    assert_eq!(count(AuditQuery { until: Some(later), ..all.clone() }).await, 6);
    assert_eq!(count(AuditQuery { before_id: Some(entry.id), ..own.clone() }).await, 3);
    assert_eq!(count(AuditQuery { limit: 2, ..own }).await, 2);
}

pub(crate) async fn a_request_is_claimed_once(backend: &Backend) {
    let records = &backend.store.records;
    let key = |request| IdempotencyKey { caller: "me".into(), key: "k".into(), request: [request; 32] };
    let claim = async |key: &IdempotencyKey| records.claim(key, AT).await.unwrap();
    assert_eq!(claim(&key(1)).await, Claim::First);
    assert_eq!(claim(&key(1)).await, Claim::Pending);
    assert_eq!(claim(&key(2)).await, Claim::Mismatch);
    let other = IdempotencyKey { caller: "you".into(), ..key(2) };
    assert_eq!(claim(&other).await, Claim::First, "another caller's keys are others");
    records.disclaim(&other).await.unwrap();
    assert_eq!(claim(&other).await, Claim::First);
    let answer = StoredAnswer { status: 201, body: b"{}".to_vec(), etag: Some("\"1\"".into()) };
    records.remember(&key(1), &answer).await.unwrap();
    assert_eq!(claim(&key(1)).await, Claim::Answered(answer.clone()));
    records.disclaim(&key(1)).await.unwrap();
    assert_eq!(claim(&key(1)).await, Claim::Answered(answer), "an answer is not given back");
    assert_eq!(records.forget_claims(AT, 10).await.unwrap(), 0);
    assert_eq!(records.forget_claims(AT + Duration::SECOND, 1).await.unwrap(), 1);
    assert_eq!(records.forget_claims(AT + Duration::SECOND, 10).await.unwrap(), 1);
    assert_eq!(claim(&key(1)).await, Claim::First);
}

pub(crate) async fn traffic_adds_up(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let day = Date::from_calendar_date(2026, Month::November, 23).unwrap();
    let some = Traffic { logins: 1, messages_out: 2, octets_out: 300, messages_in: 4, octets_in: 500 };
    let delta = |tenant, mailbox, day| TrafficDelta { tenant, mailbox, day, traffic: some };
    let next = day.next_day().unwrap();
    let gone = maildrop::TenantId::generate();
    let deltas =
        [delta(one, None, day), delta(one, None, day), delta(one, Some(a), day), delta(gone, None, day)];
    store.records.add_traffic(&deltas).await.unwrap();
    store.records.add_traffic(&[delta(one, None, next), delta(two, None, day)]).await.unwrap();
    store.records.add_traffic(&[]).await.unwrap();
    let days = store.records.traffic(one, day, next).await.unwrap();
    let twice = Traffic { logins: 2, messages_out: 4, octets_out: 600, messages_in: 8, octets_in: 1000 };
    assert_eq!(days, [TrafficDay { day, traffic: twice }, TrafficDay { day: next, traffic: some }]);
    assert_eq!(store.records.traffic(one, next, next).await.unwrap().len(), 1);
    assert_eq!(store.records.octets_sent(one, a, day).await.unwrap(), (600, 300));
    assert_eq!(store.records.octets_sent(one, a, next).await.unwrap(), (300, 0));
    assert_eq!(store.records.octets_sent(two, a, day).await.unwrap(), (300, 0));
    assert!(store.records.traffic(gone, day, next).await.unwrap().is_empty());
}

pub(crate) async fn old_traffic_is_forgotten(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let day = |of_month| Date::from_calendar_date(2026, Month::November, of_month).unwrap();
    let some = Traffic { octets_out: 300, ..Traffic::default() };
    let delta = |mailbox, day| TrafficDelta { tenant: one, mailbox, day, traffic: some };
    let days = [1, 2, 3, 4].map(day);
    let of_tenant: Vec<_> = days.iter().map(|day| delta(None, *day)).collect();
    let of_mailbox: Vec<_> = days.iter().map(|day| delta(Some(a), *day)).collect();
    store.records.add_traffic(&[of_tenant, of_mailbox].concat()).await.unwrap();
    let forget = async |limit| store.records.all_tenants_forget_traffic(day(2), day(4), limit).await.unwrap();
    assert_eq!((forget(3).await, forget(3).await, forget(3).await), (3, 1, 0), "in steps");
    let left = store.records.traffic(one, day(1), day(4)).await.unwrap();
    assert_eq!(left.iter().map(|of| of.day).collect::<Vec<_>>(), [day(2), day(3), day(4)]);
    let sent = async |day| store.records.octets_sent(one, a, day).await.unwrap();
    assert_eq!((sent(day(3)).await, sent(day(4)).await), ((300, 0), (300, 300)));
}

pub(crate) async fn old_audit_entries_are_forgotten_and_young_ones_cannot_be(backend: &Backend) {
    let store = &backend.store;
    // Two entries of long ago, and then one of three weeks ago.
    let one = tenant(store, "one").await;
    let now = OffsetDateTime::now_utc();
    let name = address("a@one.test");
    let young = now - Duration::days(21);
    let made = store.directory.create_mailboxes(one, &[new_mailbox("a@one.test")], &actor(), young).await;
    assert!(made.unwrap()[0].is_ok());
    let forget = async |before, limit| store.records.all_tenants_forget_audit(before, limit).await;
    assert_eq!(forget(AT, 10).await.unwrap(), 0, "none is older than the oldest");
    let before = now - Duration::days(100);
    assert_eq!(forget(before, 1).await.unwrap(), 1, "in steps");
    assert_eq!((forget(before, 10).await.unwrap(), forget(before, 10).await.unwrap()), (1, 0));
    assert!(forget(now, 10).await.is_err(), "the last month's stay, whoever asks");
    let left = store.records.audit(&AuditQuery { limit: 9, ..AuditQuery::default() }).await.unwrap();
    assert_eq!(left.iter().map(|entry| entry.target.as_str()).collect::<Vec<_>>(), [name.as_str()]);
}

pub(crate) async fn finished_deletions_are_forgotten(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    assert!(delete_tenant(store, one).await, "finished long ago");
    assert!(store.directory.begin_tenant_deletion(two, &actor(), AT).await.unwrap());
    let forget = async |before| store.directory.all_tenants_forget_deletions(before, 10).await.unwrap();
    assert_eq!(forget(AT).await, 0);
    assert_eq!((forget(AT + Duration::SECOND).await, forget(AT + Duration::SECOND).await), (1, 0));
    assert_eq!(backend.number("SELECT count(*) FROM tenant_deletions").await, 1, "that under way stays");
}
