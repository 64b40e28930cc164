//! What is kept of passwords, by logins and for them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so")]

use std::{path::Path, sync::Arc, time::Duration};

use auth::{AuthError, Authenticator, Hasher, HasherConfig, Password, Sealed, VerifiedCache};
use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Address, Domain, DomainName, FairGate, LoginMechanism, MailboxId, MailboxSettings, NewMailbox,
    Policy, State, Tenant, TenantCache, TenantId, TenantName, TenantSettings,
    port::{Account, BlobStore, Clock as _, SystemClock},
};

/// The password is "correct horse".
const IMPORTED: &str = "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo";
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const OTHER_KEY: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// A tenant with one mailbox, `a@one.test`, whose password is [`IMPORTED`].
struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    address: Address,
}

impl Fixture {
    async fn new(policy: Policy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store: Store = Arc::new(Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap()).into();
        let actor = Actor { name: "test".into(), origin: "local".into(), request: String::new() };
        let at = SystemClock.now();
        let id = TenantId::generate();
        let tenant = Tenant {
            id,
            name: TenantName::try_from("one").unwrap(),
            state: State::Active,
            revision: 1,
            settings: TenantSettings { policy, ..TenantSettings::default() },
            key: blob(dir.path(), KEY).await.new_tenant_key(id).await.unwrap(),
            created_at: at,
        };
        store.directory.create_tenant(&tenant, &actor).await.unwrap();
        let name = DomainName::try_from("one.test").unwrap();
        let domain = Domain { name, alias_of: None, created_at: at };
        store.directory.create_domain(tenant.id, &domain, false, &actor).await.unwrap();
        let address = Address::try_from("a@one.test").unwrap();
        let mailbox = NewMailbox {
            id: MailboxId::generate(),
            address: address.clone(),
            credential: Some(IMPORTED.to_owned().into()),
            suspended: false,
            settings: MailboxSettings::default(),
        };
        store.directory.create_mailboxes(tenant.id, &[mailbox], &actor, at).await.unwrap()[0]
            .as_ref()
            .unwrap();
        Self { dir, store, address }
    }

    /// The logins of a node with this master key.
    async fn node(&self, master_key: &str) -> Authenticator {
        let config = HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() };
        let tenants = TenantCache::new(Arc::clone(&self.store.directory));
        Authenticator::new(
            Arc::clone(&self.store.directory),
            Hasher::new(config).unwrap(),
            VerifiedCache::new(10, Duration::from_mins(1)),
            Sealed::new(blob(self.dir.path(), master_key).await, tenants, [7; 32]),
            FairGate::new(10, 10),
        )
    }

    /// The account, once it is as `expected`.
    async fn account(&self, expected: impl Fn(&Account) -> bool) -> Account {
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let account = self.store.directory.all_tenants_account(&self.address).await.unwrap().unwrap();
                if expected(&account) {
                    break account;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap()
    }
}

async fn blob(dir: &Path, master_key: &str) -> Arc<dyn BlobStore> {
    let objects = Arc::new(DiskStore::open(DiskConfig::new(dir.join("packs"))).await.unwrap());
    let key = MasterKey::parse(master_key).unwrap();
    let layout = BlobLayout::new("").unwrap();
    Arc::new(Packs::new(objects, Keyring::new(Arc::new(key)), layout, PacksConfig::default()))
}

fn password(text: &str) -> Password {
    Password::new(text.as_bytes().to_vec())
}

#[tokio::test]
async fn an_outdated_hash_is_replaced_after_a_good_login_and_no_other() {
    let fixture = Fixture::new(Policy::default()).await;
    let node = fixture.node(KEY).await;
    node.verify("a@one.test", &password("wrong")).await.unwrap_err();
    let stored = fixture.account(|_| true).await;
    assert_eq!((stored.password_hash.as_deref(), stored.credential_version), (Some(IMPORTED), 1));
    node.verify("a@one.test", &password("correct horse")).await.unwrap();
    let stored = fixture.account(|account| account.password_hash.as_deref() != Some(IMPORTED)).await;
    let hash = stored.password_hash.unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{hash}");
    assert_eq!(stored.credential_version, 1, "it is the same password: nobody has to log in anew");
    // Remembered now: nothing is hashed again.
    assert!(node.verify("a@one.test", &password("correct horse")).await.unwrap().remembered);
    let again = node.verify_again("a@one.test", &password("correct horse")).await.unwrap();
    assert!(!again.remembered, "good under the new hash as well");
    assert_eq!(fixture.account(|_| true).await.password_hash, Some(hash));
}

#[tokio::test]
async fn while_keys_cannot_be_used_no_name_is_told_from_another() {
    let mechanisms = vec![LoginMechanism::User, LoginMechanism::Apop];
    let fixture = Fixture::new(Policy { login_mechanisms: Some(mechanisms), ..Policy::default() }).await;
    fixture.node(KEY).await.verify("a@one.test", &password("correct horse")).await.unwrap();
    fixture.account(|account| account.verifiers.is_some()).await;
    let wrong = fixture.node(KEY).await.verify_apop("a@one.test", "<1@x>", [0; 16]).await.unwrap_err();
    assert!(matches!(wrong, AuthError::BadCredentials { tenant: Some(_) }), "{wrong:?}");

    let node = fixture.node(OTHER_KEY).await;
    let known = node.verify_apop("a@one.test", "<1@x>", [0; 16]).await.unwrap_err();
    assert!(matches!(known, AuthError::Unavailable(None)), "never a wrong password: {known:?}");
    let unknown = node.verify_apop("b@one.test", "<1@x>", [0; 16]).await.unwrap_err();
    assert!(matches!(unknown, AuthError::Unavailable(None)), "{unknown:?}");
    // That is nothing to others.
    for nobody in ["a@two.test", "?"] {
        let unknown = node.verify_apop(nobody, "<1@x>", [0; 16]).await.unwrap_err();
        assert!(matches!(unknown, AuthError::BadCredentials { tenant: None }), "{nobody}: {unknown:?}");
    }
    // What needs no key goes on.
    node.verify("a@one.test", &password("correct horse")).await.unwrap();
    let unknown = node.verify("b@one.test", &password("correct horse")).await.unwrap_err();
    assert!(matches!(unknown, AuthError::BadCredentials { tenant: None }), "{unknown:?}");
}
