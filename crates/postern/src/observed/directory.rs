//! What is asked of the directory.

use std::sync::Arc;

use async_trait::async_trait;
use maildrop::{
    Actor, Address, Domain, DomainName, Mailbox, NewMailbox, Tenant, TenantId, TenantName,
    port::{Account, Directory, IndexError, ResolvedRecipient},
};
use prometheus::Registry;
use time::OffsetDateTime;

use super::Observer;

/// A directory whose operations are counted.
#[derive(Debug)]
pub(crate) struct ObservedDirectory {
    directory: Arc<dyn Directory>,
    observer: Observer,
}

impl ObservedDirectory {
    pub(crate) fn new(directory: Arc<dyn Directory>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations of the directory";
        let observer = Observer::new(registry, "postern_directory_operation", "operation", what)?;
        Ok(Self { directory, observer })
    }
}

#[async_trait]
impl Directory for ObservedDirectory {
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError> {
        self.observer.observe("account", self.directory.all_tenants_account(login)).await
    }

    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        self.observer.observe("recipients", self.directory.all_tenants_recipients(addresses)).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        self.observer.observe("tenant", self.directory.tenant(id)).await
    }

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        self.observer.observe("tenant_by_name", self.directory.tenant_by_name(name)).await
    }

    async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError> {
        self.observer.observe("list_tenants", self.directory.all_tenants_list(after, limit)).await
    }

    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
        self.observer.observe("create_tenant", self.directory.create_tenant(tenant, actor)).await
    }

    async fn delete_tenant(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.observer.observe("delete_tenant", self.directory.delete_tenant(tenant, actor, at)).await
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        self.observer.observe("create_domain", self.directory.create_domain(tenant, domain, actor)).await
    }

    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        self.observer.observe("list_domains", self.directory.list_domains(tenant, after, limit)).await
    }

    async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.observer.observe("delete_domain", self.directory.delete_domain(tenant, name, actor, at)).await
    }

    async fn create_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &NewMailbox,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Mailbox, IndexError> {
        let created = self.directory.create_mailbox(tenant, mailbox, actor, at);
        self.observer.observe("create_mailbox", created).await
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        self.observer.observe("mailbox", self.directory.mailbox(tenant, address)).await
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        after: Option<&Address>,
        limit: u32,
    ) -> Result<Vec<Mailbox>, IndexError> {
        self.observer.observe("list_mailboxes", self.directory.list_mailboxes(tenant, after, limit)).await
    }

    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password_hash: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let set = self.directory.set_password(tenant, address, password_hash, actor, at);
        self.observer.observe("set_password", set).await
    }

    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let deleted = self.directory.delete_mailbox(tenant, address, actor, at);
        self.observer.observe("delete_mailbox", deleted).await
    }
}
