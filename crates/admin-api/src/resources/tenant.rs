//! Tenants.

use maildrop::{Policy, State, Tenant, TenantLimits, TenantSettings, port::TenantDeletion};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::routes::fields::{octets_fit, problem_in};
use crate::Problem;

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct TenantResource {
    /// Its identity, as logs and metrics have it.
    id: Uuid,
    /// Its name, for ever.
    name: String,
    /// Whether it is in use.
    state: State,
    /// The most octets all its mailboxes may hold together; none for no limit.
    quota_octets: Option<u64>,
    /// The most messages all its mailboxes may hold together; none for no limit.
    quota_messages: Option<u64>,
    /// How much of `quota_octets` may be given to mailboxes as their quotas, in percent; none for no limit.
    over_allocation_percent: Option<u32>,
    /// The quota of octets of a mailbox that has none of its own; none for no limit.
    mailbox_quota_octets: Option<u64>,
    /// The quota of messages of a mailbox that has none of its own; none for no limit.
    mailbox_quota_messages: Option<u64>,
    /// Limits of the tenant as a whole.
    limits: TenantLimits,
    /// The policy of its mailboxes, where they have none of their own.
    policy: Policy,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Tenant> for TenantResource {
    fn from(tenant: &Tenant) -> Self {
        let settings = tenant.settings.clone();
        Self {
            id: tenant.id.as_uuid(),
            name: tenant.name.to_string(),
            state: tenant.state,
            quota_octets: settings.quota_octets,
            quota_messages: settings.quota_messages,
            over_allocation_percent: settings.over_allocation_percent,
            mailbox_quota_octets: settings.mailbox_quota_octets,
            mailbox_quota_messages: settings.mailbox_quota_messages,
            limits: settings.limits,
            policy: settings.policy,
            created_at: tenant.created_at,
        }
    }
}

/// A tenant to be created. What is absent is not limited, or as built in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTenant {
    /// Its name: 1 to 63 lower-case letters, digits and inner hyphens.
    #[schema(max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", example = "acme")]
    pub(crate) name: String,
    /// The most octets all its mailboxes may hold together.
    #[serde(default)]
    quota_octets: Option<u64>,
    /// The most messages all its mailboxes may hold together.
    #[serde(default)]
    quota_messages: Option<u64>,
    /// How much of `quota_octets` may be given to mailboxes as their quotas, in percent.
    #[serde(default)]
    #[schema(maximum = 1_000_000)]
    over_allocation_percent: Option<u32>,
    /// The quota of octets of a mailbox that has none of its own.
    #[serde(default)]
    mailbox_quota_octets: Option<u64>,
    /// The quota of messages of a mailbox that has none of its own.
    #[serde(default)]
    mailbox_quota_messages: Option<u64>,
    /// Limits of the tenant as a whole.
    #[serde(default)]
    limits: Option<TenantLimits>,
    /// The policy of its mailboxes, where they have none of their own.
    #[serde(default)]
    policy: Option<Policy>,
}

impl NewTenant {
    /// What shall be set of it.
    pub(crate) fn settings(&self) -> Result<TenantSettings, Problem> {
        TenantPatch {
            quota_octets: self.quota_octets,
            quota_messages: self.quota_messages,
            over_allocation_percent: self.over_allocation_percent,
            mailbox_quota_octets: self.mailbox_quota_octets,
            mailbox_quota_messages: self.mailbox_quota_messages,
            limits: self.limits.clone(),
            policy: self.policy.clone(),
        }
        .settings()
    }
}

/// A change of a tenant, as a merge patch (RFC 7396): what is absent stays, what is null is no longer set.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantPatch {
    /// The most octets all its mailboxes may hold together.
    #[serde(default)]
    quota_octets: Option<u64>,
    /// The most messages all its mailboxes may hold together.
    #[serde(default)]
    quota_messages: Option<u64>,
    /// How much of `quota_octets` may be given to mailboxes as their quotas, in percent.
    #[serde(default)]
    #[schema(maximum = 1_000_000)]
    over_allocation_percent: Option<u32>,
    /// The quota of octets of a mailbox that has none of its own.
    #[serde(default)]
    mailbox_quota_octets: Option<u64>,
    /// The quota of messages of a mailbox that has none of its own.
    #[serde(default)]
    mailbox_quota_messages: Option<u64>,
    /// Limits of the tenant as a whole.
    #[serde(default)]
    limits: Option<TenantLimits>,
    /// The policy of its mailboxes, where they have none of their own.
    #[serde(default)]
    policy: Option<Policy>,
}

/// Ten thousand times as much as there is.
const OVER_ALLOCATION_MAX: u32 = 1_000_000;

impl TenantPatch {
    /// The settings, if all are within bounds.
    pub(crate) fn settings(self) -> Result<TenantSettings, Problem> {
        octets_fit("quota_octets", self.quota_octets)?;
        octets_fit("quota_messages", self.quota_messages)?;
        octets_fit("mailbox_quota_octets", self.mailbox_quota_octets)?;
        octets_fit("mailbox_quota_messages", self.mailbox_quota_messages)?;
        if self.over_allocation_percent.is_some_and(|percent| percent > OVER_ALLOCATION_MAX) {
            return Err(Problem::invalid("over_allocation_percent", "is a million at most"));
        }
        let (limits, policy) = (self.limits.unwrap_or_default(), self.policy.unwrap_or_default());
        problem_in("limits", limits.problem())?;
        problem_in("policy", policy.problem())?;
        Ok(TenantSettings {
            quota_octets: self.quota_octets,
            quota_messages: self.quota_messages,
            over_allocation_percent: self.over_allocation_percent,
            mailbox_quota_octets: self.mailbox_quota_octets,
            mailbox_quota_messages: self.mailbox_quota_messages,
            limits,
            policy,
        })
    }
}

impl From<&TenantSettings> for TenantPatch {
    fn from(settings: &TenantSettings) -> Self {
        let settings = settings.clone();
        Self {
            quota_octets: settings.quota_octets,
            quota_messages: settings.quota_messages,
            over_allocation_percent: settings.over_allocation_percent,
            mailbox_quota_octets: settings.mailbox_quota_octets,
            mailbox_quota_messages: settings.mailbox_quota_messages,
            limits: Some(settings.limits),
            policy: Some(settings.policy),
        }
    }
}

/// How far the deletion of a tenant has come. Its data key was destroyed when it began.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Deletion)]
pub(crate) struct DeletionResource {
    /// The tenant's identity.
    tenant_id: Uuid,
    /// The tenant's name; free again once this is finished.
    tenant: String,
    /// Rows deleted so far.
    rows_deleted: u64,
    /// Whether there may be rows left.
    rows_left: bool,
    /// Objects deleted so far.
    objects_deleted: u64,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    begun_at: OffsetDateTime,
    /// When it was finished, if it is.
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
}

impl From<&TenantDeletion> for DeletionResource {
    fn from(deletion: &TenantDeletion) -> Self {
        Self {
            tenant_id: deletion.tenant.as_uuid(),
            tenant: deletion.name.to_string(),
            rows_deleted: deletion.rows_deleted,
            rows_left: deletion.rows_left,
            objects_deleted: deletion.objects_deleted,
            begun_at: deletion.begun_at,
            finished_at: deletion.finished_at,
        }
    }
}
