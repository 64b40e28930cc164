//! The port to who exists: tenants, domains, mailboxes and their credentials.

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{
    Actor, Address, Domain, DomainName, Mailbox, MailboxId, NewMailbox, Tenant, TenantId, TenantName,
    port::IndexError,
};

/// Who exists. Changes are written to the audit log in the same transaction as what they change.
#[async_trait]
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// The account that logs in as `login`, whichever tenant it belongs to (the login name decides).
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError>;

    /// The mailboxes mail for these addresses goes to, in their order; `None` for an unknown address.
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

    /// Deletes a tenant with everything it has; `false` where there is none.
    async fn delete_tenant(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Creates a domain. A taken name (by whichever tenant) is [`IndexError::Conflict`].
    async fn create_domain(&self, tenant: TenantId, domain: &Domain, actor: &Actor)
    -> Result<(), IndexError>;

    /// Up to `limit` domains of the tenant by name, from after `after`.
    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError>;

    /// Deletes a domain; `false` where the tenant has none of that name. One that still has mailboxes is
    /// [`IndexError::Conflict`].
    async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Creates a mailbox. A taken address, or a domain that is not the tenant's, is
    /// [`IndexError::Conflict`].
    async fn create_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &NewMailbox,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Mailbox, IndexError>;

    /// The mailbox with this address.
    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError>;

    /// Up to `limit` mailboxes of the tenant by address, from after `after`.
    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        after: Option<&Address>,
        limit: u32,
    ) -> Result<Vec<Mailbox>, IndexError>;

    /// Replaces the password's hash; `false` where there is no such mailbox. Every node that remembers the
    /// old password forgets it at its next use.
    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password_hash: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;

    /// Deletes a mailbox with its messages; `false` where there is none.
    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError>;
}

/// An account as login needs it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Grows with each change of a credential; what was verified under another version no longer counts.
    pub credential_version: i64,
    /// The password's hash in PHC form.
    pub password_hash: String,
}

/// A mailbox that takes mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResolvedRecipient {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// Octets that still fit in, or no limit.
    pub free_octets: Option<u64>,
}
