//! Whose an address is: who logs in with it, and where mail for it goes.

use std::sync::Arc;

use maildrop::{
    Address, CredentialId, MailboxId, Policy, TenantId, TenantLimits,
    port::{Account, AppPasswordHash, IndexError, LoginDomain, LoginLookup, ResolvedRecipient},
};
use sqlx::{SqliteConnection, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::index_error,
    rows::rules,
    sqlite::{
        Sqlite,
        maildrops::{from_micros, micros},
    },
    words::{scope, state_within},
};

/// Who logs in: ids, states of tenant and mailbox, revision and version, hash, limits, policies and verifiers.
type AccountRow = (
    Uuid,
    Uuid,
    String,
    String,
    i64,
    i64,
    String,
    Json<TenantLimits>,
    Json<Policy>,
    Json<Policy>,
    Option<Vec<u8>>,
);

/// Where mail goes: ids, states, what is free, limits and policies.
type RecipientRow = (
    Uuid,
    Uuid,
    String,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Json<TenantLimits>,
    Json<Policy>,
    Json<Policy>,
);

/// An app password: id, hash, scope, expiry.
type HashRow = (Uuid, String, String, Option<i64>);

impl Sqlite {
    pub(super) async fn all_tenants_login(&self, login: &Address) -> Result<LoginLookup, IndexError> {
        // One view of both: a change of what verifies logins and what it makes void are never seen apart.
        let mut tx = self.reader.begin().await.map_err(index_error)?;
        let row: Option<(Uuid, String, i64)> = sqlx::query_as(
            "SELECT d.tenant_id, coalesce(d.alias_of, d.name), t.login_version
               FROM domains d JOIN tenants t ON t.tenant_id = d.tenant_id
              WHERE d.name = ?",
        )
        .bind(login.domain())
        .fetch_optional(&mut *tx)
        .await
        .map_err(index_error)?;
        let Some((tenant, name, login_version)) = row else { return Ok(LoginLookup::default()) };
        let account = account(&mut tx, login).await?;
        let tenant = TenantId::from_uuid(tenant);
        Ok(LoginLookup { domain: Some(LoginDomain { tenant, name, login_version }), account })
    }

    pub(super) async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        let mut found = Vec::with_capacity(addresses.len());
        for address in addresses {
            let row: Option<RecipientRow> = sqlx::query_as(
                "SELECT b.tenant_id, b.mailbox_id, t.state, b.state,
                        coalesce(b.quota_octets, t.mailbox_quota_octets) - b.octets,
                        t.quota_octets - u.octets,
                        coalesce(b.quota_messages, t.mailbox_quota_messages) - b.message_count,
                        t.quota_messages - u.messages,
                        t.limits, t.policy, b.policy
                   FROM domains d
                   JOIN tenants t ON t.tenant_id = d.tenant_id
                   LEFT JOIN mailboxes m ON m.tenant_id = d.tenant_id
                         AND m.address = ?2 || '@' || coalesce(d.alias_of, d.name)
                   LEFT JOIN aliases a ON a.tenant_id = d.tenant_id
                         AND a.address = ?2 || '@' || coalesce(d.alias_of, d.name)
                   LEFT JOIN aliases c ON c.tenant_id = d.tenant_id
                         AND c.address = '@' || coalesce(d.alias_of, d.name)
                   JOIN mailboxes b ON b.tenant_id = d.tenant_id
                         AND b.mailbox_id = coalesce(m.mailbox_id, a.mailbox_id, c.mailbox_id)
                   JOIN tenant_usage u ON u.tenant_id = d.tenant_id
                  WHERE d.name = ?1",
            )
            .bind(address.domain())
            .bind(address.local_part())
            .fetch_optional(&self.reader)
            .await
            .map_err(index_error)?;
            found.push(row.map(recipient).transpose()?);
        }
        Ok(found)
    }
}

fn recipient(row: RecipientRow) -> Result<ResolvedRecipient, IndexError> {
    let (
        tenant,
        mailbox,
        of_tenant,
        own,
        box_octets,
        pool_octets,
        box_messages,
        pool_messages,
        limits,
        defaults,
        policy,
    ) = row;
    let least = |one: Option<i64>, other: Option<i64>| {
        let least = one.into_iter().chain(other).min();
        least.map(|free| u64::try_from(free).unwrap_or(0))
    };
    Ok(ResolvedRecipient {
        tenant: TenantId::from_uuid(tenant),
        mailbox: MailboxId::from_uuid(mailbox),
        state: state_within(&of_tenant, &own)?,
        free_octets: least(box_octets, pool_octets),
        free_messages: least(box_messages, pool_messages),
        rules: Arc::new(rules(limits, &defaults, &policy)),
    })
}

async fn account(connection: &mut SqliteConnection, login: &Address) -> Result<Option<Account>, IndexError> {
    let row: Option<AccountRow> = sqlx::query_as(
        "SELECT b.tenant_id, b.mailbox_id, t.state, b.state, t.revision, b.credential_version,
                    b.password_hash, t.limits, t.policy, b.policy, b.verifiers
               FROM domains d
               JOIN tenants t ON t.tenant_id = d.tenant_id
               JOIN mailboxes b ON b.tenant_id = d.tenant_id
                               AND b.address = ?2 || '@' || coalesce(d.alias_of, d.name)
              WHERE d.name = ?1",
    )
    .bind(login.domain())
    .bind(login.local_part())
    .fetch_optional(&mut *connection)
    .await
    .map_err(index_error)?;
    let Some((tenant, mailbox, of_tenant, own, revision, version, hash, limits, defaults, policy, verifiers)) =
        row
    else {
        return Ok(None);
    };
    let hashes: Vec<HashRow> = sqlx::query_as(
        "SELECT credential_id, password_hash, scope, expires_at FROM app_passwords
              WHERE tenant_id = ? AND mailbox_id = ? AND (expires_at IS NULL OR expires_at > ?)
              ORDER BY credential_id",
    )
    .bind(tenant)
    .bind(mailbox)
    .bind(micros(OffsetDateTime::now_utc()))
    .fetch_all(&mut *connection)
    .await
    .map_err(index_error)?;
    let app_password = |(id, hash, word, expires_at): HashRow| {
        Ok(AppPasswordHash {
            id: CredentialId::from_uuid(id),
            hash,
            scope: scope(&word)?,
            expires_at: expires_at.map(from_micros).transpose()?,
        })
    };
    Ok(Some(Account {
        tenant: TenantId::from_uuid(tenant),
        mailbox: MailboxId::from_uuid(mailbox),
        state: state_within(&of_tenant, &own)?,
        tenant_revision: revision,
        credential_version: version,
        password_hash: Some(hash).filter(|hash| !hash.is_empty()),
        verifiers,
        app_passwords: hashes.into_iter().map(app_password).collect::<Result<_, IndexError>>()?,
        rules: Arc::new(rules(limits, &defaults, &policy)),
    }))
}
