//! Tenants, domains and mailboxes as values.

use std::{fmt, sync::Arc, time::Duration};

use time::OffsetDateTime;

use crate::{
    Address, DomainName, MailboxId, SealedKey, TenantId,
    port::{Directory, IndexError},
};

/// A tenant's name: a slug of 1 to 63 lower-case letters, digits and hyphens, as it stands in URLs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TenantName(String);

impl TenantName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a tenant's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's name is 1 to 63 lower-case letters, digits and inner hyphens")]
pub struct TenantNameError;

impl TryFrom<&str> for TenantName {
    type Error = TenantNameError;

    fn try_from(text: &str) -> Result<Self, TenantNameError> {
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good { Ok(Self(text.to_owned())) } else { Err(TenantNameError) }
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tenant.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its identity.
    pub id: TenantId,
    /// Its name.
    pub name: TenantName,
    /// Its data key, sealed under the master key.
    pub key: SealedKey,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// A domain of a tenant.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name; no two tenants share one.
    pub name: DomainName,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// A mailbox (an account) of a tenant.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// Its identity.
    pub id: MailboxId,
    /// Its address.
    pub address: Address,
    /// The most octets it may hold, or no limit.
    pub quota_octets: Option<u64>,
    /// Messages it holds.
    pub message_count: u64,
    /// Octets it holds.
    pub octets: u64,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// A mailbox to be created.
#[derive(Clone, Debug)]
pub struct NewMailbox {
    /// Its identity.
    pub id: MailboxId,
    /// Its address; the domain must be the tenant's.
    pub address: Address,
    /// The password's hash in PHC form.
    pub password_hash: String,
    /// The most octets it may hold, or no limit.
    pub quota_octets: Option<u64>,
}

/// Who makes an administrative change; written to the audit log with it (P2).
#[derive(Clone, Debug)]
pub struct Actor {
    /// Who: the name of a token or a program, never the token.
    pub name: String,
    /// From where: the peer's address, or `local`.
    pub origin: String,
}

/// Remembers tenants for a little while: their sealed keys are needed for every message read.
#[derive(Clone)]
pub struct TenantCache {
    directory: Arc<dyn Directory>,
    tenants: moka::sync::Cache<TenantId, Arc<Tenant>>,
}

/// How long a tenant is remembered: short, so that a deleted tenant's key is soon gone from every node.
const TENANT_TTL: Duration = Duration::from_secs(30);
/// How many tenants are remembered; a tenant takes some 300 octets.
const TENANTS_MAX: u64 = 10_000;

impl TenantCache {
    /// A cache in front of `directory`.
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        let tenants = moka::sync::Cache::builder().max_capacity(TENANTS_MAX).time_to_live(TENANT_TTL).build();
        Self { directory, tenants }
    }

    /// The tenant, or `None` where it no longer exists.
    pub async fn get(&self, id: TenantId) -> Result<Option<Arc<Tenant>>, IndexError> {
        if let Some(tenant) = self.tenants.get(&id) {
            return Ok(Some(tenant));
        }
        let Some(tenant) = self.directory.tenant(id).await? else { return Ok(None) };
        let tenant = Arc::new(tenant);
        self.tenants.insert(id, Arc::clone(&tenant));
        Ok(Some(tenant))
    }
}

impl fmt::Debug for TenantCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantCache").finish_non_exhaustive()
    }
}
