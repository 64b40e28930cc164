//! What a tenant is and may do: settings, states, quotas, deletion.

use maildrop::{
    Domain, MailboxSettings, NewMailbox, Policy, State, TenantLimits, TenantSettings,
    port::{Conflict, IndexError, MailboxQuery, MailboxUpdate, RowOutcome, TenantUpdate},
};

use crate::{backend::Backend, fixture::*};

#[track_caller]
pub(crate) fn assert_conflict<T: std::fmt::Debug>(result: Result<T, IndexError>, expected: Conflict) {
    match result {
        Err(IndexError::Conflict(conflict)) => assert_eq!(conflict, expected),
        other => panic!("{other:?}"),
    }
}

fn settings() -> TenantSettings {
    TenantSettings {
        quota_octets: Some(1000),
        quota_messages: Some(50),
        over_allocation_percent: Some(200),
        mailbox_quota_octets: Some(100),
        mailbox_quota_messages: Some(10),
        limits: TenantLimits { sessions_max: Some(3), ..TenantLimits::default() },
        policy: Policy { expire_days: Some(30), pop3: Some(true), ..Policy::default() },
    }
}

pub(crate) async fn a_tenants_settings_are_kept(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    let update = TenantUpdate { settings: Some(settings()), ..TenantUpdate::default() };
    let updated = directory.update_tenant(one, &update, &actor(), AT).await.unwrap().unwrap();
    assert_eq!((updated.revision, &updated.settings), (2, &settings()));
    let read = directory.tenant(one).await.unwrap().unwrap();
    assert_eq!((read.revision, read.settings, read.state), (2, settings(), State::Active));
    let stale = TenantUpdate { if_revision: Some(1), ..update.clone() };
    assert_conflict(directory.update_tenant(one, &stale, &actor(), AT).await, Conflict::Revision);
    let fresh =
        TenantUpdate { if_revision: Some(2), state: Some(State::Suspended), ..TenantUpdate::default() };
    let suspended = directory.update_tenant(one, &fresh, &actor(), AT).await.unwrap().unwrap();
    assert_eq!((suspended.state, suspended.revision), (State::Suspended, 3));
    assert_eq!(suspended.settings, settings(), "a change of state leaves the settings alone");
    let nobody = maildrop::TenantId::generate();
    assert!(directory.update_tenant(nobody, &update, &actor(), AT).await.unwrap().is_none());
}

pub(crate) async fn a_mailboxs_settings_are_kept(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailbox(store, one, "a@one.test", None).await;
    let settings = MailboxSettings {
        quota_octets: Some(7),
        quota_messages: Some(2),
        policy: Policy { login_delay_secs: Some(60), ..Policy::default() },
    };
    let update = MailboxUpdate { settings: Some(settings.clone()), ..MailboxUpdate::default() };
    let at = address("a@one.test");
    let updated = store.directory.update_mailbox(one, &at, &update, &actor(), AT).await.unwrap().unwrap();
    assert_eq!((updated.revision, &updated.settings), (2, &settings));
    assert_eq!(store.directory.mailbox(one, &at).await.unwrap().unwrap().settings, settings);
    let account = store.directory.all_tenants_account(&at).await.unwrap().unwrap();
    assert_eq!(account.credential_version, 2, "what nodes remember of it no longer counts");
    let stale = MailboxUpdate { if_revision: Some(1), ..update.clone() };
    assert_conflict(store.directory.update_mailbox(one, &at, &stale, &actor(), AT).await, Conflict::Revision);
    let nobody = address("b@one.test");
    assert!(store.directory.update_mailbox(one, &nobody, &update, &actor(), AT).await.unwrap().is_none());
}

pub(crate) async fn a_mailbox_inherits_its_tenants_policy(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let update = TenantUpdate { settings: Some(settings()), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &update, &actor(), AT).await.unwrap();
    let new = NewMailbox {
        settings: MailboxSettings {
            quota_octets: Some(10),
            policy: Policy { expire_days: Some(7), ..Policy::default() },
            ..MailboxSettings::default()
        },
        ..new_mailbox("a@one.test")
    };
    create(store, one, &new).await.unwrap();
    let account = store.directory.all_tenants_account(&address("a@one.test")).await.unwrap().unwrap();
    assert_eq!(account.tenant_revision, 2);
    assert_eq!(account.rules.tenant.sessions_max, Some(3));
    let policy = &account.rules.mailbox;
    assert_eq!((policy.expire_days, policy.pop3), (Some(7), Some(true)));
    let found = store.directory.all_tenants_recipients(&[address("a@one.test")]).await.unwrap();
    let found = found[0].clone().unwrap();
    assert_eq!(found.rules, account.rules);
    assert_eq!((found.free_octets, found.free_messages), (Some(10), Some(10)));
}

