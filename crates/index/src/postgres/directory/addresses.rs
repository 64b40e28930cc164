//! Whose an address is: who logs in with it, and where mail for it goes.

use std::{cmp::Ordering, sync::Arc};

use futures_util::future::try_join_all;
use maildrop::{
    Address, CredentialId, LoginScope, MailboxId, Policy, State, TenantId, TenantLimits,
    port::{Account, AppPasswordHash, IndexError, LoginDomain, LoginLookup, ResolvedRecipient},
};
use sqlx::{PgConnection, Row as _, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::{corrupt, index_error},
    postgres::{
        Postgres,
        batch::{Batch, BatchError},
    },
    rows::rules,
    words::{scope, state_within},
};

impl Postgres {
    pub(super) async fn all_tenants_login(&self, login: &Address) -> Result<LoginLookup, IndexError> {
        let row = self
            .repeatable(|| {
                sqlx::query(
                    "SELECT b.tenant_id, b.mailbox_id, t.state, b.state, t.revision, b.credential_version,
                            c.password_hash, t.limits, t.policy, b.policy,
                            p.ids, p.hashes, p.scopes, p.expiries, c.verifiers,
                            t.tenant_id, coalesce(d.alias_of, d.name), t.login_version
                       FROM domains d
                       JOIN tenants t ON t.tenant_id = d.tenant_id
                       LEFT JOIN mailboxes b ON b.tenant_id = d.tenant_id
                                            AND b.address = $2 || '@' || coalesce(d.alias_of, d.name)
                       LEFT JOIN credentials c ON c.tenant_id = b.tenant_id AND c.mailbox_id = b.mailbox_id
                       LEFT JOIN LATERAL (
                            SELECT array_agg(a.credential_id ORDER BY a.credential_id) AS ids,
                                   array_agg(a.password_hash ORDER BY a.credential_id) AS hashes,
                                   array_agg(a.scope ORDER BY a.credential_id) AS scopes,
                                   array_agg(a.expires_at ORDER BY a.credential_id) AS expiries
                              FROM app_passwords a
                             WHERE a.tenant_id = b.tenant_id AND a.mailbox_id = b.mailbox_id
                               AND (a.expires_at IS NULL OR a.expires_at > now())) p ON true
                      WHERE d.name = $1",
                )
                .bind(login.domain())
                .bind(login.local_part())
                .fetch_optional(&self.pool)
            })
            .await?;
        let Some(row) = row else { return Ok(LoginLookup::default()) };
        let domain = || -> Result<_, sqlx::Error> {
            Ok(LoginDomain {
                tenant: TenantId::from_uuid(row.try_get(15)?),
                name: row.try_get(16)?,
                login_version: row.try_get(17)?,
            })
        };
        let mailbox: Option<Uuid> = row.try_get(1).map_err(index_error)?;
        Ok(LoginLookup {
            domain: Some(domain().map_err(index_error)?),
            account: mailbox.map(|_| account(&row)).transpose()?,
        })
    }

    pub(super) async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        let found =
            try_join_all(addresses.iter().map(|address| self.recipients.ask(address.clone()))).await?;
        found.into_iter().map(|found| found.map_err(corrupt)).collect()
    }
}

/// Looks recipients up, many in one statement.
#[derive(Debug)]
pub(in crate::postgres) struct Recipients;

impl Batch for Recipients {
    type Request = Address;
    /// A row that makes no sense is the answer of its own address alone: others in the batch are other tenants'.
    type Answer = Result<Option<ResolvedRecipient>, &'static str>;

    fn excludes(_: &Address, _: &Address) -> bool {
        false
    }

    fn order(a: &Address, b: &Address) -> Ordering {
        (a.domain(), a.local_part()).cmp(&(b.domain(), b.local_part()))
    }

