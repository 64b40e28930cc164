//! What goes over the wire.

mod access;
mod bulletin;
mod mailbox;
mod records;
mod tenant;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub(crate) use access::{
    ApiKeyResource, AppPasswordResource, CertificateBody, CertificateResource, CertificateWithChain,
    NewApiKey, NewAppPassword, NewPlatformKey, ShownApiKey, ShownAppPassword,
};
pub(crate) use bulletin::{BulletinResource, BulletinWithHolders};
pub(crate) use mailbox::{
    AliasResource, Delivered, DomainResource, MailboxPatch, MailboxResource, MessageResource, NewAlias,
    NewDomain, NewMailboxBody, NewPassword, Restored,
};
pub(crate) use records::{AuditResource, SessionResource, UsageResource};
pub(crate) use tenant::{DeletionResource, NewTenant, TenantPatch, TenantResource};

use crate::Problem;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// What is on it, in order.
    pub(crate) items: Vec<T>,
    /// The cursor of the page after it; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) next: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of rows that were read one more than `limit`: a row too many means another page.
    pub(crate) fn new<R>(mut rows: Vec<R>, limit: u32, key: impl Fn(&R) -> String) -> Self
    where
        T: for<'r> From<&'r R>,
    {
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next = if more { rows.last().map(key) } else { None };
        Self { items: rows.iter().map(T::from).collect(), next }
    }
}

/// The query of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The cursor: `next` of the page before.
    #[serde(default)]
    #[param(max_length = 400)]
    pub(crate) after: Option<String>,
    /// Items on a page at most; 100 where it is not given.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<u32>,
}

impl ListQuery {
    /// Items on a page.
    pub(crate) fn limit(&self) -> Result<u32, Problem> {
        page_limit(self.limit)
    }
}

/// Items on a page: 100 by default, 1,000 at most.
pub(crate) fn page_limit(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(Problem::invalid("limit", "a page is 1 to 1000 items")),
    }
}
