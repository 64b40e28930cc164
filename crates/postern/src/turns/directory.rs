//! The directory, asked in tenants' turns.

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

use super::InTurn;

#[async_trait]
impl Directory for InTurn<dyn Directory> {
    async fn all_tenants_login(&self, login: &Address) -> Result<LoginLookup, IndexError> {
        self.inner.all_tenants_login(login).await
    }

    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        self.inner.all_tenants_recipients(addresses).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        self.inner.tenant(id).await
    }

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        self.inner.tenant_by_name(name).await
    }

    async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError> {
        self.inner.all_tenants_list(after, limit).await
    }

    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
        self.inner.create_tenant(tenant, actor).await
    }

    async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &TenantUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Tenant>, IndexError> {
        self.inner.update_tenant(tenant, update, actor, at).await
    }

    async fn tenant_login(&self, tenant: TenantId) -> Result<Option<TenantLogin>, IndexError> {
        self.inner.tenant_login(tenant).await
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
        self.inner.set_tenant_login(tenant, settings, secrets, if_version, actor, at).await
    }

    async fn tenant_buckets(&self, tenant: TenantId) -> Result<Option<TenantBuckets>, IndexError> {
        self.inner.tenant_buckets(tenant).await
    }

    async fn set_tenant_buckets(
        &self,
        tenant: TenantId,
        stored: &TenantBuckets,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError> {
        self.inner.set_tenant_buckets(tenant, stored, actor, at).await
    }

    async fn packs_by_store(&self, tenant: TenantId) -> Result<Vec<StorePacks>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.packs_by_store(tenant).await
    }

    async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.inner.begin_tenant_deletion(tenant, actor, at).await
    }

    async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.continue_tenant_deletion(tenant, limit, objects).await
    }

    async fn finish_tenant_deletion(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.finish_tenant_deletion(tenant, at).await
    }

    async fn all_tenants_deletions(&self, limit: u32) -> Result<Vec<TenantDeletion>, IndexError> {
        self.inner.all_tenants_deletions(limit).await
    }

    async fn all_tenants_list_deletions(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        self.inner.all_tenants_list_deletions(after, limit).await
    }

    async fn all_tenants_forget_deletions(
        &self,
        before: OffsetDateTime,
        limit: u32,
    ) -> Result<u64, IndexError> {
        self.inner.all_tenants_forget_deletions(before, limit).await
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.create_domain(tenant, domain, nested, actor).await
    }

    async fn domain(&self, tenant: TenantId, name: &DomainName) -> Result<Option<Domain>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.domain(tenant, name).await
    }

    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.list_domains(tenant, after, limit).await
    }

    async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.delete_domain(tenant, name, actor, at).await
    }

    async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.create_mailboxes(tenant, mailboxes, actor, at).await
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.mailbox(tenant, address).await
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.list_mailboxes(tenant, query).await
    }

    async fn update_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        update: &MailboxUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Mailbox>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.update_mailbox(tenant, address, update, actor, at).await
    }

    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        credential: &NewCredential,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.set_password(tenant, address, credential, actor, at).await
    }

    async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.rehash(tenant, mailbox, old, new).await
    }

    async fn keep_verifiers(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
        sealed: &[u8],
    ) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.keep_verifiers(tenant, mailbox, credential_version, sealed).await
    }

    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.delete_mailbox(tenant, address, actor, at).await
    }

    async fn all_tenants_mailbox_deletions(
        &self,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        self.inner.all_tenants_mailbox_deletions(limit).await
    }

    async fn continue_mailbox_deletion(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.continue_mailbox_deletion(tenant, mailbox, limit).await
    }

    async fn create_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password: &AppPassword,
        hash: &str,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.create_app_password(tenant, address, password, hash, actor).await
    }

    async fn app_passwords(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Vec<AppPassword>>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.app_passwords(tenant, address).await
    }

    async fn delete_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        id: CredentialId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.delete_app_password(tenant, address, id, actor, at).await
    }

    async fn touch_app_password(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        id: CredentialId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.touch_app_password(tenant, mailbox, id, at).await
    }

    async fn create_alias(&self, tenant: TenantId, alias: &Alias, actor: &Actor) -> Result<(), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.create_alias(tenant, alias, actor).await
    }

    async fn alias(&self, tenant: TenantId, address: &AliasAddress) -> Result<Option<Alias>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.alias(tenant, address).await
    }

    async fn list_aliases(
        &self,
        tenant: TenantId,
        after: Option<&AliasAddress>,
        limit: u32,
    ) -> Result<Vec<Alias>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.list_aliases(tenant, after, limit).await
    }

    async fn delete_alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.delete_alias(tenant, address, actor, at).await
    }

    async fn all_tenants_api_key(&self, id: ApiKeyId) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        self.inner.all_tenants_api_key(id).await
    }

    async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let _turn = self.turns.take(key.tenant).await?;
        self.inner.create_api_key(key, secret_hash, actor).await
    }

    async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        let _turn = self.turns.take(tenant).await?;
        self.inner.list_api_keys(tenant, after, limit).await
    }

    async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(tenant).await?;
        self.inner.delete_api_key(tenant, id, actor, at).await
    }

    async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.inner.touch_api_key(id, at).await
    }

    async fn all_tenants_certificate(&self, host: &str) -> Result<Option<HostCertificate>, IndexError> {
        self.inner.all_tenants_certificate(host).await
    }

    async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.put_certificate(tenant, certificate, actor).await
    }

    async fn certificate(&self, tenant: TenantId, host: &str) -> Result<Option<Certificate>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.certificate(tenant, host).await
    }

    async fn list_certificates(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Certificate>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.list_certificates(tenant, after, limit).await
    }

    async fn delete_certificate(
        &self,
        tenant: TenantId,
        host: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.delete_certificate(tenant, host, actor, at).await
    }
}
