//! What goes over the wire.

use maildrop::{Domain, Mailbox, Tenant};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A tenant as shown.
#[derive(Debug, Serialize)]
pub(crate) struct TenantResource {
    name: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Tenant> for TenantResource {
    fn from(tenant: &Tenant) -> Self {
        Self { name: tenant.name.to_string(), created_at: tenant.created_at }
    }
}

/// A domain as shown.
#[derive(Debug, Serialize)]
pub(crate) struct DomainResource {
    name: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Domain> for DomainResource {
    fn from(domain: &Domain) -> Self {
        Self { name: domain.name.to_string(), created_at: domain.created_at }
    }
}

/// A mailbox as shown.
#[derive(Debug, Serialize)]
pub(crate) struct MailboxResource {
    address: String,
    quota_octets: Option<u64>,
    message_count: u64,
    octets: u64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Mailbox> for MailboxResource {
    fn from(mailbox: &Mailbox) -> Self {
        Self {
            address: mailbox.address.to_string(),
            quota_octets: mailbox.quota_octets,
            message_count: mailbox.message_count,
            octets: mailbox.octets,
            created_at: mailbox.created_at,
        }
    }
}

/// A page of a list. `next` is the cursor of the page after it, absent on the last.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
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

/// `POST /v1/tenants` and `POST …/domains`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewName {
    pub(crate) name: String,
}

/// `POST …/mailboxes`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMailboxBody {
    pub(crate) address: String,
    pub(crate) password: SecretString,
    #[serde(default)]
    pub(crate) quota_octets: Option<u64>,
}

/// `PUT …/mailboxes/{address}/password`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    pub(crate) password: SecretString,
}

/// The query of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// The cursor: `next` of the page before.
    #[serde(default)]
    pub(crate) after: Option<String>,
    /// Items on a page at most.
    #[serde(default)]
    pub(crate) limit: Option<u32>,
}

impl ListQuery {
    /// Items on a page: 100 by default, 1,000 at most.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.unwrap_or(100).clamp(1, 1000)
    }
}
