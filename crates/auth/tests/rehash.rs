//! An outdated hash is replaced after the first good login, and by nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::{path::Path, sync::Arc, time::Duration};

use auth::{Authenticator, Hasher, HasherConfig, Password, Sealed, VerifiedCache};
use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Address, Domain, DomainName, FairGate, MailboxId, MailboxSettings, NewMailbox, State, Tenant,
    TenantCache, TenantId, TenantName, TenantSettings,
    port::{BlobStore, Clock as _, SystemClock},
};

/// The password is "correct horse".
const IMPORTED: &str = "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo";

async fn blob(dir: &Path) -> Arc<dyn BlobStore> {
    let objects = Arc::new(DiskStore::open(DiskConfig::new(dir.join("packs"))).await.unwrap());
    let key = MasterKey::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    let layout = BlobLayout::new("").unwrap();
    Arc::new(Packs::new(objects, Keyring::new(Arc::new(key)), layout, PacksConfig::default()))
}

#[tokio::test]
async fn after_a_good_login_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store: Store = Arc::new(Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap()).into();
    let actor = Actor { name: "test".into(), origin: "local".into(), request: String::new() };
    let at = SystemClock.now();
    let id = TenantId::generate();
    let blob = blob(dir.path()).await;
    let tenant = Tenant {
        id,
        name: TenantName::try_from("one").unwrap(),
        state: State::Active,
        revision: 1,
        settings: TenantSettings::default(),
        key: blob.new_tenant_key(id).unwrap(),
        created_at: at,
    };
    store.directory.create_tenant(&tenant, &actor).await.unwrap();
    let domain = Domain { name: DomainName::try_from("one.test").unwrap(), alias_of: None, created_at: at };
    store.directory.create_domain(tenant.id, &domain, false, &actor).await.unwrap();
    let address = Address::try_from("a@one.test").unwrap();
    let mailbox = NewMailbox {
        id: MailboxId::generate(),
        address: address.clone(),
        credential: Some(IMPORTED.to_owned().into()),
        suspended: false,
        settings: MailboxSettings::default(),
    };
    store.directory.create_mailboxes(tenant.id, &[mailbox], &actor, at).await.unwrap()[0].as_ref().unwrap();

    let hasher = Hasher::new(HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() }).unwrap();
    let verified = VerifiedCache::new(10, Duration::from_mins(1));
    let sealed = Sealed::new(blob, TenantCache::new(Arc::clone(&store.directory)), [7; 32]);
    let authenticator =
        Authenticator::new(Arc::clone(&store.directory), hasher, verified, sealed, FairGate::new(10, 10));
    let password = |text: &str| Password::new(text.as_bytes().to_vec());
    let stored = async || {
        let account = store.directory.all_tenants_account(&address).await.unwrap().unwrap();
        (account.password_hash.unwrap(), account.credential_version)
    };
    authenticator.verify("a@one.test", &password("wrong")).await.unwrap_err();
    assert_eq!(stored().await, (IMPORTED.into(), 1));
    authenticator.verify("a@one.test", &password("correct horse")).await.unwrap();
    let (hash, version) = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let stored = stored().await;
            if stored.0 != IMPORTED {
                break stored;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
    assert_eq!(version, 1, "it is the same password: nobody has to log in anew");
    // Remembered now: nothing is hashed again.
    assert!(authenticator.verify("a@one.test", &password("correct horse")).await.unwrap().remembered);
    let again = authenticator.verify_again("a@one.test", &password("correct horse")).await.unwrap();
    assert!(!again.remembered, "good under the new hash as well");
    assert_eq!(stored().await.0, hash);
}
