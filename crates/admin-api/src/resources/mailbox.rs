//! Domains, mailboxes, aliases and messages.

use maildrop::{Alias, Domain, Mailbox, MailboxSettings, MessageInfo, Policy, State};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::routes::fields::{octets_fit, problem_in};
use crate::Problem;

/// A domain of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Domain)]
pub(crate) struct DomainResource {
    /// Its name, in A-labels (RFC 5890).
    name: String,
    /// The domain that this one is another name of, if it is.
    alias_of: Option<String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Domain> for DomainResource {
    fn from(domain: &Domain) -> Self {
        Self {
            name: domain.name.to_string(),
            alias_of: domain.alias_of.as_ref().map(ToString::to_string),
            created_at: domain.created_at,
        }
    }
}

/// A domain to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewDomain {
    /// Its name; an internationalised one is turned into A-labels (RFC 5890).
    #[schema(min_length = 1, max_length = 255, example = "acme.test")]
    pub(crate) name: String,
    /// The domain of the tenant that this one shall be another name of: mail and logins for it are that one's.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255)]
    pub(crate) alias_of: Option<String>,
}

/// A mailbox of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mailbox)]
pub(crate) struct MailboxResource {
    /// Its identity, as logs have it.
    id: Uuid,
    /// Its address, in lower case.
    address: String,
    /// Whether it is in use.
    state: State,
    /// The most octets it may hold; its tenant's where there is none.
    quota_octets: Option<u64>,
    /// The most messages it may hold; its tenant's where there is none.
    quota_messages: Option<u64>,
    /// Its policy, over its tenant's.
    policy: Policy,
    /// Messages it holds.
    message_count: u64,
    /// Octets it holds.
    octets: u64,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Mailbox> for MailboxResource {
    fn from(mailbox: &Mailbox) -> Self {
        Self {
            id: mailbox.id.as_uuid(),
            address: mailbox.address.to_string(),
            state: mailbox.state,
            quota_octets: mailbox.settings.quota_octets,
            quota_messages: mailbox.settings.quota_messages,
            policy: mailbox.settings.policy.clone(),
            message_count: mailbox.message_count,
            octets: mailbox.octets,
            created_at: mailbox.created_at,
        }
    }
}

/// A mailbox to be created. Without a password nobody can log in until one is set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMailboxBody {
    /// Its address. The domain must be one of the tenant's.
    #[schema(max_length = 320, pattern = "^\\S+@[^\\s@]+$", example = "alice@acme.test")]
    pub(crate) address: String,
    /// The password: 1 to 400 octets without CR, LF and NUL.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 400, pattern = "^[^\\r\\n\\u0000]*$", write_only)]
    pub(crate) password: Option<SecretString>,
    /// The password's hash, brought along from another system. Not together with `password`.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1000, write_only)]
    pub(crate) password_hash: Option<SecretString>,
    /// The most octets it may hold.
    #[serde(default)]
    pub(crate) quota_octets: Option<u64>,
    /// The most messages it may hold.
    #[serde(default)]
    pub(crate) quota_messages: Option<u64>,
    /// Its policy, over its tenant's.
    #[serde(default)]
    pub(crate) policy: Option<Policy>,
    /// Whether it begins suspended.
    #[serde(default)]
    pub(crate) suspended: Option<bool>,
}

impl NewMailboxBody {
    /// What shall be set of it.
    pub(crate) fn settings(&self) -> Result<MailboxSettings, Problem> {
        MailboxPatch {
            quota_octets: self.quota_octets,
            quota_messages: self.quota_messages,
            policy: self.policy.clone(),
        }
        .settings()
    }
}

/// A change of a mailbox, as a merge patch (RFC 7396): what is absent stays, what is null is no longer set.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MailboxPatch {
    /// The most octets it may hold.
    #[serde(default)]
    quota_octets: Option<u64>,
    /// The most messages it may hold.
    #[serde(default)]
    quota_messages: Option<u64>,
    /// Its policy, over its tenant's.
    #[serde(default)]
    policy: Option<Policy>,
}

impl MailboxPatch {
    /// The settings, if all are within bounds.
    pub(crate) fn settings(self) -> Result<MailboxSettings, Problem> {
        octets_fit("quota_octets", self.quota_octets)?;
        octets_fit("quota_messages", self.quota_messages)?;
        let policy = self.policy.unwrap_or_default();
        problem_in("policy", policy.problem())?;
        Ok(MailboxSettings { quota_octets: self.quota_octets, quota_messages: self.quota_messages, policy })
    }
}

impl From<&MailboxSettings> for MailboxPatch {
    fn from(settings: &MailboxSettings) -> Self {
        Self {
            quota_octets: settings.quota_octets,
            quota_messages: settings.quota_messages,
            policy: Some(settings.policy.clone()),
        }
    }
}

/// A new password, or its hash.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    /// The password: 1 to 400 octets without CR, LF and NUL.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 400, pattern = "^[^\\r\\n\\u0000]*$", write_only)]
    pub(crate) password: Option<SecretString>,
    /// The password's hash, brought along from another system. Not together with `password`.
    #[serde(default)]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1000, write_only)]
    pub(crate) password_hash: Option<SecretString>,
}

/// Another address of a mailbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Alias)]
pub(crate) struct AliasResource {
    /// The address; `@domain` for all addresses of a domain that nobody has.
    address: String,
    /// The address of the mailbox.
    mailbox: String,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<&Alias> for AliasResource {
    fn from(alias: &Alias) -> Self {
        Self {
            address: alias.address.to_string(),
            mailbox: alias.mailbox.to_string(),
            created_at: alias.created_at,
        }
    }
}

/// An alias to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAlias {
    /// The address; `@domain` for all addresses of a domain that nobody has.
    #[schema(max_length = 320, pattern = "^\\S*@[^\\s@]+$", example = "sales@acme.test")]
    pub(crate) address: String,
    /// The address of the mailbox.
    #[schema(max_length = 320, pattern = "^\\S+@[^\\s@]+$", example = "alice@acme.test")]
    pub(crate) mailbox: String,
}

/// A message of a mailbox.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageResource {
    /// Its number in the mailbox, for ever.
    uid: u64,
    /// Its unique-id (RFC 1939 §7, UIDL).
    unique_id: String,
    /// Octets that RETR sends before byte-stuffing, with headers in ASCII (without `UTF8`).
    octets: u64,
    /// When it came in.
    #[serde(with = "time::serde::rfc3339")]
    received_at: OffsetDateTime,
    /// When it was deleted, if it is.
    #[serde(with = "time::serde::rfc3339::option")]
    deleted_at: Option<OffsetDateTime>,
    /// Until when it can be restored, if it is deleted.
    #[serde(with = "time::serde::rfc3339::option")]
    restorable_until: Option<OffsetDateTime>,
}

impl From<&MessageInfo> for MessageResource {
    fn from(message: &MessageInfo) -> Self {
        Self {
            uid: message.uid.0,
            unique_id: message.unique_id.clone(),
            octets: message.octets,
            received_at: message.received_at,
            deleted_at: message.deleted_at,
            restorable_until: message.restorable_until,
        }
    }
}

/// A message that was delivered and is durable.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delivered {
    /// Its number in the mailbox; none where its owner has fetched and deleted it already.
    pub(crate) uid: Option<u64>,
    /// Octets that RETR sends before byte-stuffing, with headers in ASCII, as lists show them.
    pub(crate) octets: u64,
    /// When it came in.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) received_at: OffsetDateTime,
}

/// A message that was put back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Restored {
    /// Its new number in the mailbox: unique-ids never come back, and clients fetch it anew.
    pub(crate) uid: u64,
}
