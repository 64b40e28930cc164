//! Who exists, and who may know it (P5).

use index::Store;
use maildrop::{
    BucketPlace, Domain, LoginSettings, MailboxId, NewCredential, NewMailbox, PackId, PasswordBackend,
    SealedKey, StoreNumber, TenantBuckets, TenantId, TenantLogin, TenantName, TenantSettings, Uid, View,
    port::{
        CommitOutcome, Conflict, IndexError, LoginDomain, MailboxQuery, RowOutcome, StorePacks, TenantUpdate,
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

pub(crate) async fn names_are_unique(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    let two = tenant(&backend.store, "two").await;
    let again = new_tenant("one");
    assert_conflict(directory.create_tenant(&again, &actor()).await, Conflict::TenantName);
    let taken = Domain { name: domain("one.test"), alias_of: None, created_at: AT };
    assert_conflict(directory.create_domain(one, &taken, false, &actor()).await, Conflict::DomainName);
    assert_conflict(directory.create_domain(two, &taken, true, &actor()).await, Conflict::DomainName);
    mailbox(&backend.store, one, "a@one.test", None).await;
    for (at, conflict) in [
        ("A@ONE.test", Conflict::Address),
        ("a@two.test", Conflict::ForeignDomain),
        ("a@nowhere.test", Conflict::ForeignDomain),
    ] {
        assert_eq!(create(&backend.store, one, &new_mailbox(at)).await.unwrap_err(), conflict);
    }
    assert_conflict(
        directory.delete_domain(one, &domain("one.test"), &actor(), AT).await,
        Conflict::DomainInUse,
    );
    assert!(!directory.delete_domain(two, &domain("one.test"), &actor(), AT).await.unwrap());
    assert!(directory.delete_domain(two, &domain("two.test"), &actor(), AT).await.unwrap());
}

pub(crate) async fn lists_are_paged(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    tenant(&backend.store, "two").await;
    for name in ["c", "a", "b"] {
        mailbox(&backend.store, one, &format!("{name}@one.test"), None).await;
    }
    let page = directory.list_mailboxes(one, &MailboxQuery::first(2)).await.unwrap();
    let texts = |page: &[maildrop::Mailbox]| page.iter().map(|m| m.address.to_string()).collect::<Vec<_>>();
    assert_eq!(texts(&page), ["a@one.test", "b@one.test"]);
    let after = MailboxQuery { after: Some(page[1].address.clone()), ..MailboxQuery::first(2) };
    let page = directory.list_mailboxes(one, &after).await.unwrap();
    assert_eq!(texts(&page), ["c@one.test"]);
    let tenants = directory.all_tenants_list(None, 10).await.unwrap();
    assert_eq!(tenants.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let after = TenantName::try_from("one").unwrap();
    assert_eq!(directory.all_tenants_list(Some(&after), 10).await.unwrap().len(), 1);
    assert_eq!(directory.list_domains(one, None, 10).await.unwrap().len(), 1);
    assert!(directory.list_domains(one, Some(&domain("one.test")), 10).await.unwrap().is_empty());
}

pub(crate) async fn one_tenants_broken_row_is_no_others(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, two, "b@two.test", None).await;
    backend.execute("UPDATE tenants SET policy = '[7]' WHERE name = 'one'").await;
    // Many at once, so that they share statements.
    let asked = (0..40).map(|n| {
        let of = address(if n % 2 == 0 { "a@one.test" } else { "b@two.test" });
        async move { store.directory.all_tenants_recipients(&[of]).await }
    });
    for (n, found) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
        match found {
            Ok(found) => assert_eq!(found[0].as_ref().unwrap().mailbox, b, "{n}"),
            Err(_) => assert_eq!(n % 2, 0, "{n}"),
        }
    }
    assert_ne!(a, b);
}

pub(crate) async fn accounts_and_recipients_are_found(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    let a = mailbox(&backend.store, one, "a@one.test", Some(100)).await;
    let account = directory.all_tenants_account(&address("A@one.TEST")).await.unwrap().unwrap();
    assert_eq!((account.tenant, account.mailbox, account.credential_version), (one, a, 1));
    assert_eq!(account.password_hash.as_deref(), Some("$hash$1"));
    assert!(directory.all_tenants_account(&address("b@one.test")).await.unwrap().is_none());
    let asked = ["b@one.test", "a@one.test", "a@two.test"].map(address);
    let found = directory.all_tenants_recipients(&asked).await.unwrap();
    assert!(found[0].is_none() && found[2].is_none());
    let found = found[1].clone().unwrap();
    assert_eq!((found.tenant, found.mailbox, found.free_octets), (one, a, Some(100)));
    mailbox(&backend.store, one, "free@one.test", None).await;
    let found = directory.all_tenants_recipients(&[address("free@one.test")]).await.unwrap();
    assert_eq!(found[0].clone().unwrap().free_octets, None, "no quota is no limit");
    let tenant = directory.tenant(one).await.unwrap().unwrap();
    assert_eq!((tenant.name.as_str(), tenant.key, tenant.created_at), ("one", SealedKey(vec![1, 2, 3]), AT));
}

pub(crate) async fn logins_are_set_with_their_version(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    let two = tenant(&backend.store, "two").await;
    mailbox(&backend.store, one, "a@one.test", None).await;
    let alias = Domain { name: domain("uno.test"), alias_of: Some(domain("one.test")), created_at: AT };
    directory.create_domain(one, &alias, false, &actor()).await.unwrap();
    // Whose a name is, whether anybody has it or not.
    let lookup = async |at: &str| directory.all_tenants_login(&address(at)).await.unwrap();
    for (at, there) in
        [("a@one.test", true), ("b@one.test", false), ("a@uno.test", true), ("b@uno.test", false)]
    {
        let found = lookup(at).await;
        let expected = LoginDomain { tenant: one, name: "one.test".into(), login_version: 0 };
        assert_eq!((found.domain, found.account.is_some()), (Some(expected), there), "{at}");
    }
    assert!(lookup("a@nobody.test").await.domain.is_none());
    assert_eq!(directory.tenant_login(one).await.unwrap(), Some(TenantLogin::default()));
    let before = lookup("a@one.test").await.account.unwrap();
    let settings = LoginSettings {
        passwords: PasswordBackend::None,
        remember_secs: Some(5),
        ..LoginSettings::default()
    };
    let set = async |tenant, secrets: Option<&[u8]>, if_version| {
        directory.set_tenant_login(tenant, &settings, secrets, if_version, &actor(), AT).await
    };
    assert_eq!(set(one, Some(b"sealed"), Some(0)).await.unwrap(), Some(1));
    assert!(matches!(set(one, None, Some(0)).await, Err(IndexError::Conflict(Conflict::Revision))));
    let expected = TenantLogin { settings: settings.clone(), secrets: Some(b"sealed".to_vec()), version: 1 };
    assert_eq!(directory.tenant_login(one).await.unwrap(), Some(expected));
    let after = lookup("a@one.test").await;
    assert_eq!(after.domain.unwrap().login_version, 1);
    // What nodes remember of logins counts no longer.
    assert!(after.account.unwrap().tenant_revision > before.tenant_revision);
    assert_eq!(directory.tenant_login(two).await.unwrap(), Some(TenantLogin::default()), "the other's stay");
    // Other changes of the tenant leave it alone.
    let update = TenantUpdate { settings: Some(TenantSettings::default()), ..TenantUpdate::default() };
    directory.update_tenant(one, &update, &actor(), AT).await.unwrap();
    assert_eq!(directory.tenant_login(one).await.unwrap().unwrap().version, 1);
    assert_eq!(set(one, None, None).await.unwrap(), Some(2));
    assert_eq!(directory.tenant_login(one).await.unwrap().unwrap().secrets, None);
    assert_eq!(set(TenantId::generate(), None, None).await.unwrap(), None);
    assert!(directory.begin_tenant_deletion(one, &actor(), AT).await.unwrap());
    assert_eq!(directory.tenant_login(one).await.unwrap(), None);
    assert_eq!(set(one, None, None).await.unwrap(), None);
}

pub(crate) async fn passwords_change_with_their_version(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    mailbox(&backend.store, one, "a@one.test", None).await;
    let a = address("a@one.test");
    assert!(directory.set_password(one, &a, &"$hash$9".to_owned().into(), &actor(), AT).await.unwrap());
    let account = directory.all_tenants_account(&a).await.unwrap().unwrap();
    assert_eq!((account.credential_version, account.password_hash.as_deref()), (2, Some("$hash$9")));
    // What is kept beside the hash goes with it, and is kept for the version it was made for.
    assert_eq!(account.verifiers, None);
    let with = NewCredential { hash: "$hash$10".into(), verifiers: Some(b"sealed".to_vec()) };
    assert!(directory.set_password(one, &a, &with, &actor(), AT).await.unwrap());
    let kept = async || directory.all_tenants_account(&a).await.unwrap().unwrap().verifiers;
    assert_eq!(kept().await.as_deref(), Some(&b"sealed"[..]));
    directory.keep_verifiers(one, account.mailbox, 2, b"of the password before").await.unwrap();
    assert_eq!(kept().await.as_deref(), Some(&b"sealed"[..]));
    let two = tenant(&backend.store, "two").await;
    directory.keep_verifiers(two, account.mailbox, 3, b"of another tenant").await.unwrap();
    assert_eq!(kept().await.as_deref(), Some(&b"sealed"[..]));
    directory.keep_verifiers(one, account.mailbox, 3, b"new").await.unwrap();
    assert_eq!(kept().await.as_deref(), Some(&b"new"[..]));
    let account = directory.all_tenants_account(&a).await.unwrap().unwrap();
    assert_eq!(account.credential_version, 3, "nobody has to log in anew");
    directory.rehash(one, account.mailbox, "$hash$10", "$hash$10b").await.unwrap();
    directory.rehash(one, account.mailbox, "$hash$10", "$too late$").await.unwrap();
    let rehashed = directory.all_tenants_account(&a).await.unwrap().unwrap();
    assert_eq!(rehashed.password_hash.as_deref(), Some("$hash$10b"));
    assert_eq!(rehashed.verifiers.as_deref(), Some(&b"new"[..]), "the password is the same");
    assert!(directory.set_password(one, &a, &"$hash$11".to_owned().into(), &actor(), AT).await.unwrap());
    assert_eq!(kept().await, None);
    let new = NewMailbox { credential: Some(with), ..new_mailbox("c@one.test") };
    create(&backend.store, one, &new).await.unwrap();
    let made = directory.all_tenants_account(&address("c@one.test")).await.unwrap().unwrap();
    assert_eq!(made.verifiers.as_deref(), Some(&b"sealed"[..]));
    assert!(
        !directory
            .set_password(one, &address("b@one.test"), &"x".to_owned().into(), &actor(), AT)
            .await
            .unwrap()
    );
}

pub(crate) async fn deletions_are_whole(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let b = mailbox(store, two, "b@two.test", None).await;
    deliver(store, one, a, 1).await;
    deliver(store, two, b, 1).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, one, a, node).await;
    assert!(delete_tenant(store, one).await);
    assert!(!delete_tenant(store, one).await);
    for table in ["tenants", "domains", "mailboxes", "messages", "packs"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(backend.number(&sql).await, 1, "{table}: the other tenant's alone");
    }
    let commit = store.index.commit_update(one, a, token, &[Uid(1)], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    // A mailbox that is made again under the same address is another one, and empty.
    assert!(store.directory.delete_mailbox(two, &address("b@two.test"), &actor(), AT).await.unwrap());
    let again = mailbox(store, two, "b@two.test", None).await;
    assert_ne!(again, b);
    assert!(uids(store, two, again).await.is_empty());
}

/// Delivers `count` messages, each in a pack of its own, and deletes half of them so that they are kept.
pub(crate) async fn fill(store: &Store, tenant: TenantId, mailbox: MailboxId, count: u64) {
    for _ in 0..count {
        deliver(store, tenant, mailbox, 1).await;
    }
    let half: Vec<Uid> = (1..=count / 2).map(Uid).collect();
    let removed = store.index.remove_messages(tenant, mailbox, &half, LONG, &actor(), AT).await.unwrap();
    assert_eq!(removed.len(), half.len());
}

pub(crate) async fn a_mailbox_is_deleted_in_steps(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    let other = mailbox(store, one, "other@one.test", None).await;
    fill(store, one, a, 60).await;
    deliver(store, one, other, 1).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, one, a, node).await;
    let at = address("a@one.test");
    assert!(store.directory.delete_mailbox(one, &at, &actor(), AT).await.unwrap());
    assert!(!store.directory.delete_mailbox(one, &at, &actor(), AT).await.unwrap());
    // From here on it is gone for everybody, and counts for nothing, though its rows are there.
    assert!(store.directory.mailbox(one, &at).await.unwrap().is_none());
    assert!(store.directory.all_tenants_account(&at).await.unwrap().is_none());
    assert!(store.directory.all_tenants_recipients(&[at]).await.unwrap()[0].is_none());
    let late = store.index.deliver(one, &entry(), &[message(a, 1)]).await.unwrap();
    assert_eq!(late, [RowOutcome::Unknown]);
    let commit = store.index.commit_update(one, a, token, &[Uid(60)], NOT_KEPT).await.unwrap();
    assert_eq!(commit, CommitOutcome::LockLost);
    assert!(uids(store, one, a).await.is_empty(), "nor does a session that is open see any of it");
    assert!(store.index.messages(one, a, Uid(1), Uid(99), 9).await.unwrap().is_empty());
    let restored = store.index.restore_message(one, a, Uid(1), &actor(), AT).await.unwrap();
    assert_eq!(restored, RowOutcome::Unknown);
    let usage = store.index.usage(one).await.unwrap();
    assert_eq!((usage.mailboxes, usage.messages, usage.octets), (1, 1, 1));
    // Its address is free: what is made there is another mailbox, which the rest of the deletion spares.
    let again = mailbox(store, one, "a@one.test", None).await;
    deliver(store, one, again, 1).await;
    let garbage = backend.number("SELECT count(*) FROM pack_garbage").await;
    let left = async || {
        let sql = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM deleted_messages)";
        backend.number(sql).await - 2
    };
    assert_eq!(left().await, 60);
    assert_eq!(store.directory.all_tenants_mailbox_deletions(9).await.unwrap(), [(one, a)]);
    assert!(!store.directory.continue_mailbox_deletion(two, a, 25).await.unwrap(), "not the other tenant's");
    assert!(
        !store.directory.continue_mailbox_deletion(one, other, 25).await.unwrap(),
        "nor one that is there"
    );
    assert_eq!(left().await, 60);
    assert!(store.directory.continue_mailbox_deletion(one, a, 25).await.unwrap());
    assert_eq!(left().await, 35);
    // Another node takes it up.
    let second = backend.second().await.directory;
    assert_eq!(second.all_tenants_mailbox_deletions(9).await.unwrap(), [(one, a)]);
    assert!(second.continue_mailbox_deletion(one, a, 25).await.unwrap());
    assert!(!second.continue_mailbox_deletion(one, a, 25).await.unwrap());
    assert!(!second.continue_mailbox_deletion(one, a, 25).await.unwrap(), "to ask again is harmless");
    assert!(second.all_tenants_mailbox_deletions(9).await.unwrap().is_empty());
    assert_eq!((left().await, uids(store, one, again).await), (0, vec![1]));
    assert_eq!(backend.number("SELECT count(*) FROM pack_garbage").await - garbage, 60);
}