pub(crate) async fn suspension_reaches_logins_and_mail(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailbox(store, one, "a@one.test", None).await;
    let suspended = NewMailbox { suspended: true, ..new_mailbox("b@one.test") };
    assert_eq!(create(store, one, &suspended).await.unwrap().state, State::Suspended);
    let state_of = async |at: &str| {
        let account = store.directory.all_tenants_account(&address(at)).await.unwrap().unwrap();
        let found = store.directory.all_tenants_recipients(&[address(at)]).await.unwrap();
        assert_eq!(found[0].clone().unwrap().state, account.state);
        account.state
    };
    assert_eq!(
        (state_of("a@one.test").await, state_of("b@one.test").await),
        (State::Active, State::Suspended)
    );
    let set = |state| MailboxUpdate { state: Some(state), ..MailboxUpdate::default() };
    let b = address("b@one.test");
    store.directory.update_mailbox(one, &b, &set(State::Active), &actor(), AT).await.unwrap();
    assert_eq!(state_of("b@one.test").await, State::Active);
    let tenant = TenantUpdate { state: Some(State::Suspended), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &tenant, &actor(), AT).await.unwrap();
    assert_eq!(state_of("a@one.test").await, State::Suspended);
}

pub(crate) async fn mailboxes_are_created_one_by_one_in_one_call(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailbox(store, one, "taken@one.test", None).await;
    let news = ["a@one.test", "taken@one.test", "a@two.test", "a@one.test", "b@one.test"].map(new_mailbox);
    let made = store.directory.create_mailboxes(one, &news, &actor(), AT).await.unwrap();
    let outcomes: Vec<_> = made.iter().map(|made| made.as_ref().map(|m| m.address.to_string())).collect();
    assert_eq!(outcomes[0].as_deref(), Ok("a@one.test"));
    assert_eq!(outcomes[1], Err(&Conflict::Address));
    assert_eq!(outcomes[2], Err(&Conflict::ForeignDomain));
    assert_eq!(outcomes[3], Err(&Conflict::Address), "twice in one call");
    assert_eq!(outcomes[4].as_deref(), Ok("b@one.test"));
    let accounts = "SELECT count(*) FROM audit_log WHERE action = 'mailbox.create'";
    assert_eq!(backend.number(accounts).await, 3);
    for at in ["a@one.test", "b@one.test"] {
        let account = store.directory.all_tenants_account(&address(at)).await.unwrap().unwrap();
        assert_eq!(account.password_hash.as_deref(), Some("$hash$1"));
    }
    let none = NewMailbox { credential: None, ..new_mailbox("c@one.test") };
    create(store, one, &none).await.unwrap();
    let account = store.directory.all_tenants_account(&address("c@one.test")).await.unwrap().unwrap();
    assert_eq!(account.password_hash, None);
    assert!(store.directory.create_mailboxes(one, &[], &actor(), AT).await.unwrap().is_empty());
}

pub(crate) async fn mailboxes_are_searched(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let other = Domain { name: domain("other.test"), alias_of: None, created_at: AT };
    store.directory.create_domain(one, &other, false, &actor()).await.unwrap();
    for at in
        ["ann@one.test", "anna@one.test", "an_a@one.test", "bob@one.test", "ann@other.test", "Ünn@one.test"]
    {
        mailbox(store, one, at, None).await;
    }
    let list = async |query: MailboxQuery| {
        let found = store.directory.list_mailboxes(one, &query).await.unwrap();
        found.iter().map(|mailbox| mailbox.address.to_string()).collect::<Vec<_>>()
    };
    let all = MailboxQuery::first(100);
    let prefix = |text: &str| MailboxQuery { prefix: Some(text.into()), ..all.clone() };
    assert_eq!(
        list(all.clone()).await,
        ["an_a@one.test", "ann@one.test", "ann@other.test", "anna@one.test", "bob@one.test", "ünn@one.test"]
    );
    assert_eq!(list(prefix("ann")).await, ["ann@one.test", "ann@other.test", "anna@one.test"]);
    assert_eq!(list(prefix("an_")).await, ["an_a@one.test"], "an underscore is itself");
    assert_eq!(list(prefix("ann@one.test")).await, ["ann@one.test"], "the whole address counts");
    assert!(list(prefix("%")).await.is_empty() && list(prefix("'")).await.is_empty());
    assert_eq!(list(prefix("ü")).await, ["ünn@one.test"]);
    let of_other = MailboxQuery { domain: Some(domain("other.test")), ..all.clone() };
    assert_eq!(list(of_other.clone()).await, ["ann@other.test"]);
    assert!(list(MailboxQuery { prefix: Some("b".into()), ..of_other }).await.is_empty());
    let page = MailboxQuery { after: Some(address("ann@one.test")), limit: 1, ..prefix("ann") };
    assert_eq!(list(page).await, ["ann@other.test"]);
}

