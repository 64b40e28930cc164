//! What is asked of the directory.

use std::sync::Arc;

use async_trait::async_trait;
use maildrop::{
    Actor, Address, Alias, AliasAddress, ApiKey, ApiKeyId, AppPassword, Certificate, CredentialId, Domain,
    DomainName, LoginSettings, Mailbox, MailboxId, NewCredential, NewMailbox, Tenant, TenantBuckets,
    TenantId, TenantLogin, TenantName,
    port::{
        Conflict, Directory, HostCertificate, IndexError, LoginLookup, MailboxQuery, MailboxUpdate,
        ResolvedRecipient, StorePacks, TenantDeletion, TenantUpdate,
    },
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
    async fn all_tenants_login(&self, login: &Address) -> Result<LoginLookup, IndexError> {
        self.observer.observe("account", self.directory.all_tenants_login(login)).await
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

    async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &TenantUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Tenant>, IndexError> {
        self.observer.observe("update_tenant", self.directory.update_tenant(tenant, update, actor, at)).await
    }

    async fn tenant_login(&self, tenant: TenantId) -> Result<Option<TenantLogin>, IndexError> {
        self.observer.observe("tenant_login", self.directory.tenant_login(tenant)).await
    }

    async fn set_tenant_login(
        &self,
        tenant: TenantId,
        settings: &LoginSettings,
        secrets: Option<&[u8]>,
        if_version: Option<i64>,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError> {
        let work = self.directory.set_tenant_login(tenant, settings, secrets, if_version, actor, at);
        self.observer.observe("set_tenant_login", work).await
    }

    async fn tenant_buckets(&self, tenant: TenantId) -> Result<Option<TenantBuckets>, IndexError> {
        self.observer.observe("tenant_buckets", self.directory.tenant_buckets(tenant)).await
    }

    async fn set_tenant_buckets(
        &self,
        tenant: TenantId,
        stored: &TenantBuckets,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError> {
        let work = self.directory.set_tenant_buckets(tenant, stored, actor, at);
        self.observer.observe("set_tenant_buckets", work).await
    }

    async fn packs_by_store(&self, tenant: TenantId) -> Result<Vec<StorePacks>, IndexError> {
        self.observer.observe("packs_by_store", self.directory.packs_by_store(tenant)).await
    }

    async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let work = self.directory.begin_tenant_deletion(tenant, actor, at);
        self.observer.observe("begin_tenant_deletion", work).await
    }

    async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        let work = self.directory.continue_tenant_deletion(tenant, limit, objects);
        self.observer.observe("continue_tenant_deletion", work).await
    }

    async fn finish_tenant_deletion(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), IndexError> {
        let work = self.directory.finish_tenant_deletion(tenant, at);
        self.observer.observe("finish_tenant_deletion", work).await
    }

    async fn all_tenants_deletions(&self, limit: u32) -> Result<Vec<TenantDeletion>, IndexError> {
        self.observer.observe("deletions", self.directory.all_tenants_deletions(limit)).await
    }

    async fn all_tenants_list_deletions(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        self.observer.observe("list_deletions", self.directory.all_tenants_list_deletions(after, limit)).await
    }

    async fn all_tenants_forget_deletions(
        &self,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let work = self.directory.all_tenants_forget_deletions(before, limit);
        self.observer.observe("forget_deletions", work).await
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let created = self.directory.create_domain(tenant, domain, nested, actor);
        self.observer.observe("create_domain", created).await
    }

    async fn domain(&self, tenant: TenantId, name: &DomainName) -> Result<Option<Domain>, IndexError> {
        self.observer.observe("domain", self.directory.domain(tenant, name)).await
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

    async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        let work = self.directory.create_mailboxes(tenant, mailboxes, actor, at);
        self.observer.observe("create_mailboxes", work).await
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        self.observer.observe("mailbox", self.directory.mailbox(tenant, address)).await
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        self.observer.observe("list_mailboxes", self.directory.list_mailboxes(tenant, query)).await
    }

    async fn update_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        update: &MailboxUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Mailbox>, IndexError> {
        let work = self.directory.update_mailbox(tenant, address, update, actor, at);
        self.observer.observe("update_mailbox", work).await
    }

    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        credential: &NewCredential,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let work = self.directory.set_password(tenant, address, credential, actor, at);
        self.observer.observe("set_password", work).await
    }

    async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        self.observer.observe("rehash", self.directory.rehash(tenant, mailbox, old, new)).await
    }

    async fn keep_verifiers(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
        sealed: &[u8],
    ) -> Result<(), IndexError> {
        let work = self.directory.keep_verifiers(tenant, mailbox, credential_version, sealed);
        self.observer.observe("keep_verifiers", work).await
    }

    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let work = self.directory.delete_mailbox(tenant, address, actor, at);
        self.observer.observe("delete_mailbox", work).await
    }

    async fn all_tenants_mailbox_deletions(
        &self,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let work = self.directory.all_tenants_mailbox_deletions(limit);
        self.observer.observe("mailbox_deletions", work).await
    }

    async fn continue_mailbox_deletion(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
    ) -> Result<bool, IndexError> {
        let work = self.directory.continue_mailbox_deletion(tenant, mailbox, limit);
        self.observer.observe("continue_mailbox_deletion", work).await
    }

    async fn create_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password: &AppPassword,
        hash: &str,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let work = self.directory.create_app_password(tenant, address, password, hash, actor);
        self.observer.observe("create_app_password", work).await
    }

    async fn app_passwords(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Vec<AppPassword>>, IndexError> {
        self.observer.observe("app_passwords", self.directory.app_passwords(tenant, address)).await
    }

    async fn delete_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        id: CredentialId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let work = self.directory.delete_app_password(tenant, address, id, actor, at);
        self.observer.observe("delete_app_password", work).await
    }

    async fn touch_app_password(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        id: CredentialId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        let work = self.directory.touch_app_password(tenant, mailbox, id, at);
        self.observer.observe("touch_app_password", work).await
    }

    async fn create_alias(&self, tenant: TenantId, alias: &Alias, actor: &Actor) -> Result<(), IndexError> {
        self.observer.observe("create_alias", self.directory.create_alias(tenant, alias, actor)).await
    }

    async fn alias(&self, tenant: TenantId, address: &AliasAddress) -> Result<Option<Alias>, IndexError> {
        self.observer.observe("alias", self.directory.alias(tenant, address)).await
    }

    async fn list_aliases(
        &self,
        tenant: TenantId,
        after: Option<&AliasAddress>,
        limit: u32,
    ) -> Result<Vec<Alias>, IndexError> {
        self.observer.observe("list_aliases", self.directory.list_aliases(tenant, after, limit)).await
    }

    async fn delete_alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.observer.observe("delete_alias", self.directory.delete_alias(tenant, address, actor, at)).await
    }

    async fn all_tenants_api_key(&self, id: ApiKeyId) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        self.observer.observe("api_key", self.directory.all_tenants_api_key(id)).await
    }

    async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        self.observer.observe("create_api_key", self.directory.create_api_key(key, secret_hash, actor)).await
    }

    async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        self.observer.observe("list_api_keys", self.directory.list_api_keys(tenant, after, limit)).await
    }

    async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.observer.observe("delete_api_key", self.directory.delete_api_key(tenant, id, actor, at)).await
    }

    async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.observer.observe("touch_api_key", self.directory.touch_api_key(id, at)).await
    }

    async fn all_tenants_certificate(&self, host: &str) -> Result<Option<HostCertificate>, IndexError> {
        self.observer.observe("host_certificate", self.directory.all_tenants_certificate(host)).await
    }

    async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let work = self.directory.put_certificate(tenant, certificate, actor);
        self.observer.observe("put_certificate", work).await
    }

    async fn certificate(&self, tenant: TenantId, host: &str) -> Result<Option<Certificate>, IndexError> {
        self.observer.observe("certificate", self.directory.certificate(tenant, host)).await
    }

    async fn list_certificates(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Certificate>, IndexError> {
        let work = self.directory.list_certificates(tenant, after, limit);
        self.observer.observe("list_certificates", work).await
    }

    async fn delete_certificate(
        &self,
        tenant: TenantId,
        host: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let work = self.directory.delete_certificate(tenant, host, actor, at);
        self.observer.observe("delete_certificate", work).await
    }
}