pub(crate) async fn a_tenants_deletion_takes_deleted_mailboxes_along(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    fill(store, one, a, 10).await;
    assert!(store.directory.delete_mailbox(one, &address("a@one.test"), &actor(), AT).await.unwrap());
    assert!(delete_tenant(store, one).await);
    for table in ["mailbox_deletions", "messages", "deleted_messages"] {
        assert_eq!(backend.number(&format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert!(!store.directory.continue_mailbox_deletion(one, a, 25).await.unwrap());
}

pub(crate) async fn tenants_do_not_meet(backend: &Backend) {
    let store = &backend.store;
    let (one, two) = (tenant(store, "one").await, tenant(store, "two").await);
    let a = mailbox(store, one, "a@one.test", None).await;
    deliver(store, one, a, 10).await;
    let directory = &store.directory;
    let at = address("a@one.test");
    // Every method that takes a tenant, asked as the other one.
    assert!(directory.mailbox(two, &at).await.unwrap().is_none());
    assert!(directory.list_mailboxes(two, &MailboxQuery::first(10)).await.unwrap().is_empty());
    assert!(
        !directory.list_domains(two, None, 10).await.unwrap().iter().any(|d| d.name.as_str() == "one.test")
    );
    assert!(!directory.set_password(two, &at, &"x".to_owned().into(), &actor(), AT).await.unwrap());
    assert!(!directory.delete_mailbox(two, &at, &actor(), AT).await.unwrap());
    assert!(!directory.delete_domain(two, &domain("one.test"), &actor(), AT).await.unwrap());
    assert!(store.index.listing(two, a, Uid(99), View::default()).await.unwrap().is_empty());
    assert!(store.index.messages(two, a, Uid(1), Uid(99), 9).await.unwrap().is_empty());
    let node = node(store, LONG).await;
    assert_eq!(open(store, two, a, node).await.1, maildrop::port::OpenOutcome::Stale);
    let outcome = store.index.deliver(two, &entry(), &[message(a, 1)]).await.unwrap();
    assert_eq!(outcome, [RowOutcome::Unknown]);
    let (token, _) = opened(store, one, a, node).await;
    store.index.release(two, a, token).await.unwrap();
    assert_eq!(open(store, one, a, node).await.1, maildrop::port::OpenOutcome::InUse);
    assert_eq!(uids(store, one, a).await, [1]);
}

pub(crate) async fn changes_are_audited(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    mailbox(store, one, "a@one.test", None).await;
    let a = address("a@one.test");
    store.directory.set_password(one, &a, &"x".to_owned().into(), &actor(), AT).await.unwrap();
    store.directory.delete_mailbox(one, &a, &actor(), AT).await.unwrap();
    store.directory.delete_domain(one, &domain("one.test"), &actor(), AT).await.unwrap();
    delete_tenant(store, one).await;
    for action in [
        "tenant.create",
        "domain.create",
        "mailbox.create",
        "mailbox.set_password",
        "mailbox.delete",
        "domain.delete",
        "tenant.delete",
    ] {
        let sql = format!("SELECT count(*) FROM audit_log WHERE action = '{action}' AND actor = 'test'");
        assert_eq!(backend.number(&sql).await, 1, "{action}");
    }
    // What was refused is not in it.
    assert!(!delete_tenant(store, one).await);
    assert_eq!(backend.number("SELECT count(*) FROM audit_log").await, 7);
}

pub(crate) async fn the_key_check_keeps_the_first(backend: &Backend) {
    let index = &backend.store.index;
    assert_eq!(index.key_check(b"first").await.unwrap(), b"first");
    assert_eq!(backend.second().await.index.key_check(b"second").await.unwrap(), b"first");
    index.ready().await.unwrap();
}

pub(crate) async fn buckets_are_set_with_their_version(backend: &Backend) {
    let directory = &backend.store.directory;
    let one = tenant(&backend.store, "one").await;
    let two = tenant(&backend.store, "two").await;
    assert_eq!(directory.tenant_buckets(one).await.unwrap(), Some(TenantBuckets::default()));
    let mut stored = TenantBuckets {
        key: Some(SealedKey(vec![4, 5])),
        secrets: Some(b"sealed".to_vec()),
        ..TenantBuckets::default()
    };
    let place = BucketPlace { bucket: "own".into(), access_key_id: "key".into(), ..BucketPlace::default() };
    stored.buckets.turn_to(place, AT).unwrap();
    let set = async |tenant, stored: &TenantBuckets| {
        directory.set_tenant_buckets(tenant, stored, &actor(), AT).await
    };
    assert_eq!(set(one, &stored).await.unwrap(), Some(1));
    assert_conflict(set(one, &stored).await, Conflict::Revision);
    stored.version = 1;
    assert_eq!(directory.tenant_buckets(one).await.unwrap(), Some(stored.clone()));
    assert_eq!(
        directory.tenant_buckets(two).await.unwrap(),
        Some(TenantBuckets::default()),
        "the other's stay"
    );
    stored.buckets.leave(AT);
    assert_eq!(set(one, &stored).await.unwrap(), Some(2));
    assert!(directory.tenant_buckets(one).await.unwrap().unwrap().buckets.current.is_house());
    assert_eq!(set(TenantId::generate(), &TenantBuckets::default()).await.unwrap(), None);
    // What clears them is needed until the tenant is gone.
    assert!(directory.begin_tenant_deletion(one, &actor(), AT).await.unwrap());
    let left = directory.tenant_buckets(one).await.unwrap().unwrap();
    assert_eq!((left.key, left.secrets), (stored.key.clone(), stored.secrets.clone()));
    assert_eq!(set(one, &left_at(2, stored)).await.unwrap(), None);
    assert_eq!(directory.tenant_buckets(TenantId::generate()).await.unwrap(), None);
}

fn left_at(version: i64, stored: TenantBuckets) -> TenantBuckets {
    TenantBuckets { version, ..stored }
}

pub(crate) async fn packs_are_counted_by_the_store_they_name(backend: &Backend) {
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let two = tenant(store, "two").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    assert_eq!(store.directory.packs_by_store(one).await.unwrap(), []);
    for number in [0, 0, 1, 0xabc] {
        let mut entry = entry();
        entry.extent.pack = PackId::generate_in(StoreNumber(number));
        store.index.deliver(one, &entry, &[message(a, 1)]).await.unwrap();
    }
    let mut found = store.directory.packs_by_store(one).await.unwrap();
    found.sort_by_key(|packs| packs.store);
    let octets = entry().pack_octets;
    let expected = [(0, 2), (1, 1), (0xabc, 1)].map(|(number, packs)| StorePacks {
        store: StoreNumber(number),
        packs,
        octets: packs * octets,
    });
    assert_eq!(found, expected);
    assert_eq!(store.directory.packs_by_store(two).await.unwrap(), []);
}
