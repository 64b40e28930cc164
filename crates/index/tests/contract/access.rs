//! What leads to a tenant's mailboxes: aliases, credentials, keys, certificates.

use maildrop::{
    Alias, AliasAddress, ApiKey, ApiKeyId, AppPassword, Certificate, CredentialId, Domain, LoginScope, Role,
    State,
    port::{APP_PASSWORDS_MAX, AuditEntry, AuditQuery, Conflict, TenantUpdate},
};

use crate::{backend::Backend, fixture::*, tenancy::assert_conflict};

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