pub(crate) async fn quotas_of_mailbox_and_tenant_hold(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let limited = TenantSettings {
        quota_octets: Some(100),
        quota_messages: Some(4),
        mailbox_quota_octets: Some(60),
        mailbox_quota_messages: Some(3),
        ..TenantSettings::default()
    };
    let update = TenantUpdate { settings: Some(limited), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &update, &actor(), AT).await.unwrap();
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", Some(1000)).await;
    let take = async |mailbox, octets| {
        store.index.deliver(one, &entry(), &[message(mailbox, octets)]).await.unwrap().pop().unwrap()
    };
    let delivered = |outcome| matches!(outcome, RowOutcome::Delivered(_));
    assert_eq!(take(a, 61).await, RowOutcome::OverQuota, "the tenant's default cap");
    assert!(delivered(take(a, 60).await));
    assert_eq!(take(a, 1).await, RowOutcome::OverQuota);
    assert_eq!(take(b, 41).await, RowOutcome::OverQuota, "the tenant's pool");
    let free = async |at: &str| {
        let found = store.directory.all_tenants_recipients(&[address(at)]).await.unwrap();
        let found = found[0].clone().unwrap();
        (found.free_octets, found.free_messages)
    };
    assert_eq!(free("b@one.test").await, (Some(40), Some(3)));
    assert!(delivered(take(b, 10).await) && delivered(take(b, 10).await) && delivered(take(b, 10).await));
    assert_eq!(take(b, 1).await, RowOutcome::OverQuota, "the pool of messages, and the cap of three");
    assert_eq!(free("a@one.test").await, (Some(0), Some(0)));
    // One pack for several: who is unknown or full takes nothing of the pool from the others.
    let mut both = [message(maildrop::MailboxId::generate(), 30), message(a, 30), message(b, 5)];
    both[0].octets = 40;
    let taken = store.index.remove_messages(one, b, &[maildrop::Uid(1)], NOT_KEPT, &actor(), AT).await;
    assert_eq!(taken.unwrap().len(), 1);
    let outcomes = store.index.deliver(one, &entry(), &both).await.unwrap();
    assert_eq!(outcomes[..2], [RowOutcome::Unknown, RowOutcome::OverQuota]);
    assert!(delivered(outcomes[2]), "{outcomes:?}");
    let back = store.index.remove_messages(one, b, &[maildrop::Uid(4)], NOT_KEPT, &actor(), AT).await;
    assert_eq!(back.unwrap().len(), 1);
    assert!(delivered(take(b, 10).await));
    let usage = store.index.usage(one).await.unwrap();
    assert_eq!((usage.mailboxes, usage.messages, usage.octets, usage.allocated_octets), (2, 4, 90, 1000));
    store.directory.delete_mailbox(one, &address("b@one.test"), &actor(), AT).await.unwrap();
    let usage = store.index.usage(one).await.unwrap();
    assert_eq!((usage.mailboxes, usage.messages, usage.octets, usage.allocated_octets), (1, 1, 60, 0));
}

