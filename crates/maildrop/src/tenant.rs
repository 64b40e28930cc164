//! Tenants, domains and mailboxes as values.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    Address, AddressError, ApiKeyId, CredentialId, DomainName, MailboxId, Policy, SealedKey, TenantId,
    TenantLimits,
    port::{Directory, IndexError},
};

/// A tenant's name: a slug of 1 to 63 lower-case letters, digits and hyphens, as it stands in URLs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
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

/// What stands in the way of using a tenant or a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing.
    #[default]
    Active,
    /// An administrator: there is no login, and mail is refused as the policy says.
    Suspended,
    /// It is being deleted. Only tenants are so for any time.
    Deleting,
}

/// A tenant.
#[derive(Clone, Debug, Serialize)]
pub struct Tenant {
    /// Its identity.
    pub id: TenantId,
    /// Its name.
    pub name: TenantName,
    /// Whether it is in use.
    pub state: State,
    /// Grows with each change of what is set here; what logged in under another one no longer counts.
    pub revision: i64,
    /// What an administrator sets.
    #[serde(flatten)]
    pub settings: TenantSettings,
    /// Its data key, sealed under the master key. Empty once it was destroyed.
    #[serde(skip)]
    pub key: SealedKey,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What an administrator sets of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TenantSettings {
    /// The most octets all its mailboxes may hold together, or no limit.
    pub quota_octets: Option<u64>,
    /// The most messages all its mailboxes may hold together, or no limit.
    pub quota_messages: Option<u64>,
    /// How much of `quota_octets` may be given to mailboxes as their quotas, in percent: 100 for no more than
    /// there is, 300 for three times as much, or no limit. With a limit each mailbox needs a quota.
    pub over_allocation_percent: Option<u32>,
    /// The quota of octets of a mailbox that has none of its own, or no limit.
    pub mailbox_quota_octets: Option<u64>,
    /// The quota of messages of a mailbox that has none of its own, or no limit.
    pub mailbox_quota_messages: Option<u64>,
    /// Limits of the tenant as a whole.
    pub limits: TenantLimits,
    /// The policy of its mailboxes, where they have none of their own.
    pub policy: Policy,
}

/// A domain of a tenant.
#[derive(Clone, Debug, Serialize)]
pub struct Domain {
    /// Its name; no two tenants share one.
    pub name: DomainName,
    /// The domain of the same tenant that this one is another name of: mail and logins for it are that one's.
    pub alias_of: Option<DomainName>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A mailbox (an account) of a tenant.
#[derive(Clone, Debug, Serialize)]
pub struct Mailbox {
    /// Its identity.
    pub id: MailboxId,
    /// Its address.
    pub address: Address,
    /// Whether it is in use.
    pub state: State,
    /// Grows with each change of what is set here.
    pub revision: i64,
    /// What an administrator sets.
    #[serde(flatten)]
    pub settings: MailboxSettings,
    /// Messages it holds.
    pub message_count: u64,
    /// Octets it holds.
    pub octets: u64,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What an administrator sets of a mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MailboxSettings {
    /// The most octets it may hold; its tenant's where there is none.
    pub quota_octets: Option<u64>,
    /// The most messages it may hold; its tenant's where there is none.
    pub quota_messages: Option<u64>,
    /// Its policy, over its tenant's.
    pub policy: Policy,
}

/// A password as it is kept.
#[derive(Clone)]
pub struct NewCredential {
    /// Its hash.
    pub hash: String,
    /// What mechanisms that never see the password are verified by, sealed under the tenant's key.
    pub verifiers: Option<Vec<u8>>,
}

impl From<String> for NewCredential {
    /// A hash, with nothing beside it.
    fn from(hash: String) -> Self {
        Self { hash, verifiers: None }
    }
}

impl fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewCredential(…)")
    }
}

/// A mailbox to be created.
#[derive(Clone, Debug)]
pub struct NewMailbox {
    /// Its identity.
    pub id: MailboxId,
    /// Its address; the domain must be the tenant's, and no alias of another.
    pub address: Address,
    /// The password as it is kept, or none: then nobody can log in until one is set.
    pub credential: Option<NewCredential>,
    /// Whether it begins suspended.
    pub suspended: bool,
    /// What is set of it.
    pub settings: MailboxSettings,
}

/// Another address of a mailbox, or the mailbox of all addresses of a domain that nobody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alias {
    /// The address.
    pub address: AliasAddress,
    /// The address of the mailbox.
    pub mailbox: Address,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What an [`Alias`] stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasAddress {
    /// One address.
    One(Address),
    /// Every address of a domain that is neither a mailbox nor an alias; written `@domain`.
    CatchAll(DomainName),
}

impl AliasAddress {
    /// The domain.
    pub fn domain(&self) -> &str {
        match self {
            Self::One(address) => address.domain(),
            Self::CatchAll(domain) => domain.as_str(),
        }
    }
}

impl TryFrom<&str> for AliasAddress {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('@') {
            Some(domain) => DomainName::try_from(domain).map(Self::CatchAll),
            None => Address::try_from(text).map(Self::One),
        }
    }
}

