//! What a tenant is and may do: settings, quotas, aliases, credentials, keys, certificates.

use maildrop::{
    Alias, AliasAddress, ApiKey, ApiKeyId, AppPassword, Certificate, CredentialId, Domain, LoginScope,
    MailboxSettings, NewMailbox, Policy, Role, State, TenantLimits, TenantSettings,
    port::{
        APP_PASSWORDS_MAX, AuditEntry, AuditQuery, Conflict, IndexError, MailboxQuery, MailboxUpdate,
        RowOutcome, TenantUpdate,
    },
};

use crate::{backend::Backend, fixture::*};

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: Result<T, IndexError>, expected: Conflict) {
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

pub(crate) async fn aliases_lead_to_their_mailboxes(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let two = tenant(store, "two").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, one, "b@one.test", None).await;
    let alias = |at: &str, mailbox: &str| Alias {
        address: AliasAddress::try_from(at).unwrap(),
        mailbox: address(mailbox),
        created_at: AT,
    };
    let make = async |tenant, at: &str, mailbox: &str| {
        store.directory.create_alias(tenant, &alias(at, mailbox), &actor()).await
    };
    make(one, "sales@one.test", "a@one.test").await.unwrap();
    make(one, "@one.test", "b@one.test").await.unwrap();
    assert_conflict(make(one, "sales@one.test", "b@one.test").await, Conflict::Address);
    assert_conflict(make(one, "a@one.test", "b@one.test").await, Conflict::Address);
    assert_conflict(make(one, "x@two.test", "a@one.test").await, Conflict::ForeignDomain);
    assert_conflict(make(one, "x@one.test", "nobody@one.test").await, Conflict::AliasMailbox);
    assert_conflict(make(two, "x@two.test", "a@one.test").await, Conflict::AliasMailbox);
    assert_eq!(
        create(store, one, &new_mailbox("sales@one.test")).await.unwrap_err(),
        Conflict::Address,
        "an alias stands in the way of a mailbox"
    );
    let other_name = Domain { name: domain("uno.test"), alias_of: Some(domain("one.test")), created_at: AT };
    store.directory.create_domain(one, &other_name, false, &actor()).await.unwrap();
    let asked =
        ["sales@one.test", "anything@one.test", "a@one.test", "a@uno.test", "sales@uno.test", "x@two.test"];
    let found = store.directory.all_tenants_recipients(&asked.map(address)).await.unwrap();
    let mailboxes: Vec<_> = found.iter().map(|found| found.as_ref().map(|found| found.mailbox)).collect();
    assert_eq!(mailboxes, [Some(a), Some(b), Some(a), Some(a), Some(a), None]);
    let account = store.directory.all_tenants_account(&address("a@uno.test")).await.unwrap().unwrap();
    assert_eq!(account.mailbox, a, "an alias domain is good for logins");
    assert!(store.directory.all_tenants_account(&address("sales@one.test")).await.unwrap().is_none());
    // What is in use stays.
    let refused = store.directory.delete_domain(one, &domain("one.test"), &actor(), AT).await;
    assert_conflict(refused, Conflict::DomainInUse);
    let chained = Domain { name: domain("un.test"), alias_of: Some(domain("uno.test")), created_at: AT };
    assert_conflict(
        store.directory.create_domain(one, &chained, false, &actor()).await,
        Conflict::AliasDomain,
    );
    let foreign = Domain { name: domain("un.test"), alias_of: Some(domain("two.test")), created_at: AT };
    assert_conflict(
        store.directory.create_domain(one, &foreign, false, &actor()).await,
        Conflict::AliasDomain,
    );
    assert_eq!(
        create(store, one, &new_mailbox("x@uno.test")).await.unwrap_err(),
        Conflict::ForeignDomain,
        "an alias domain has no mailboxes of its own"
    );
    let listed = store.directory.list_aliases(one, None, 10).await.unwrap();
    let texts: Vec<_> = listed.iter().map(|alias| alias.address.to_string()).collect();
    assert_eq!(texts, ["@one.test", "sales@one.test"]);
    let after = store.directory.list_aliases(one, Some(&listed[0].address), 10).await.unwrap();
    assert_eq!(after, listed[1..]);
    let sales = &listed[1].address;
    assert_eq!(store.directory.alias(one, sales).await.unwrap().as_ref(), Some(&listed[1]));
    assert!(store.directory.alias(two, sales).await.unwrap().is_none());
    assert!(!store.directory.delete_alias(two, sales, &actor(), AT).await.unwrap());
    assert!(store.directory.delete_alias(one, sales, &actor(), AT).await.unwrap());
    assert!(!store.directory.delete_alias(one, sales, &actor(), AT).await.unwrap());
    // An alias goes with its mailbox.
    store.directory.delete_mailbox(one, &address("b@one.test"), &actor(), AT).await.unwrap();
    assert!(store.directory.list_aliases(one, None, 10).await.unwrap().is_empty());
}

