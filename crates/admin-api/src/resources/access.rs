//! App passwords, API keys and certificates.

use maildrop::{ApiKey, AppPassword, Certificate, LoginScope, Role};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// A password of one program of a mailbox's owner.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AppPassword)]
pub(crate) struct AppPasswordResource {
    /// Its identity.
    id: Uuid,
    /// What its owner calls it.
    label: String,
    /// What it is good for.
    scope: LoginScope,
    /// When it ceases to be good, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// When it was last used, to the hour.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&AppPassword> for AppPasswordResource {
    fn from(password: &AppPassword) -> Self {
        Self {
            id: password.id.as_uuid(),
            label: password.label.clone(),
            scope: password.scope,
            expires_at: password.expires_at,
            last_used_at: password.last_used_at,
            created_at: password.created_at,
        }
    }
}

/// An app password with the password itself: this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShownAppPassword {
    /// Its identity.
    pub(crate) id: Uuid,
    /// The password. It is not kept, and cannot be shown again.
    pub(crate) password: String,
    /// What its owner calls it.
    pub(crate) label: String,
    /// What it is good for.
    pub(crate) scope: LoginScope,
    /// When it ceases to be good, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
}

/// An app password to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAppPassword {
    /// What its owner calls it.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "phone"
    )]
    pub(crate) label: String,
    /// What it shall be good for.
    #[serde(default)]
    pub(crate) scope: Option<LoginScope>,
    /// When it shall cease to be good; never where absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
}

/// A key of this API. The secret is shown when it is created, and never again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct ApiKeyResource {
    /// Its identity, the first half of what is sent.
    id: Uuid,
    /// What it may do.
    role: Role,
    /// What it is called.
    label: String,
    /// Who made it.
    created_by: String,
    /// When it ceases to be good, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// When it was last used, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&ApiKey> for ApiKeyResource {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.as_uuid(),
            role: key.role,
            label: key.label.clone(),
            created_by: key.created_by.clone(),
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            created_at: key.created_at,
        }
    }
}

/// An API key with the key itself: this once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ShownApiKey {
    /// Its identity.
    pub(crate) id: Uuid,
    /// The key, to be sent as `Authorization: Bearer …`. It is not kept, and cannot be shown again.
    pub(crate) key: String,
    /// What it may do.
    pub(crate) role: Role,
    /// What it is called.
    pub(crate) label: String,
    /// When it ceases to be good, if ever.
    #[serde(with = "time::serde::rfc3339::option")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created_at: OffsetDateTime,
}

/// A key of a tenant to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewApiKey {
    /// What it is called.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "billing"
    )]
    pub(crate) label: String,
    /// What it may do within the tenant.
    pub(crate) role: TenantRole,
    /// When it shall cease to be good; never where absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
}

/// What a key of a tenant may do.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TenantRole {
    /// Everything within the tenant, save its quotas, its limits and its existence.
    TenantAdmin,
    /// Look at everything within the tenant, save the contents of messages.
    TenantReader,
    /// Create, suspend and resume mailboxes of the tenant.
    Provisioning,
}

impl From<TenantRole> for Role {
    fn from(role: TenantRole) -> Self {
        match role {
            TenantRole::TenantAdmin => Self::TenantAdmin,
            TenantRole::TenantReader => Self::TenantReader,
            TenantRole::Provisioning => Self::Provisioning,
        }
    }
}

/// A key of the platform to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPlatformKey {
    /// What it is called.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "prometheus"
    )]
    pub(crate) label: String,
    /// What it may do.
    pub(crate) role: PlatformRole,
    /// When it shall cease to be good; never where absent.
    #[serde(default)]
    #[schema(format = DateTime)]
    pub(crate) expires_at: Option<String>,
}

/// What a key of the platform may do.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlatformRole {
    /// Everything, in every tenant.
    PlatformAdmin,
    /// Read `/metrics`.
    Metrics,
}

impl From<PlatformRole> for Role {
    fn from(role: PlatformRole) -> Self {
        match role {
            PlatformRole::PlatformAdmin => Self::PlatformAdmin,
            PlatformRole::Metrics => Self::Metrics,
        }
    }
}

/// A tenant's certificate for a host name that clients ask for (SNI).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Certificate)]
pub(crate) struct CertificateResource {
    /// The host; `*.` in front stands for one label.
    host: String,
    /// When it ceases to be valid.
    #[serde(with = "time::serde::rfc3339")]
    not_after: OffsetDateTime,
    /// When it was put here.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Certificate> for CertificateResource {
    fn from(certificate: &Certificate) -> Self {
        Self {
            host: certificate.host.clone(),
            not_after: certificate.not_after,
            created_at: certificate.created_at,
        }
    }
}

/// A certificate with its chain. The key is never shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CertificateWithChain {
    /// The host; `*.` in front stands for one label.
    host: String,
    /// The chain, PEM, leaf first.
    chain: String,
    /// When the leaf ceases to be valid.
    #[serde(with = "time::serde::rfc3339")]
    not_after: OffsetDateTime,
    /// When it was put here.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Certificate> for CertificateWithChain {
    fn from(certificate: &Certificate) -> Self {
        Self {
            host: certificate.host.clone(),
            chain: certificate.chain.clone(),
            not_after: certificate.not_after,
            created_at: certificate.created_at,
        }
    }
}

/// A certificate and its key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificateBody {
    /// The chain, PEM, leaf first.
    #[schema(min_length = 1, max_length = 100_000)]
    pub(crate) chain: String,
    /// The leaf's private key, PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    #[schema(value_type = String, min_length = 1, max_length = 20_000, write_only)]
    pub(crate) key: SecretString,
}