impl fmt::Display for AliasAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::CatchAll(domain) => write!(f, "@{domain}"),
        }
    }
}

impl Serialize for AliasAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A password of one program of a mailbox's owner, beside the password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppPassword {
    /// Its identity.
    pub id: CredentialId,
    /// What its owner calls it.
    pub label: String,
    /// What it is good for.
    pub scope: LoginScope,
    /// When it ceases to be good, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was last used, to the hour.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// What a login may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LoginScope {
    /// Everything.
    #[default]
    Full,
    /// Read: DELE is refused.
    ReadOnly,
}

/// What a key of the admin API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, in every tenant.
    PlatformAdmin,
    /// Everything within one tenant, save creating, suspending and deleting the tenant itself.
    TenantAdmin,
    /// Look at everything within one tenant, save the contents of messages.
    TenantReader,
    /// Create, suspend and resume mailboxes of one tenant.
    Provisioning,
    /// Read `/metrics`.
    Metrics,
}

impl Role {
    /// Whether a key with it belongs to one tenant.
    pub fn is_of_tenant(self) -> bool {
        matches!(self, Self::TenantAdmin | Self::TenantReader | Self::Provisioning)
    }

    /// Its word in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlatformAdmin => "platform_admin",
            Self::TenantAdmin => "tenant_admin",
            Self::TenantReader => "tenant_reader",
            Self::Provisioning => "provisioning",
            Self::Metrics => "metrics",
        }
    }
}

/// A key of the admin API. The secret itself is shown once and never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// Its identity, the first half of what is sent.
    pub id: ApiKeyId,
    /// The tenant it belongs to, if it is a tenant's.
    #[serde(skip)]
    pub tenant: Option<TenantId>,
    /// What it may do.
    pub role: Role,
    /// What it is called.
    pub label: String,
    /// Who made it.
    pub created_by: String,
    /// When it ceases to be good, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was last used, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A tenant's certificate for a host name that clients ask for (SNI, RFC 6066 §3).
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// The host, within one of the tenant's domains; `*.` in front stands for one label.
    pub host: String,
    /// The chain, PEM, leaf first.
    pub chain: String,
    /// The key, PEM, sealed under the tenant's data key.
    #[serde(skip)]
    pub sealed_key: Vec<u8>,
    /// When the leaf ceases to be valid.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// When it was put here.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Who makes an administrative change; written to the audit log with it (P2).
#[derive(Clone, Debug)]
pub struct Actor {
    /// Who: the name of a key or a program, never the key.
    pub name: String,
    /// From where: the peer's address, or `local`.
    pub origin: String,
    /// The request it is part of, as logs name it; empty where there is none.
    pub request: String,
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