pub(crate) async fn app_passwords_come_and_go(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let two = tenant(store, "two").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    let at = address("a@one.test");
    let password = |label: &str, expires_at| AppPassword {
        id: CredentialId::generate(),
        label: label.into(),
        scope: LoginScope::ReadOnly,
        expires_at,
        last_used_at: None,
        created_at: AT,
    };
    let phone = password("phone", None);
    let expired = password("old", Some(AT));
    for password in [&phone, &expired] {
        let hash = format!("$hash${}", password.label);
        assert!(store.directory.create_app_password(one, &at, password, &hash, &actor()).await.unwrap());
    }
    assert!(!store.directory.create_app_password(two, &at, &phone, "x", &actor()).await.unwrap());
    let account = store.directory.all_tenants_account(&at).await.unwrap().unwrap();
    let hashes: Vec<_> =
        account.app_passwords.iter().map(|p| (p.id, p.hash.as_str(), p.scope, p.expires_at)).collect();
    assert_eq!(
        hashes,
        [(phone.id, "$hash$phone", LoginScope::ReadOnly, None)],
        "what expired is not offered"
    );
    let listed = store.directory.app_passwords(one, &at).await.unwrap().unwrap();
    assert_eq!(listed, [phone.clone(), expired.clone()]);
    assert!(store.directory.app_passwords(two, &at).await.unwrap().is_none());
    // Used, and again within the hour.
    for minutes in [0, 30] {
        let now = AT + time::Duration::minutes(minutes);
        store.directory.touch_app_password(one, a, phone.id, now).await.unwrap();
    }
    let listed = store.directory.app_passwords(one, &at).await.unwrap().unwrap();
    assert_eq!(listed[0].last_used_at, Some(AT));
    store.directory.rehash(one, a, "$hash$phone", "$new$").await.unwrap();
    store.directory.rehash(one, a, "$hash$1", "$newer$").await.unwrap();
    store.directory.rehash(one, a, "$hash$1", "$too late$").await.unwrap();
    let after = store.directory.all_tenants_account(&at).await.unwrap().unwrap();
    assert_eq!(after.app_passwords[0].hash, "$new$");
    assert_eq!(after.password_hash.as_deref(), Some("$newer$"));
    assert_eq!(after.credential_version, account.credential_version, "nobody has to log in anew");
    assert!(!store.directory.delete_app_password(two, &at, phone.id, &actor(), AT).await.unwrap());
    assert!(store.directory.delete_app_password(one, &at, phone.id, &actor(), AT).await.unwrap());
    assert!(!store.directory.delete_app_password(one, &at, phone.id, &actor(), AT).await.unwrap());
    let gone = store.directory.all_tenants_account(&at).await.unwrap().unwrap();
    assert!(gone.app_passwords.is_empty() && gone.credential_version > after.credential_version);
    for i in 0..APP_PASSWORDS_MAX - 1 {
        let more = password(&i.to_string(), None);
        assert!(store.directory.create_app_password(one, &at, &more, "x", &actor()).await.unwrap());
    }
    let more = password("one too many", None);
    let refused = store.directory.create_app_password(one, &at, &more, "x", &actor()).await;
    assert_conflict(refused, Conflict::AppPasswords);
}

pub(crate) async fn api_keys_belong_to_a_tenant_or_to_none(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    let two = tenant(&backend.store, "two").await;
    let key = |tenant: Option<maildrop::TenantId>, role| ApiKey {
        id: ApiKeyId::generate(),
        tenant,
        role,
        label: "billing".into(),
        created_by: "test".into(),
        expires_at: None,
        last_used_at: None,
        created_at: AT,
    };
    let (own, platform) = (key(Some(one), Role::TenantAdmin), key(None, Role::Metrics));
    directory.create_api_key(&own, &[1; 32], &actor()).await.unwrap();
    directory.create_api_key(&platform, &[2; 32], &actor()).await.unwrap();
    assert_eq!(directory.all_tenants_api_key(own.id).await.unwrap(), Some((own.clone(), [1; 32])));
    assert_eq!(directory.all_tenants_api_key(ApiKeyId::generate()).await.unwrap(), None);
    assert_eq!(directory.list_api_keys(Some(one), None, 10).await.unwrap(), std::slice::from_ref(&own));
    assert_eq!(directory.list_api_keys(None, None, 10).await.unwrap(), std::slice::from_ref(&platform));
    assert!(directory.list_api_keys(Some(two), None, 10).await.unwrap().is_empty());
    assert!(directory.list_api_keys(Some(one), Some(own.id), 10).await.unwrap().is_empty());
    directory.touch_api_key(own.id, AT).await.unwrap();
    directory.touch_api_key(own.id, AT + time::Duration::SECOND).await.unwrap();
    let (touched, _) = directory.all_tenants_api_key(own.id).await.unwrap().unwrap();
    assert_eq!(touched.last_used_at, Some(AT));
    for foreign in [Some(two), None] {
        assert!(!directory.delete_api_key(foreign, own.id, &actor(), AT).await.unwrap());
    }
    assert!(directory.delete_api_key(Some(one), own.id, &actor(), AT).await.unwrap());
    assert!(directory.all_tenants_api_key(own.id).await.unwrap().is_none());
}

