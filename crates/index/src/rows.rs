//! Rows as they come from either database, and what they mean.

use maildrop::{
    Address, AliasAddress, ApiKey, ApiKeyId, AppPassword, Buckets, Certificate, CredentialId, Domain,
    DomainName, LoginSettings, Mailbox, MailboxId, MailboxSettings, MessageInfo, Policy, Rules, SealedKey,
    StoreNumber, Tenant, TenantBuckets, TenantId, TenantLimits, TenantLogin, TenantName, TenantSettings, Uid,
    UniqueIdPrefix,
    port::{AuditEntry, IndexError, KeptMore, SessionInfo, StorePacks, TenantDeletion},
};
use sqlx::{
    Decode, Postgres, Sqlite,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueRef},
    sqlite::{SqliteTypeInfo, SqliteValueRef},
    types::Json,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::corrupt,
    words::{role, scope, state},
};

/// A time as either database keeps it: PostgreSQL as `timestamptz`, SQLite as microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp(pub(crate) OffsetDateTime);

impl Stamp {
    pub(crate) fn time(self) -> OffsetDateTime {
        self.0
    }
}

impl sqlx::Type<Postgres> for Stamp {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as sqlx::Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Stamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <OffsetDateTime as Decode<Postgres>>::decode(value).map(Self)
    }
}

impl sqlx::Type<Sqlite> for Stamp {
    fn type_info() -> SqliteTypeInfo {
        <i64 as sqlx::Type<Sqlite>>::type_info()
    }
}

impl<'r> Decode<'r, Sqlite> for Stamp {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Sqlite>>::decode(value)?;
        Ok(Self(OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)?))
    }
}

macro_rules! tenant_columns {
    () => {
        "tenant_id, name, state, revision, quota_octets, quota_messages, over_allocation_percent, \
         mailbox_quota_octets, mailbox_quota_messages, limits, policy, data_key, created_at"
    };
}
pub(crate) use tenant_columns;

#[derive(sqlx::FromRow)]
pub(crate) struct TenantRow {
    tenant_id: Uuid,
    name: String,
    state: String,
    revision: i64,
    quota_octets: Option<i64>,
    quota_messages: Option<i64>,
    over_allocation_percent: Option<i32>,
    mailbox_quota_octets: Option<i64>,
    mailbox_quota_messages: Option<i64>,
    limits: Json<TenantLimits>,
    policy: Json<Policy>,
    data_key: Vec<u8>,
    created_at: Stamp,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = IndexError;

    fn try_from(row: TenantRow) -> Result<Self, IndexError> {
        Ok(Self {
            id: TenantId::from_uuid(row.tenant_id),
            name: tenant_name(&row.name)?,
            state: state(&row.state)?,
            revision: row.revision,
            settings: TenantSettings {
                quota_octets: row.quota_octets.map(|n| n as u64),
                quota_messages: row.quota_messages.map(|n| n as u64),
                over_allocation_percent: row.over_allocation_percent.map(|n| n as u32),
                mailbox_quota_octets: row.mailbox_quota_octets.map(|n| n as u64),
                mailbox_quota_messages: row.mailbox_quota_messages.map(|n| n as u64),
                limits: row.limits.0,
                policy: row.policy.0,
            },
            key: SealedKey(row.data_key),
            created_at: row.created_at.0,
        })
    }
}

/// How a tenant's logins are verified.
#[derive(sqlx::FromRow)]
pub(crate) struct LoginRow {
    login: Json<LoginSettings>,
    login_secrets: Option<Vec<u8>>,
    login_version: i64,
}

impl From<LoginRow> for TenantLogin {
    fn from(row: LoginRow) -> Self {
        Self { settings: row.login.0, secrets: row.login_secrets, version: row.login_version }
    }
}

/// Stores of a tenant's own.
#[derive(sqlx::FromRow)]
pub(crate) struct BucketsRow {
    buckets: Json<Buckets>,
    bucket_key: Option<Vec<u8>>,
    bucket_secrets: Option<Vec<u8>>,
    buckets_version: i64,
}

impl From<BucketsRow> for TenantBuckets {
    fn from(row: BucketsRow) -> Self {
        Self {
            buckets: row.buckets.0,
            key: row.bucket_key.map(SealedKey),
            secrets: row.bucket_secrets,
            version: row.buckets_version,
        }
    }
}

/// What lies in one of them; its number is in hexadecimal.
#[derive(sqlx::FromRow)]
pub(crate) struct StorePacksRow {
    store: String,
    packs: i64,
    octets: i64,
}

