//! Tenants, mailboxes and messages to play with.

use std::time::Duration;

use index::Store;
use maildrop::{
    Actor, Address, Credential, Digest, Domain, DomainName, Extent, LockToken, Mailbox, MailboxId,
    MailboxSettings, NewMailbox, NodeId, PackId, SealedKey, State, StoredEntry, Tenant, TenantId, TenantName,
    TenantSettings, Uid, View,
    port::{Conflict, NewMessage, OpenOutcome, OpenRequest, Opened, RowOutcome},
};
use time::OffsetDateTime;

/// A time all fixtures share, in whole microseconds, as databases keep them.
pub(crate) const AT: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

pub(crate) fn actor() -> Actor {
    Actor { name: "test".into(), origin: "127.0.0.1".into(), request: "r-1".into() }
}

pub(crate) fn address(text: &str) -> Address {
    Address::try_from(text).unwrap()
}

/// What is deleted is not kept.
pub(crate) const NOT_KEPT: Duration = Duration::ZERO;

/// A tenant that is not there yet.
pub(crate) fn new_tenant(name: &str) -> Tenant {
    Tenant {
        id: TenantId::generate(),
        name: TenantName::try_from(name).unwrap(),
        state: State::Active,
        revision: 1,
        settings: TenantSettings::default(),
        key: SealedKey(vec![1, 2, 3]),
        created_at: AT,
    }
}

pub(crate) async fn tenant(store: &Store, name: &str) -> TenantId {
    let tenant = new_tenant(name);
    store.directory.create_tenant(&tenant, &actor()).await.unwrap();
    let domain = Domain { name: domain(&format!("{name}.test")), alias_of: None, created_at: AT };
    store.directory.create_domain(tenant.id, &domain, false, &actor()).await.unwrap();
    tenant.id
}

pub(crate) fn domain(name: &str) -> DomainName {
    DomainName::try_from(name).unwrap()
}

pub(crate) async fn mailbox(store: &Store, tenant: TenantId, at: &str, quota: Option<u64>) -> MailboxId {
    let new = NewMailbox {
        settings: MailboxSettings { quota_octets: quota, ..MailboxSettings::default() },
        ..new_mailbox(at)
    };
    create(store, tenant, &new).await.unwrap().id
}

/// A mailbox that is not there yet.
pub(crate) fn new_mailbox(at: &str) -> NewMailbox {
    NewMailbox {
        id: MailboxId::generate(),
        address: address(at),
        credential: Some("$hash$1".to_owned().into()),
        suspended: false,
        settings: MailboxSettings::default(),
    }
}

/// Creates one mailbox.
pub(crate) async fn create(store: &Store, tenant: TenantId, new: &NewMailbox) -> Result<Mailbox, Conflict> {
    let made = store.directory.create_mailboxes(tenant, std::slice::from_ref(new), &actor(), AT).await;
    made.unwrap().pop().unwrap()
}

/// Deletes a tenant, to the end.
pub(crate) async fn delete_tenant(store: &Store, tenant: TenantId) -> bool {
    if !store.directory.begin_tenant_deletion(tenant, &actor(), AT).await.unwrap() {
        return false;
    }
    while store.directory.continue_tenant_deletion(tenant, 100, 0).await.unwrap().unwrap().rows_left {}
    store.directory.finish_tenant_deletion(tenant, AT).await.unwrap();
    true
}

pub(crate) fn entry() -> StoredEntry {
    let extent = Extent { pack: PackId::generate(), offset: 64, length: 100 };
    StoredEntry { extent, pack_octets: 200, pack_entries: 1 }
}

pub(crate) fn message(mailbox: MailboxId, octets: u64) -> NewMessage {
    NewMessage {
        mailbox,
        octets,
        ascii_extra: None,
        header_octets: 10,
        digest: Digest([7; 32]),
        delivered_to: "a@one.test".into(),
        unique_id: None,
        received_at: AT,
    }
}

/// Delivers a message of its own and tells its uid.
pub(crate) async fn deliver(store: &Store, tenant: TenantId, mailbox: MailboxId, octets: u64) -> Uid {
    match store.index.deliver(tenant, &entry(), &[message(mailbox, octets)]).await.unwrap()[..] {
        [RowOutcome::Delivered(uid)] => uid,
        ref other => panic!("{other:?}"),
    }
}

/// A node that lives for `ttl`.
pub(crate) async fn node(store: &Store, ttl: Duration) -> NodeId {
    let node = NodeId::generate();
    store.index.heartbeat(node, "test", ttl).await.unwrap();
    node
}

pub(crate) const LONG: Duration = Duration::from_mins(10);

/// A request with nothing special about it.
pub(crate) fn request(tenant: TenantId, mailbox: MailboxId, node: NodeId, token: LockToken) -> OpenRequest {
    OpenRequest {
        tenant,
        mailbox,
        tenant_revision: 1,
        credential_version: 1,
        credential: Credential::Password,
        token,
        node,
        session: format!("s{}", &token.as_uuid().simple().to_string()[..8]),
        peer: "192.0.2.1".into(),
        login_delay: Duration::ZERO,
        sessions_max: None,
    }
}

pub(crate) async fn open(
    store: &Store,
    tenant: TenantId,
    mailbox: MailboxId,
    node: NodeId,
) -> (LockToken, OpenOutcome) {
    let token = LockToken::generate();
    let request = request(tenant, mailbox, node, token);
    (token, store.index.open(request).await.unwrap())
}

/// Opens a maildrop that must be free.
pub(crate) async fn opened(
    store: &Store,
    tenant: TenantId,
    mailbox: MailboxId,
    node: NodeId,
) -> (LockToken, Opened) {
    match open(store, tenant, mailbox, node).await {
        (token, OpenOutcome::Opened(opened)) => (token, opened),
        (_, other) => panic!("{other:?}"),
    }
}

pub(crate) async fn uids(store: &Store, tenant: TenantId, mailbox: MailboxId) -> Vec<u64> {
    let listing = store.index.listing(tenant, mailbox, Uid(u64::MAX >> 1), View::default()).await.unwrap();
    (0..listing.len()).map(|i| listing.get(i).unwrap().uid.0).collect()
}