pub(crate) async fn certificates_belong_to_the_nearest_domain(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let two = tenant(store, "two").await;
    let certificate = |host: &str| Certificate {
        host: host.into(),
        chain: format!("chain of {host}"),
        sealed_key: vec![1, 2, 3],
        not_after: AT,
        created_at: AT,
    };
    let put = async |tenant, host: &str| {
        store.directory.put_certificate(tenant, &certificate(host), &actor()).await
    };
    assert!(put(one, "pop.one.test").await.unwrap());
    assert!(!put(one, "pop.one.test").await.unwrap(), "replaced");
    assert!(put(one, "*.one.test").await.unwrap());
    assert_conflict(put(two, "pop.one.test").await, Conflict::ForeignHost);
    assert_conflict(put(one, "pop.nowhere.example").await, Conflict::ForeignHost);
    let found = async |host: &str| store.directory.all_tenants_certificate(host).await.unwrap();
    let exact = found("pop.one.test").await.unwrap();
    assert_eq!((exact.tenant, exact.certificate.host.as_str()), (one, "pop.one.test"));
    assert_eq!(exact.key, maildrop::SealedKey(vec![1, 2, 3]));
    assert_eq!(found("imap.one.test").await.unwrap().certificate.host, "*.one.test");
    assert!(found("a.b.one.test").await.is_none(), "a wildcard stands for one label");
    assert!(found("pop.two.test").await.is_none());
    // Another tenant gets a nearer domain: the host is no longer the first one's.
    let nearer = Domain { name: domain("pop.one.test"), alias_of: None, created_at: AT };
    assert_conflict(store.directory.create_domain(two, &nearer, false, &actor()).await, Conflict::DomainName);
    let over = Domain { name: domain("test"), alias_of: None, created_at: AT };
    assert_conflict(store.directory.create_domain(two, &over, false, &actor()).await, Conflict::DomainName);
    store.directory.create_domain(two, &nearer, true, &actor()).await.unwrap();
    // What the first tenant left there does not keep the second one from having its own.
    assert!(put(two, "pop.one.test").await.unwrap());
    assert_eq!(found("pop.one.test").await.unwrap().tenant, two);
    // The first one's audit log says that its own is gone, and nothing of the second one.
    let gone = AuditQuery {
        tenant: Some(one),
        action: Some("certificate.delete".into()),
        limit: 9,
        ..AuditQuery::default()
    };
    let gone = store.records.audit(&gone).await.unwrap();
    let said = |entry: &AuditEntry| (entry.actor.clone(), entry.request.clone(), entry.target.clone());
    assert_eq!(
        gone.iter().map(said).collect::<Vec<_>>(),
        [("postern".into(), String::new(), "pop.one.test".into())]
    );
    assert_eq!(gone[0].before.as_ref().unwrap()["host"], "pop.one.test");
    assert!(store.directory.delete_certificate(two, "pop.one.test", &actor(), AT).await.unwrap());
    assert!(found("pop.one.test").await.is_none());
    assert!(store.directory.delete_domain(two, &domain("pop.one.test"), &actor(), AT).await.unwrap());
    assert!(put(one, "pop.one.test").await.unwrap());
    let suspend = TenantUpdate { state: Some(State::Suspended), ..TenantUpdate::default() };
    store.directory.update_tenant(one, &suspend, &actor(), AT).await.unwrap();
    assert!(found("pop.one.test").await.is_none());
    let hosts = async |tenant, after| {
        let listed = store.directory.list_certificates(tenant, after, 10).await.unwrap();
        listed.into_iter().map(|certificate| certificate.host).collect::<Vec<_>>()
    };
    assert_eq!(hosts(one, None).await, ["*.one.test", "pop.one.test"]);
    assert_eq!(hosts(one, Some("*.one.test")).await, ["pop.one.test"]);
    assert!(hosts(two, None).await.is_empty());
    assert!(store.directory.certificate(two, "pop.one.test").await.unwrap().is_none());
    assert!(!store.directory.delete_certificate(two, "pop.one.test", &actor(), AT).await.unwrap());
    assert!(store.directory.delete_certificate(one, "pop.one.test", &actor(), AT).await.unwrap());
    assert!(store.directory.certificate(one, "pop.one.test").await.unwrap().is_none());
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

pub(crate) async fn of_two_that_lie_within_each_other_one_is_created(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let second = backend.second().await.directory;
    for i in 0..20 {
        let named = |name: &str| Domain { name: domain(name), alias_of: None, created_at: AT };
        let (over, under) = (named(&format!("d{i}.example")), named(&format!("a.d{i}.example")));
        let (by, other) = (actor(), actor());
        let (first, second) = tokio::join!(
            store.directory.create_domain(one, &over, false, &by),
            second.create_domain(two, &under, false, &other),
        );
        match (first, second) {
            (Ok(()), refused @ Err(_)) | (refused @ Err(_), Ok(())) => {
                assert_conflict(refused, Conflict::DomainName);
            }
            both => panic!("{i}: {both:?}"),
        }
    }
}
