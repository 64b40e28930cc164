//! An outdated hash is replaced after the first good login, and by nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use auth::{Authenticator, Hasher, HasherConfig, Password, Rehash, VerifiedCache};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Address, Domain, DomainName, MailboxId, NewMailbox, SealedKey, Tenant, TenantId, TenantName,
    port::{Clock as _, SystemClock},
};
use tokio::sync::mpsc;

/// The password is "correct horse".
const IMPORTED: &str = "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo";

#[derive(Debug)]
struct Told(mpsc::UnboundedSender<(TenantId, MailboxId, String, String)>);

#[async_trait]
impl Rehash for Told {
    async fn rehash(&self, tenant: TenantId, mailbox: MailboxId, old_hash: &str, new_hash: &str) {
        self.0.send((tenant, mailbox, old_hash.to_owned(), new_hash.to_owned())).unwrap();
    }
}

#[tokio::test]
async fn after_a_good_login_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap()).into();
    let actor = Actor { name: "test".into(), origin: "local".into() };
    let (tenant, at) = (TenantId::generate(), SystemClock.now());
    let name = TenantName::try_from("one").unwrap();
    let key = SealedKey(vec![0; 32]);
    store.directory.create_tenant(&Tenant { id: tenant, name, key, created_at: at }, &actor).await.unwrap();
    let domain = Domain { name: DomainName::try_from("one.test").unwrap(), created_at: at };
    store.directory.create_domain(tenant, &domain, &actor).await.unwrap();
    let mailbox = NewMailbox {
        id: MailboxId::generate(),
        address: Address::try_from("a@one.test").unwrap(),
        password_hash: IMPORTED.into(),
        quota_octets: None,
    };
    store.directory.create_mailbox(tenant, &mailbox, &actor, at).await.unwrap();

    let hasher = Hasher::new(HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() }).unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let verified = VerifiedCache::new(10, Duration::from_mins(1));
    let authenticator =
        Authenticator::new(store.directory, hasher, verified).with_rehash(Arc::new(Told(tell)));
    let password = |text: &str| Password::new(text.as_bytes().to_vec());
    authenticator.verify("a@one.test", &password("wrong")).await.unwrap_err();
    authenticator.verify("a@one.test", &password("correct horse")).await.unwrap();
    let (of_tenant, of_mailbox, old, new) = told.recv().await.unwrap();
    assert_eq!((of_tenant, of_mailbox, old.as_str()), (tenant, mailbox.id, IMPORTED));
    assert!(new.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{new}");
    // Remembered now: nothing is hashed again.
    assert!(authenticator.verify("a@one.test", &password("correct horse")).await.unwrap().remembered);
    drop(authenticator);
    assert_eq!(told.recv().await, None);
}
