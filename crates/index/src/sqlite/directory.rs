//! Tenants, domains, mailboxes, aliases, credentials, keys and certificates on SQLite.

mod addresses;
mod aliases;
mod buckets;
mod certificates;
mod credentials;
mod deletion;
mod domains;
mod keys;
mod mailboxes;
mod tenants;

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
use time::OffsetDateTime;

use super::Sqlite;
use crate::error::index_error;
use crate::error::undecodable;

// A trait has one `impl`: each method here calls the inherent one of the same name in its subject's room.
// Inherent methods are found first; a method that has none there would call itself for ever.
#[async_trait]
impl Directory for Sqlite {
    async fn all_tenants_login(&self, login: &Address) -> Result<LoginLookup, IndexError> {
        self.all_tenants_login(login).await
    }

    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        self.all_tenants_recipients(addresses).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        self.tenant(id).await
    }

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        self.tenant_by_name(name).await
    }

    async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError> {
        self.all_tenants_list(after, limit).await
    }

    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
        self.create_tenant(tenant, actor).await
    }

    async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &TenantUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Tenant>, IndexError> {
        self.update_tenant(tenant, update, actor, at).await
    }

    async fn tenant_login(&self, tenant: TenantId) -> Result<Option<TenantLogin>, IndexError> {
        self.tenant_login(tenant).await
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
        self.set_tenant_login(tenant, settings, secrets, if_version, actor, at).await
    }

    async fn tenant_buckets(&self, tenant: TenantId) -> Result<Option<TenantBuckets>, IndexError> {
        self.tenant_buckets(tenant).await
    }

    async fn set_tenant_buckets(
        &self,
        tenant: TenantId,
        stored: &TenantBuckets,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError> {
        self.set_tenant_buckets(tenant, stored, actor, at).await
    }

    async fn packs_by_store(&self, tenant: TenantId) -> Result<Vec<StorePacks>, IndexError> {
        self.packs_by_store(tenant).await
    }

    async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.begin_tenant_deletion(tenant, actor, at).await
    }

    async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        self.continue_tenant_deletion(tenant, limit, objects).await
    }

    async fn finish_tenant_deletion(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.finish_tenant_deletion(tenant, at).await
    }

    async fn all_tenants_deletions(&self, limit: u32) -> Result<Vec<TenantDeletion>, IndexError> {
        self.all_tenants_deletions(limit).await
    }

    async fn all_tenants_list_deletions(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        self.all_tenants_list_deletions(after, limit).await
    }

    async fn all_tenants_forget_deletions(
        &self,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<u64, IndexError> {
        self.all_tenants_forget_deletions(before, limit).await
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        self.create_domain(tenant, domain, nested, actor).await
    }

    async fn domain(&self, tenant: TenantId, name: &DomainName) -> Result<Option<Domain>, IndexError> {
        self.domain(tenant, name).await
    }

    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        self.list_domains(tenant, after, limit).await
    }

    async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.delete_domain(tenant, name, actor, at).await
    }

    async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        self.create_mailboxes(tenant, mailboxes, actor, at).await
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        self.mailbox(tenant, address).await
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        self.list_mailboxes(tenant, query).await
    }

    async fn update_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        update: &MailboxUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Mailbox>, IndexError> {
        self.update_mailbox(tenant, address, update, actor, at).await
    }

    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        credential: &NewCredential,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.set_password(tenant, address, credential, actor, at).await
    }

    async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        self.rehash(tenant, mailbox, old, new).await
    }

    async fn keep_verifiers(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
        sealed: &[u8],
    ) -> Result<(), IndexError> {
        self.keep_verifiers(tenant, mailbox, credential_version, sealed).await
    }

    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.delete_mailbox(tenant, address, actor, at).await
    }

    async fn all_tenants_mailbox_deletions(
        &self,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        self.all_tenants_mailbox_deletions(limit).await
    }

    async fn continue_mailbox_deletion(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
    ) -> Result<bool, IndexError> {
        self.continue_mailbox_deletion(tenant, mailbox, limit).await
    }

    async fn create_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password: &AppPassword,
        hash: &str,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        self.create_app_password(tenant, address, password, hash, actor).await
    }

    async fn app_passwords(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Vec<AppPassword>>, IndexError> {
        self.app_passwords(tenant, address).await
    }

    async fn delete_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        id: CredentialId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.delete_app_password(tenant, address, id, actor, at).await
    }

    async fn touch_app_password(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        id: CredentialId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        self.touch_app_password(tenant, mailbox, id, at).await
    }

    async fn create_alias(&self, tenant: TenantId, alias: &Alias, actor: &Actor) -> Result<(), IndexError> {
        self.create_alias(tenant, alias, actor).await
    }

    async fn alias(&self, tenant: TenantId, address: &AliasAddress) -> Result<Option<Alias>, IndexError> {
        self.alias(tenant, address).await
    }

    async fn list_aliases(
        &self,
        tenant: TenantId,
        after: Option<&AliasAddress>,
        limit: u32,
    ) -> Result<Vec<Alias>, IndexError> {
        self.list_aliases(tenant, after, limit).await
    }

    async fn delete_alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.delete_alias(tenant, address, actor, at).await
    }

    async fn all_tenants_api_key(&self, id: ApiKeyId) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        self.all_tenants_api_key(id).await
    }

    async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        self.create_api_key(key, secret_hash, actor).await
    }

    async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        self.list_api_keys(tenant, after, limit).await
    }

    async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.delete_api_key(tenant, id, actor, at).await
    }

    async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.touch_api_key(id, at).await
    }

    async fn all_tenants_certificate(&self, host: &str) -> Result<Option<HostCertificate>, IndexError> {
        self.all_tenants_certificate(host).await
    }

    async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        self.put_certificate(tenant, certificate, actor).await
    }

    async fn certificate(&self, tenant: TenantId, host: &str) -> Result<Option<Certificate>, IndexError> {
        self.certificate(tenant, host).await
    }

    async fn list_certificates(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Certificate>, IndexError> {
        self.list_certificates(tenant, after, limit).await
    }

    async fn delete_certificate(
        &self,
        tenant: TenantId,
        host: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.delete_certificate(tenant, host, actor, at).await
    }
}

/// A broken unique constraint is the conflict that the statement can have.
fn conflict(error: sqlx::Error, conflict: Conflict) -> IndexError {
    if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
        return IndexError::Conflict(conflict);
    }
    index_error(error)
}