pub(crate) async fn quotas_are_not_given_away_twice(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let limited = TenantSettings {
        quota_octets: Some(100),
        over_allocation_percent: Some(150),
        ..TenantSettings::default()
    };
    let update = TenantUpdate { settings: Some(limited), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &update, &actor(), AT).await.unwrap();
    let with = |at: &str, quota| NewMailbox {
        settings: MailboxSettings { quota_octets: quota, ..MailboxSettings::default() },
        ..new_mailbox(at)
    };
    let news = [with("a@one.test", Some(100)), with("b@one.test", Some(51)), with("c@one.test", Some(50))];
    let made = store.directory.create_mailboxes(one, &news, &actor(), AT).await.unwrap();
    assert!(made[0].is_ok() && made[2].is_ok());
    assert_eq!(made[1].as_ref().unwrap_err(), &Conflict::OverAllocated);
    let boundless = create(store, one, &with("d@one.test", None)).await;
    assert_eq!(boundless.unwrap_err(), Conflict::OverAllocated, "no quota is more than any room");
    let set = |quota| MailboxUpdate {
        settings: Some(MailboxSettings { quota_octets: quota, ..MailboxSettings::default() }),
        ..MailboxUpdate::default()
    };
    let c = address("c@one.test");
    assert_conflict(
        store.directory.update_mailbox(one, &c, &set(Some(51)), &actor(), AT).await,
        Conflict::OverAllocated,
    );
    store.directory.update_mailbox(one, &c, &set(Some(10)), &actor(), AT).await.unwrap();
    assert!(create(store, one, &with("e@one.test", Some(40))).await.is_ok());
    // When there is less than was given away, quotas can still be lowered, one by one.
    let less = TenantSettings {
        quota_octets: Some(50),
        over_allocation_percent: Some(100),
        ..TenantSettings::default()
    };
    let update = TenantUpdate { settings: Some(less), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &update, &actor(), AT).await.unwrap();
    let a = address("a@one.test");
    assert!(store.directory.update_mailbox(one, &a, &set(Some(90)), &actor(), AT).await.is_ok());
    assert_conflict(
        store.directory.update_mailbox(one, &a, &set(Some(91)), &actor(), AT).await,
        Conflict::OverAllocated,
    );
}

pub(crate) async fn a_tenants_deletion_begins_with_its_key(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    for i in 0..25 {
        let b = mailbox(store, one, &format!("b{i}@one.test"), None).await;
        deliver(store, one, b, 10).await;
    }
    deliver(store, two, mailbox(store, two, "x@two.test", None).await, 10).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, one, a, node).await;
    assert!(store.directory.begin_tenant_deletion(one, &actor(), AT).await.unwrap());
    assert!(store.directory.tenant(one).await.unwrap().is_none(), "nobody finds its key any more");
    let left = store.directory.tenant_by_name(&"one".try_into().unwrap()).await.unwrap().unwrap();
    assert_eq!((left.state, left.key.0.len()), (State::Deleting, 0));
    assert!(store.directory.all_tenants_account(&address("a@one.test")).await.unwrap().is_none());
    assert_eq!(
        store.index.commit_update(one, a, token, &[], NOT_KEPT).await.unwrap(),
        maildrop::port::CommitOutcome::LockLost
    );
    assert_eq!(
        store.index.deliver(one, &entry(), &[message(a, 1)]).await.unwrap(),
        [RowOutcome::Unknown],
        "what was on its way is refused"
    );
    // Some rows at a time, as often as it takes, by whichever node.
    let (mut calls, mut last) = (0, 0);
    let done = loop {
        let done = store.directory.continue_tenant_deletion(one, 10, 2).await.unwrap().unwrap();
        assert!(done.rows_deleted - last <= 10, "{done:?}");
        last = done.rows_deleted;
        calls += 1;
        if !done.rows_left {
            break done;
        }
    };
    assert!(calls >= 5 && done.objects_deleted == 2 * calls, "{done:?}");
    let under_way = store.directory.all_tenants_deletions(10).await.unwrap();
    assert_eq!((under_way.len(), under_way[0].tenant, under_way[0].finished_at), (1, one, None));
    let now = time::OffsetDateTime::now_utc();
    store.directory.finish_tenant_deletion(one, now).await.unwrap();
    assert!(store.directory.all_tenants_deletions(10).await.unwrap().is_empty());
    assert!(store.directory.all_tenants_list_deletions(None, 10).await.unwrap()[0].finished_at.is_some());
    // The list goes on where a page ended: newest first.
    let mut begun = vec![one];
    for i in 0..3 {
        let more = tenant(store, &format!("more{i}")).await;
        let at = AT + time::Duration::minutes(i + 1);
        assert!(store.directory.begin_tenant_deletion(more, &actor(), at).await.unwrap());
        begun.insert(0, more);
    }
    let mut listed = Vec::new();
    loop {
        let after = listed.last().copied();
        let page = store.directory.all_tenants_list_deletions(after, 3).await.unwrap();
        listed.extend(page.iter().map(|deletion| deletion.tenant));
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(listed, begun);
    for more in &begun[..3] {
        while store.directory.continue_tenant_deletion(*more, 100, 0).await.unwrap().unwrap().rows_left {}
        store.directory.finish_tenant_deletion(*more, now).await.unwrap();
    }
    assert!(store.directory.continue_tenant_deletion(one, 10, 0).await.unwrap().is_none());
    for table in ["tenants", "domains", "mailboxes", "messages", "packs"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(backend.number(&sql).await, 1, "{table}: the other tenant's alone");
    }
    assert_eq!(store.index.usage(two).await.unwrap().messages, 1);
    tenant(store, "one").await;
}
