//! The port to who exists and who may: tenants, domains, mailboxes, aliases, credentials, keys, certificates.

use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{
    Actor, Address, Alias, AliasAddress, ApiKey, ApiKeyId, AppPassword, Certificate, CredentialId, Domain,
    DomainName, LoginScope, LoginSettings, Mailbox, MailboxId, MailboxSettings, NewCredential, NewMailbox,
    Policy, Rules, SealedKey, State, StoreNumber, Tenant, TenantBuckets, TenantId, TenantLogin, TenantName,
    TenantSettings,
    port::{Conflict, IndexError},
};

/// Who exists. Changes are written to the audit log in the same transaction as what they change.
#[async_trait]
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// The account that logs in as `login`, whichever tenant it belongs to (the login name decides), and how logins
    /// are verified in its domain, whether there is such an account or not. An alias domain counts as the domain it
    /// stands for.
    async fn all_tenants_login(&self, login: &Address) -> Result<LoginLookup, IndexError>;

    /// The account alone.
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError> {
        Ok(self.all_tenants_login(login).await?.account)
    }

    /// The mailboxes mail for these addresses goes to, in their order; `None` for an unknown address. A
    /// mailbox goes before an alias, an alias before a catch-all.
    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError>;

    /// The tenant with this identity.
    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError>;

    /// The tenant with this name.
    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError>;

    /// Up to `limit` tenants by name, from after `after`.
    async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError>;

    /// Creates a tenant. A taken name is [`IndexError::Conflict`].
    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError>;

    /// Sets what is set of a tenant. Whoever is logged in stays so; logins remembered by nodes are verified
    /// anew. `None` where there is no such tenant, or it is being deleted.
    async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &TenantUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Tenant>, IndexError>;

    /// How the tenant's logins are verified; `None` where there is no such tenant, or it is being deleted.
    async fn tenant_login(&self, tenant: TenantId) -> Result<Option<TenantLogin>, IndexError>;

    /// Sets how the tenant's logins are verified: `if_version` is what its version has to be, if any ([`Conflict::Revision`] otherwise). Logins remembered by nodes are verified anew. Gives the new
    /// version; `None` where there is no such tenant, or it is being deleted.
    async fn set_tenant_login(
        &self,
        tenant: TenantId,
        settings: &LoginSettings,
        secrets: Option<&[u8]>,
        if_version: Option<i64>,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError>;

    /// The stores of the tenant's own, those of one that is being deleted, too; `None` where there is no such tenant.
    async fn tenant_buckets(&self, tenant: TenantId) -> Result<Option<TenantBuckets>, IndexError>;

    /// Sets the stores of the tenant's own where their version is still the one that `stored` has
    /// ([`Conflict::Revision`] otherwise), and gives the new one; `None` where there is no such tenant, or it is being
    /// deleted.
    async fn set_tenant_buckets(
        &self,
        tenant: TenantId,
        stored: &TenantBuckets,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError>;

    /// What lies in each store of the tenant, the house's included, by number; stores with nothing are left out. Packs
    /// whose objects are deleted do not count. Reads all packs of the tenant.
    async fn packs_by_store(&self, tenant: TenantId) -> Result<Vec<StorePacks>, IndexError>;

    /// Begins to delete a tenant: its data key is destroyed, its domains, keys and certificates go, and its
    /// sessions end. From here on nothing of it can be read, and the rest may take its time. `false` where
    /// there is none, `true` again where that was begun before.
    async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Deletes up to some `limit` rows of a tenant that is being deleted. `objects` is how many objects were
    /// deleted since the last call. Gives what has been done so far.
    async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError>;

    /// Ends the deletion of a tenant that has no rows and no objects any more: its name is free.
    async fn finish_tenant_deletion(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), IndexError>;

    /// Up to `limit` deletions that are under way, oldest first.
    async fn all_tenants_deletions(&self, limit: u32) -> Result<Vec<TenantDeletion>, IndexError>;

    /// Up to `limit` deletions under way, or finished in the last 30 days, newest first; those begun before that of
    /// `after`.
    async fn all_tenants_list_deletions(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError>;

    /// Forgets up to `limit` deletions of tenants that were finished before `before`, and gives how many.
    async fn all_tenants_forget_deletions(
        &self,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<u64, IndexError>;

    /// Creates a domain. A taken name (by whichever tenant) is [`IndexError::Conflict`], as is an `alias_of`
    /// that is no domain of the tenant, or itself an alias. So is a name that lies under another tenant's, or
    /// over it, unless it may be `nested`: whose domain is the nearest to a host decides whose host it is, which
    /// is for the platform to say.
    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError>;

    /// The domain of this name.
    async fn domain(&self, tenant: TenantId, name: &DomainName) -> Result<Option<Domain>, IndexError>;

    /// Up to `limit` domains of the tenant by name, from after `after`.
    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError>;

    /// Deletes a domain; `false` where the tenant has none of that name. One that still has mailboxes,
    /// aliases or alias domains is [`IndexError::Conflict`].
    async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Creates mailboxes: one result each, in their order; what stands in the way of one does not touch the
    /// others. All that can be created are, in one transaction.
    async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError>;

    /// The mailbox with this address.
    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError>;

    /// Mailboxes of the tenant by address (octet by octet).
    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError>;

    /// Sets what is set of a mailbox; `None` where there is none. Logins remembered by nodes are verified
    /// anew. Suspending one ends its session.
    async fn update_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        update: &MailboxUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Mailbox>, IndexError>;

    /// Replaces the password's hash and what is kept beside it; `false` where there is no such mailbox. Every node
    /// that remembers the old password forgets it at its next use.
    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        credential: &NewCredential,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Replaces the hash of a password that did not change, if it is still `old`: another scheme, another
    /// cost. Nobody is asked to log in anew.
    async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError>;

    /// Keeps verifiers of a password beside its hash, sealed under the tenant's key, if the credential is still of
    /// this version. Nobody is asked to log in anew.
    async fn keep_verifiers(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
        sealed: &[u8],
    ) -> Result<(), IndexError>;

    /// Deletes a mailbox with its aliases and credentials; `false` where there is none. Its session ends, its
    /// address is free, and nothing leads to its messages any more; their rows go in the steps of
    /// [`continue_mailbox_deletion`](Self::continue_mailbox_deletion).
    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Up to `limit` mailboxes that were deleted and may have rows left, oldest deletions first.
    async fn all_tenants_mailbox_deletions(
        &self,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError>;

    /// Deletes up to `limit` rows of a mailbox that was deleted. Gives whether there may be rows left; where there
    /// are none, the deletion is over.
    async fn continue_mailbox_deletion(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
    ) -> Result<bool, IndexError>;

    /// Adds an app password; `false` where there is no such mailbox. More than [`APP_PASSWORDS_MAX`] is
    /// [`IndexError::Conflict`].
    async fn create_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password: &AppPassword,
        hash: &str,
        actor: &Actor,
    ) -> Result<bool, IndexError>;

    /// The app passwords of a mailbox, oldest first; `None` where there is no such mailbox.
    async fn app_passwords(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Vec<AppPassword>>, IndexError>;

    /// Deletes an app password; `false` where there is none.
    async fn delete_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        id: CredentialId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Notes that an app password was used, unless that was noted within the hour.
    async fn touch_app_password(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        id: CredentialId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError>;

    /// Creates an alias. A taken address, an address of a foreign domain, or a mailbox that is none is
    /// [`IndexError::Conflict`].
    async fn create_alias(&self, tenant: TenantId, alias: &Alias, actor: &Actor) -> Result<(), IndexError>;

    /// The alias with this address.
    async fn alias(&self, tenant: TenantId, address: &AliasAddress) -> Result<Option<Alias>, IndexError>;

    /// Up to `limit` aliases of the tenant by address (octet by octet), from after `after`.
    async fn list_aliases(
        &self,
        tenant: TenantId,
        after: Option<&AliasAddress>,
        limit: u32,
    ) -> Result<Vec<Alias>, IndexError>;

    /// Deletes an alias; `false` where there is none.
    async fn delete_alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// The API key with this identity, of whichever tenant or none, and the hash of its secret.
    async fn all_tenants_api_key(&self, id: ApiKeyId) -> Result<Option<(ApiKey, [u8; 32])>, IndexError>;

    /// Creates an API key.
    async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError>;

    /// Up to `limit` keys of the tenant, or of the platform, by identity, from after `after`.
    async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError>;

    /// Deletes an API key of the tenant, or of the platform; `false` where there is none.
    async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Notes that an API key was used, unless that was noted within the minute.
    async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError>;

    /// The certificate for a host that a client asks for: one for the very host, or else for `*.` and what
    /// comes after its first label. Not of a tenant that is suspended.
    async fn all_tenants_certificate(&self, host: &str) -> Result<Option<HostCertificate>, IndexError>;

    /// Puts a certificate in the place of the one for its host. A host outside the tenant's domains is
    /// [`IndexError::Conflict`]. `true` where there was none before.
    async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError>;

    /// The certificate for this host.
    async fn certificate(&self, tenant: TenantId, host: &str) -> Result<Option<Certificate>, IndexError>;

    /// Up to `limit` certificates of the tenant by host, from after `after`.
    async fn list_certificates(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Certificate>, IndexError>;

    /// Deletes a certificate; `false` where there is none.
    async fn delete_certificate(
        &self,
        tenant: TenantId,
        host: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;
}

/// App passwords of one mailbox at most: each may cost a login a password hash.
pub const APP_PASSWORDS_MAX: usize = 10;

/// Whose a login name is.
#[derive(Clone, Debug, Default)]
pub struct LoginLookup {
    /// The tenant of its domain, if it is some tenant's.
    pub domain: Option<LoginDomain>,
    /// The account, if there is one.
    pub account: Option<Account>,
}

/// A domain that somebody logs in at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginDomain {
    /// Its tenant.
    pub tenant: TenantId,
    /// The domain's name; of an alias domain, that of the domain it stands for.
    pub name: String,
    /// The version of how the tenant's logins are verified ([`TenantLogin::version`]).
    pub login_version: i64,
}

/// An account as login needs it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Whether it may log in: suspended where its tenant or itself is.
    pub state: State,
    /// Grows with each change of the tenant.
    pub tenant_revision: i64,
    /// Grows with each change of a credential or of the mailbox's policy; what was verified under another
    /// version no longer counts.
    pub credential_version: i64,
    /// The password's hash, if it has one.
    pub password_hash: Option<String>,
    /// What mechanisms that never see the password are verified by, sealed under the tenant's key.
    pub verifiers: Option<Vec<u8>>,
    /// The app passwords that have not expired, oldest first.
    pub app_passwords: Vec<AppPasswordHash>,
    /// What it lives under.
    pub rules: Arc<Rules>,
}

/// An app password as login needs it.
#[derive(Clone, Debug)]
pub struct AppPasswordHash {
    /// Its identity.
    pub id: CredentialId,
    /// Its hash.
    pub hash: String,
    /// What it is good for.
    pub scope: LoginScope,
    /// When it ceases to be good, if ever.
    pub expires_at: Option<OffsetDateTime>,
}

/// A mailbox that mail is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedRecipient {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Whether it takes mail: suspended where its tenant or itself is.
    pub state: State,
    /// Octets that still fit in, by its quota and its tenant's, or no limit.
    pub free_octets: Option<u64>,
    /// Messages that still fit in, by its quota and its tenant's, or no limit.
    pub free_messages: Option<u64>,
    /// What it lives under.
    pub rules: Arc<Rules>,
}

/// A change of a tenant.
#[derive(Clone, Debug, Default)]
pub struct TenantUpdate {
    /// Only if the tenant's revision is this one; [`Conflict::Revision`] otherwise.
    pub if_revision: Option<i64>,
    /// The new settings, all of them.
    pub settings: Option<TenantSettings>,
    /// The new state: active or suspended.
    pub state: Option<State>,
}

/// A change of a mailbox.
#[derive(Clone, Debug, Default)]
pub struct MailboxUpdate {
    /// Only if the mailbox's revision is this one; [`Conflict::Revision`] otherwise.
    pub if_revision: Option<i64>,
    /// The new settings, all of them.
    pub settings: Option<MailboxSettings>,
    /// The new state: active or suspended.
    pub state: Option<State>,
}

/// Which mailboxes of a tenant to list.
#[derive(Clone, Debug)]
pub struct MailboxQuery {
    /// From after this address.
    pub after: Option<Address>,
    /// Only addresses that begin with this text, in lower case.
    pub prefix: Option<String>,
    /// Only addresses of this domain.
    pub domain: Option<DomainName>,
    /// So many at most.
    pub limit: u32,
}

impl MailboxQuery {
    /// All, up to `limit`.
    pub fn first(limit: u32) -> Self {
        Self { after: None, prefix: None, domain: None, limit }
    }
}

/// A certificate as a handshake needs it.
#[derive(Clone, Debug)]
pub struct HostCertificate {
    /// Its tenant.
    pub tenant: TenantId,
    /// The tenant's data key, which its key is sealed under.
    pub key: SealedKey,
    /// The certificate.
    pub certificate: Certificate,
    /// The tenant's policy.
    pub policy: Policy,
    /// How the tenant's logins are verified.
    pub login: LoginSettings,
}

/// How far the deletion of a tenant has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantDeletion {
    /// The tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: TenantName,
    /// Rows deleted so far.
    pub rows_deleted: u64,
    /// Whether there may be rows left.
    pub rows_left: bool,
    /// Objects deleted so far.
    pub objects_deleted: u64,
    /// When it was begun. The data key was destroyed then.
    pub begun_at: OffsetDateTime,
    /// When it was finished, if it is.
    pub finished_at: Option<OffsetDateTime>,
}

/// What lies in a store of a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StorePacks {
    /// Which.
    pub store: StoreNumber,
    /// Packs in it.
    pub packs: u64,
    /// Their octets.
    pub octets: u64,
}