    fn busy() -> Result<Self::Answer, IndexError> {
        // It only reads: no lock is waited for.
        Err(IndexError::Unavailable("row is locked".into()))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> Result<Vec<Self::Answer>, BatchError> {
        let locals: Vec<&str> = addresses.iter().map(Address::local_part).collect();
        let domains: Vec<&str> = addresses.iter().map(Address::domain).collect();
        let rows = sqlx::query(
            "SELECT r.place, b.tenant_id, b.mailbox_id, t.state, b.state,
                            least(coalesce(b.quota_octets, t.mailbox_quota_octets) - b.octets,
                                  t.quota_octets - u.octets),
                            least(coalesce(b.quota_messages, t.mailbox_quota_messages) - b.message_count,
                                  t.quota_messages - u.messages),
                            t.limits, t.policy, b.policy
                       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (local, domain, place)
                       JOIN domains d ON d.name = r.domain
                       JOIN tenants t ON t.tenant_id = d.tenant_id
                       LEFT JOIN mailboxes m ON m.tenant_id = d.tenant_id
                             AND m.address = r.local || '@' || coalesce(d.alias_of, d.name)
                       LEFT JOIN aliases a ON m.mailbox_id IS NULL AND a.tenant_id = d.tenant_id
                             AND a.address = r.local || '@' || coalesce(d.alias_of, d.name)
                       LEFT JOIN aliases c ON m.mailbox_id IS NULL AND a.mailbox_id IS NULL
                             AND c.tenant_id = d.tenant_id AND c.address = '@' || coalesce(d.alias_of, d.name)
                       JOIN mailboxes b ON b.tenant_id = d.tenant_id
                             AND b.mailbox_id = coalesce(m.mailbox_id, a.mailbox_id, c.mailbox_id)
                       LEFT JOIN LATERAL (
                            SELECT coalesce(sum(s.octets), 0)::bigint AS octets,
                                   coalesce(sum(s.messages), 0)::bigint AS messages
                              FROM tenant_usage s WHERE s.tenant_id = t.tenant_id
                            ) u ON t.quota_octets IS NOT NULL OR t.quota_messages IS NOT NULL",
        )
        .bind(&locals)
        .bind(&domains)
        .fetch_all(connection)
        .await?;
        let mut found = vec![Ok(None); addresses.len()];
        for row in &rows {
            let place: i64 = row.try_get(0)?;
            if let Some(slot) = found.get_mut((place - 1) as usize) {
                *slot = recipient(row).map(Some).map_err(|_| "a recipient that makes no sense");
            }
        }
        Ok(found)
    }
}

fn account(row: &PgRow) -> Result<Account, IndexError> {
    type Arrays =
        (Option<Vec<Uuid>>, Option<Vec<String>>, Option<Vec<String>>, Option<Vec<Option<OffsetDateTime>>>);
    let read = || -> Result<_, sqlx::Error> {
        let limits: Json<TenantLimits> = row.try_get(7)?;
        let (of_tenant, own): (Json<Policy>, Json<Policy>) = (row.try_get(8)?, row.try_get(9)?);
        let arrays: Arrays = (row.try_get(10)?, row.try_get(11)?, row.try_get(12)?, row.try_get(13)?);
        let states: (String, String) = (row.try_get(2)?, row.try_get(3)?);
        let account = Account {
            tenant: TenantId::from_uuid(row.try_get(0)?),
            mailbox: MailboxId::from_uuid(row.try_get(1)?),
            state: State::Suspended,
            tenant_revision: row.try_get(4)?,
            credential_version: row.try_get(5)?,
            password_hash: row.try_get(6)?,
            verifiers: row.try_get(14)?,
            app_passwords: Vec::new(),
            rules: Arc::new(rules(limits, &of_tenant, &own)),
        };
        Ok((account, states, arrays))
    };
    let (mut account, states, (ids, hashes, scopes, expiries)) = read().map_err(index_error)?;
    account.state = state_within(&states.0, &states.1)?;
    let columns = ids.unwrap_or_default().into_iter().zip(hashes.unwrap_or_default());
    let columns = columns.zip(scopes.unwrap_or_default()).zip(expiries.unwrap_or_default());
    for (((id, hash), word), expires_at) in columns {
        let scope: LoginScope = scope(&word)?;
        account.app_passwords.push(AppPasswordHash {
            id: CredentialId::from_uuid(id),
            hash,
            scope,
            expires_at,
        });
    }
    Ok(account)
}

fn recipient(row: &PgRow) -> Result<ResolvedRecipient, IndexError> {
    let free = |free: Option<i64>| free.map(|n| u64::try_from(n).unwrap_or(0));
    let read = || -> Result<_, sqlx::Error> {
        let states: (String, String) = (row.try_get(3)?, row.try_get(4)?);
        let limits: Json<TenantLimits> = row.try_get(7)?;
        let (of_tenant, own): (Json<Policy>, Json<Policy>) = (row.try_get(8)?, row.try_get(9)?);
        let recipient = ResolvedRecipient {
            tenant: TenantId::from_uuid(row.try_get(1)?),
            mailbox: MailboxId::from_uuid(row.try_get(2)?),
            state: State::Suspended,
            free_octets: free(row.try_get(5)?),
            free_messages: free(row.try_get(6)?),
            rules: Arc::new(rules(limits, &of_tenant, &own)),
        };
        Ok((recipient, states))
    };
    let (mut recipient, states) = read().map_err(index_error)?;
    recipient.state = state_within(&states.0, &states.1)?;
    Ok(recipient)
}