impl From<StorePacksRow> for StorePacks {
    fn from(row: StorePacksRow) -> Self {
        Self {
            store: StoreNumber(u16::from_str_radix(&row.store, 16).unwrap_or_default()),
            packs: row.packs as u64,
            octets: row.octets as u64,
        }
    }
}

macro_rules! mailbox_columns {
    () => {
        "mailbox_id, address, state, revision, quota_octets, quota_messages, policy, message_count, octets, \
         created_at"
    };
}
pub(crate) use mailbox_columns;

#[derive(sqlx::FromRow)]
pub(crate) struct MailboxRow {
    mailbox_id: Uuid,
    address: String,
    state: String,
    revision: i64,
    quota_octets: Option<i64>,
    quota_messages: Option<i64>,
    policy: Json<Policy>,
    message_count: i64,
    octets: i64,
    created_at: Stamp,
}

impl TryFrom<MailboxRow> for Mailbox {
    type Error = IndexError;

    fn try_from(row: MailboxRow) -> Result<Self, IndexError> {
        Ok(Self {
            id: MailboxId::from_uuid(row.mailbox_id),
            address: address(&row.address)?,
            state: state(&row.state)?,
            revision: row.revision,
            settings: MailboxSettings {
                quota_octets: row.quota_octets.map(|n| n as u64),
                quota_messages: row.quota_messages.map(|n| n as u64),
                policy: row.policy.0,
            },
            message_count: row.message_count as u64,
            octets: row.octets as u64,
            created_at: row.created_at.0,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct DomainRow {
    name: String,
    alias_of: Option<String>,
    created_at: Stamp,
}

impl TryFrom<DomainRow> for Domain {
    type Error = IndexError;

    fn try_from(row: DomainRow) -> Result<Self, IndexError> {
        Ok(Self {
            name: domain_name(&row.name)?,
            alias_of: row.alias_of.as_deref().map(domain_name).transpose()?,
            created_at: row.created_at.0,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct AliasRow {
    address: String,
    mailbox: String,
    created_at: Stamp,
}

impl TryFrom<AliasRow> for maildrop::Alias {
    type Error = IndexError;

    fn try_from(row: AliasRow) -> Result<Self, IndexError> {
        Ok(Self {
            address: AliasAddress::try_from(row.address.as_str()).map_err(|_| corrupt("alias"))?,
            mailbox: address(&row.mailbox)?,
            created_at: row.created_at.0,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct AppPasswordRow {
    credential_id: Uuid,
    label: String,
    scope: String,
    expires_at: Option<Stamp>,
    last_used_at: Option<Stamp>,
    created_at: Stamp,
}

impl TryFrom<AppPasswordRow> for AppPassword {
    type Error = IndexError;

    fn try_from(row: AppPasswordRow) -> Result<Self, IndexError> {
        Ok(Self {
            id: CredentialId::from_uuid(row.credential_id),
            label: row.label,
            scope: scope(&row.scope)?,
            expires_at: row.expires_at.map(Stamp::time),
            last_used_at: row.last_used_at.map(Stamp::time),
            created_at: row.created_at.0,
        })
    }
}

macro_rules! api_key_columns {
    () => {
        "key_id, tenant_id, role, label, secret_hash, created_by, expires_at, last_used_at, created_at"
    };
}
pub(crate) use api_key_columns;

#[derive(sqlx::FromRow)]
pub(crate) struct ApiKeyRow {
    key_id: Uuid,
    tenant_id: Option<Uuid>,
    role: String,
    label: String,
    secret_hash: Vec<u8>,
    created_by: String,
    expires_at: Option<Stamp>,
    last_used_at: Option<Stamp>,
    created_at: Stamp,
}

impl TryFrom<ApiKeyRow> for (ApiKey, [u8; 32]) {
    type Error = IndexError;

    fn try_from(row: ApiKeyRow) -> Result<Self, IndexError> {
        let key = ApiKey {
            id: ApiKeyId::from_uuid(row.key_id),
            tenant: row.tenant_id.map(TenantId::from_uuid),
            role: role(&row.role)?,
            label: row.label,
            created_by: row.created_by,
            expires_at: row.expires_at.map(Stamp::time),
            last_used_at: row.last_used_at.map(Stamp::time),
            created_at: row.created_at.0,
        };
        let hash = row.secret_hash.try_into().map_err(|_| corrupt("hash of an API key"))?;
        Ok((key, hash))
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct CertificateRow {
    pub(crate) host: String,
    pub(crate) chain: String,
    pub(crate) sealed_key: Vec<u8>,
    pub(crate) not_after: Stamp,
    pub(crate) created_at: Stamp,
}

impl From<CertificateRow> for Certificate {
    fn from(row: CertificateRow) -> Self {
        let CertificateRow { host, chain, sealed_key, not_after, created_at } = row;
        Self { host, chain, sealed_key, not_after: not_after.0, created_at: created_at.0 }
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct DeletionRow {
    tenant_id: Uuid,
    name: String,
    rows_deleted: i64,
    rows_left: bool,
    objects_deleted: i64,
    begun_at: Stamp,
    finished_at: Option<Stamp>,
}

impl TryFrom<DeletionRow> for TenantDeletion {
    type Error = IndexError;

    fn try_from(row: DeletionRow) -> Result<Self, IndexError> {
        Ok(Self {
            tenant: TenantId::from_uuid(row.tenant_id),
            name: tenant_name(&row.name)?,
            rows_deleted: row.rows_deleted as u64,
            rows_left: row.rows_left,
            objects_deleted: row.objects_deleted as u64,
            begun_at: row.begun_at.0,
            finished_at: row.finished_at.map(Stamp::time),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct InfoRow {
    pub(crate) uid: i64,
    pub(crate) unique_id: Option<String>,
    pub(crate) octets: i64,
    pub(crate) received_at: Stamp,
    pub(crate) deleted_at: Option<Stamp>,
    pub(crate) keep_until: Option<Stamp>,
}

impl InfoRow {
    pub(crate) fn info(self, mailbox: MailboxId) -> MessageInfo {
        let uid = Uid(self.uid as u64);
        let made = || {
            let mut text = String::new();
            UniqueIdPrefix::of(mailbox).write(uid, &mut text);
            text
        };
        MessageInfo {
            uid,
            unique_id: self.unique_id.unwrap_or_else(made),
            octets: self.octets as u64,
            received_at: self.received_at.0,
            deleted_at: self.deleted_at.map(Stamp::time),
            restorable_until: self.keep_until.map(Stamp::time),
        }
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct SessionRow {
    session: String,
    tenant_id: Uuid,
    tenant_name: String,
    mailbox_id: Uuid,
    address: String,
    node: String,
    peer: String,
    since: Stamp,
}

impl TryFrom<SessionRow> for SessionInfo {
    type Error = IndexError;

    fn try_from(row: SessionRow) -> Result<Self, IndexError> {
        Ok(Self {
            id: row.session,
            tenant: TenantId::from_uuid(row.tenant_id),
            tenant_name: row.tenant_name,
            mailbox: MailboxId::from_uuid(row.mailbox_id),
            address: address(&row.address)?,
            node: row.node,
            peer: row.peer,
            since: row.since.0,
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct AuditRow {
    audit_id: i64,
    at: Stamp,
    tenant_id: Option<Uuid>,
    actor: String,
    origin: String,
    request: String,
    action: String,
    target: String,
    before_value: Option<Json<serde_json::Value>>,
    after_value: Option<Json<serde_json::Value>>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.audit_id,
            at: row.at.0,
            tenant: row.tenant_id,
            actor: row.actor,
            origin: row.origin,
            request: row.request,
            action: row.action,
            target: row.target,
            before: row.before_value.map(|json| json.0),
            after: row.after_value.map(|json| json.0),
        }
    }
}

/// A mailbox's rules, from its tenant's limits and both policies.
pub(crate) fn rules(limits: Json<TenantLimits>, of_tenant: &Json<Policy>, own: &Json<Policy>) -> Rules {
    Rules { tenant: limits.0, mailbox: own.0.or(&of_tenant.0) }
}

pub(crate) fn address(text: &str) -> Result<Address, IndexError> {
    Address::try_from(text).map_err(|_| corrupt("address"))
}

pub(crate) fn domain_name(text: &str) -> Result<DomainName, IndexError> {
    DomainName::try_from(text).map_err(|_| corrupt("domain name"))
}

pub(crate) fn tenant_name(text: &str) -> Result<TenantName, IndexError> {
    TenantName::try_from(text).map_err(|_| corrupt("tenant name"))
}

/// A mailbox of which more is kept than before.
#[derive(sqlx::FromRow)]
pub(crate) struct KeptRow {
    pub(crate) tenant_id: Uuid,
    pub(crate) mailbox_id: Uuid,
    pub(crate) over: bool,
}

impl KeptRow {
    pub(crate) fn gather(rows: &[Self]) -> KeptMore {
        let ids = |row: &Self| (TenantId::from_uuid(row.tenant_id), MailboxId::from_uuid(row.mailbox_id));
        KeptMore {
            looked_at: rows.len() as u64,
            last: rows.last().map(ids),
            over: rows.iter().filter(|row| row.over).map(ids).collect(),
        }
    }
}
