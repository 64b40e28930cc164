//! A node with one account.

use std::{path::Path, sync::Arc, time::Duration};

use auth::{Authenticator, Hasher, HasherConfig, Password, Sealed, VerifiedCache};
use blob::{BlobLayout, DiskConfig, DiskStore, Keyring, MasterKey, Packs, PacksConfig};
use index::{Sqlite, Store};
use maildrop::{
    Actor, Address, Domain, DomainName, FairGate, LoginMechanism, MailboxId, MailboxSettings, NewMailbox,
    Policy, State, Tenant, TenantCache, TenantId, TenantName, TenantSettings,
    port::{BlobStore, Clock as _, SystemClock},
};

/// The account's name and password.
pub(super) const LOGIN: &str = "a@one.test";
pub(super) const PASSWORD: &[u8] = b"correct horse";
const PASSWORD_HASH: &str = "{SSHA}9/n6OBTGSyu+bYEM05BnchZP0KH+Jtgo";
const MASTER_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// What verifies its logins, with all that is kept of its password.
pub(super) async fn authenticator(dir: &Path) -> Authenticator {
    let store: Store = Arc::new(Sqlite::open(&dir.join("index.sqlite")).await.unwrap()).into();
    let objects = DiskStore::open(DiskConfig::new(dir.join("packs"))).await.unwrap();
    let keyring = Keyring::new(Arc::new(MasterKey::parse(MASTER_KEY).unwrap()));
    let blob: Arc<dyn BlobStore> = Arc::new(Packs::new(
        Arc::new(objects),
        keyring,
        BlobLayout::new("").unwrap(),
        PacksConfig::default(),
    ));
    let actor = Actor { name: "fuzzing".into(), origin: "local".into(), request: String::new() };
    let at = SystemClock.now();
    let mechanisms = [
        LoginMechanism::User,
        LoginMechanism::CramMd5,
        LoginMechanism::ScramSha1,
        LoginMechanism::ScramSha256,
    ];
    let policy = Policy { login_mechanisms: Some(mechanisms.to_vec()), ..Policy::default() };
    let id = TenantId::generate();
    let tenant = Tenant {
        id,
        name: TenantName::try_from("one").unwrap(),
        state: State::Active,
        revision: 1,
        settings: TenantSettings { policy, ..TenantSettings::default() },
        key: blob.new_tenant_key(id).await.unwrap(),
        created_at: at,
    };
    store.directory.create_tenant(&tenant, &actor).await.unwrap();
    let domain = Domain { name: DomainName::try_from("one.test").unwrap(), alias_of: None, created_at: at };
    store.directory.create_domain(id, &domain, false, &actor).await.unwrap();
    let mailbox = NewMailbox {
        id: MailboxId::generate(),
        address: Address::try_from(LOGIN).unwrap(),
        credential: Some(PASSWORD_HASH.to_owned().into()),
        suspended: false,
        settings: MailboxSettings::default(),
    };
    store.directory.create_mailboxes(id, &[mailbox], &actor, at).await.unwrap()[0].as_ref().unwrap();
    let config = HasherConfig { memory_kib: 64, passes: 1, ..HasherConfig::default() };
    let tenants = TenantCache::new(Arc::clone(&store.directory));
    let authenticator = Authenticator::new(
        Arc::clone(&store.directory),
        Hasher::new(config).unwrap(),
        VerifiedCache::new(10, Duration::from_mins(1)),
        Sealed::new(blob, tenants, [7; 32]),
        FairGate::new(10, 10),
    );
    // What SCRAM and CRAM-MD5 need is kept after the first login.
    authenticator.verify(LOGIN, &Password::new(PASSWORD.to_vec())).await.unwrap();
    let address = Address::try_from(LOGIN).unwrap();
    loop {
        let account = store.directory.all_tenants_account(&address).await.unwrap().unwrap();
        let upgraded = account.password_hash.is_some_and(|hash| hash != PASSWORD_HASH);
        if account.verifiers.is_some() && upgraded {
            return authenticator;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
