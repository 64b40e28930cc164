//! Mailboxes.

use maildrop::{
    Actor, Address, DomainName, Mailbox, NewMailbox, State, TenantId,
    port::{Conflict, IndexError, MailboxQuery, MailboxUpdate},
};
use sqlx::{Postgres as Db, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{end_sessions, undecodable};
use crate::{
    postgres::{
        Postgres,
        bulletins::Welcome,
        scoped::{Audit, json},
    },
    rows::{MailboxRow, mailbox_columns},
    words::{allocatable, changes_within, fits, like_prefix, state_word},
};

impl Postgres {
    pub(super) async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        self.once(|| self.insert_mailboxes(tenant, mailboxes, actor, at)).await
    }

    pub(super) async fn mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Mailbox>, IndexError> {
        let row: Option<MailboxRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(concat!(
                    "SELECT ",
                    mailbox_columns!(),
                    " FROM mailboxes WHERE tenant_id = $1 AND address = $2"
                ))
                .bind(tenant.as_uuid())
                .bind(address.as_str())
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let after = query.after.as_ref().map_or("", Address::as_str);
        let prefix = query.prefix.as_deref().map(like_prefix);
        let sql = list_sql(query.domain.is_some(), prefix.is_some());
        let lowest = query.prefix.as_deref().unwrap_or_default();
        let rows: Vec<MailboxRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                let select = sqlx::query_as(sql)
                    .bind(tenant.as_uuid())
                    .bind(after)
                    .bind(i64::from(query.limit))
                    .bind(&prefix)
                    .bind(query.domain.as_ref().map(DomainName::as_str));
                let select =
                    if query.domain.is_none() && prefix.is_some() { select.bind(lowest) } else { select };
                select.fetch_all(&mut *tx).await
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn update_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        update: &MailboxUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Mailbox>, IndexError> {
        let updated = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let Some(before) = mailbox_for_update(&mut tx, tenant, address).await? else {
                    return Ok(Ok(None));
                };
                if update.if_revision.is_some_and(|revision| revision != before.revision) {
                    return Ok(Err(Conflict::Revision));
                }
                let settings = update.settings.clone().unwrap_or_else(|| before.settings.clone());
                let state = update.state.unwrap_or(before.state);
                let after = Mailbox { settings, state, revision: before.revision + 1, ..before.clone() };
                let settings = &after.settings;
                if settings.quota_octets != before.settings.quota_octets {
                    let room = room(&mut tx, tenant).await?;
                    if !changes_within(room, before.settings.quota_octets, settings.quota_octets) {
                        return Ok(Err(Conflict::OverAllocated));
                    }
                }
                sqlx::query(
                    "UPDATE mailboxes
                        SET state = $3, revision = $4, quota_octets = $5, quota_messages = $6, policy = $7,
                            credential_version = credential_version + 1
                      WHERE tenant_id = $1 AND mailbox_id = $2",
                )
                .bind(tenant.as_uuid())
                .bind(before.id.as_uuid())
                .bind(state_word(state))
                .bind(after.revision)
                .bind(settings.quota_octets.map(|n| n as i64))
                .bind(settings.quota_messages.map(|n| n as i64))
                .bind(Json(&settings.policy))
                .execute(&mut *tx)
                .await?;
                if state != State::Active {
                    end_sessions(&mut tx, tenant, Some(before.id)).await?;
                }
                let action = match (before.state, state) {
                    (State::Active, State::Suspended) => "mailbox.suspend",
                    (State::Suspended, State::Active) => "mailbox.resume",
                    _ => "mailbox.update",
                };
                let target = address.as_str();
                let (before, after_value) = (json(&before)?, json(&after)?);
                Audit { tenant: Some(tenant), actor, at, action, target, before, after: after_value }
                    .write(&mut tx)
                    .await?;
                tx.commit().await?;
                Ok(Ok(Some(after)))
            })
            .await?;
        updated.map_err(IndexError::Conflict)
    }

    pub(super) async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            // The row first: a delivery waits here, and finds nothing afterwards.
            let Some(before) = mailbox_for_update(&mut tx, tenant, address).await? else {
                return Ok(false);
            };
            end_sessions(&mut tx, tenant, Some(before.id)).await?;
            sqlx::query(
                "INSERT INTO mailbox_deletions (tenant_id, mailbox_id, address, begun_at)
                 VALUES ($1, $2, $3, $4)",
            )
            .bind(tenant.as_uuid())
            .bind(before.id.as_uuid())
            .bind(address.as_str())
            .bind(at)
            .execute(&mut *tx)
            .await?;
            for statement in [
                "DELETE FROM login_times WHERE tenant_id = $1 AND mailbox_id = $2",
                "DELETE FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2",
            ] {
                sqlx::query(statement)
                    .bind(tenant.as_uuid())
                    .bind(before.id.as_uuid())
                    .execute(&mut *tx)
                    .await?;
            }
            let (action, target) = ("mailbox.delete", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target, before: json(&before)?, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn insert_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, sqlx::Error> {
        let mut tx = self.scoped(tenant).await?;
        let mut wanted: Vec<&str> = mailboxes.iter().map(|new| new.address.domain()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Held still: a domain must not go while mailboxes are made in it. In one order, as everywhere.
        let domains: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM domains
              WHERE tenant_id = $1 AND name = ANY ($2) AND alias_of IS NULL ORDER BY name FOR SHARE",
        )
        .bind(tenant.as_uuid())
        .bind(&wanted)
        .fetch_all(&mut *tx)
        .await?;
        let addresses: Vec<&str> = mailboxes.iter().map(|new| new.address.as_str()).collect();
        let aliases: Vec<String> =
            sqlx::query_scalar("SELECT address FROM aliases WHERE tenant_id = $1 AND address = ANY ($2)")
                .bind(tenant.as_uuid())
                .bind(&addresses)
                .fetch_all(&mut *tx)
                .await?;
        let mut room = room(&mut tx, tenant).await?;
        let welcome = Welcome::read(&mut tx, tenant, at).await?;
        let mut results: Vec<Result<&NewMailbox, Conflict>> = Vec::with_capacity(mailboxes.len());
        for new in mailboxes {
            let quota = new.settings.quota_octets;
            results.push(if !domains.iter().any(|domain| domain == new.address.domain()) {
                Err(Conflict::ForeignDomain)
            } else if aliases.iter().any(|alias| alias == new.address.as_str()) {
                Err(Conflict::Address)
            } else if !fits(room, quota) {
                Err(Conflict::OverAllocated)
            } else {
                room = room.map(|room| room - i128::from(quota.unwrap_or(0)));
                Ok(new)
            });
        }
        let rows: Vec<&NewMailbox> =
            results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
        let created: Vec<Uuid> = sqlx::query_scalar(
            "INSERT INTO mailboxes (tenant_id, mailbox_id, address, state, quota_octets, quota_messages, policy,
                                    created_at, bulletins)
             SELECT $1, r.*, $8, $9
               FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::jsonb[]) r
                 ON CONFLICT (tenant_id, address) DO NOTHING
          RETURNING mailbox_id",
        )
        .bind(tenant.as_uuid())
        .bind(rows.iter().map(|new| new.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.address.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| state_word(first_state(new))).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.settings.quota_octets.map(|n| n as i64)).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.settings.quota_messages.map(|n| n as i64)).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| Json(&new.settings.policy)).collect::<Vec<_>>())
        .bind(at)
        .bind(welcome.number)
        .fetch_all(&mut *tx)
        .await?;
        let created: std::collections::HashSet<Uuid> = created.into_iter().collect();
        let rows: Vec<&NewMailbox> =
            rows.into_iter().filter(|new| created.contains(&new.id.as_uuid())).collect();
        sqlx::query(
            "INSERT INTO credentials (tenant_id, mailbox_id, password_hash, verifiers)
             SELECT $1, r.mailbox, r.hash, r.verifiers
               FROM unnest($2::uuid[], $3::text[], $4::bytea[]) AS r (mailbox, hash, verifiers)
              WHERE r.hash IS NOT NULL",
        )
        .bind(tenant.as_uuid())
        .bind(rows.iter().map(|new| new.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| Some(new.credential.as_ref()?.hash.as_str())).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.credential.as_ref()?.verifiers.as_deref()).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        let mut made: Vec<Mailbox> = rows.iter().map(|new| first_mailbox(new, at)).collect();
        welcome.give(&mut tx, tenant, &mut made, at).await?;
        let after: Vec<Option<serde_json::Value>> = made.iter().map(json).collect::<Result<_, _>>()?;
        sqlx::query(
            "INSERT INTO audit_log (at, tenant_id, actor, origin, request, action, target, after_value)
             SELECT $1, $2, $3, $4, $5, 'mailbox.create', r.target, r.after_value
               FROM unnest($6::text[], $7::jsonb[]) AS r (target, after_value)",
        )
        .bind(at)
        .bind(tenant.as_uuid())
        .bind(&actor.name)
        .bind(&actor.origin)
        .bind(&actor.request)
        .bind(rows.iter().map(|new| new.address.as_str()).collect::<Vec<_>>())
        .bind(after)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        let mut made = made.into_iter();
        let mut taken =
            |new: &NewMailbox| if created.contains(&new.id.as_uuid()) { made.next() } else { None };
        Ok(results
            .into_iter()
            .map(|result| result.and_then(|new| taken(new).ok_or(Conflict::Address)))
            .collect())
    }
}

/// The statement that lists mailboxes: one for each kind of question, each with its index, and none sorts.
fn list_sql(domain: bool, prefix: bool) -> &'static str {
    match (domain, prefix) {
        (false, false) => concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
                   WHERE tenant_id = $1 AND address COLLATE \"C\" > $2
                     AND $4::text IS NULL AND $5::text IS NULL
                   ORDER BY address COLLATE \"C\" LIMIT $3"
        ),
        (false, true) => concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
                   WHERE tenant_id = $1 AND address COLLATE \"C\" > $2 AND address COLLATE \"C\" >= $6
                     AND address COLLATE \"C\" < $6 || U&'\\+10FFFF'
                     AND address COLLATE \"C\" LIKE $4 AND $5::text IS NULL
                   ORDER BY address COLLATE \"C\" LIMIT $3"
        ),
        (true, _) => concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
                   WHERE tenant_id = $1 AND domain = $5
                     AND address COLLATE \"C\" > $2
                     AND ($4::text IS NULL OR address COLLATE \"C\" LIKE $4)
                   ORDER BY address COLLATE \"C\" LIMIT $3"
        ),
    }
}

/// The state a mailbox begins in.
fn first_state(new: &NewMailbox) -> State {
    if new.suspended { State::Suspended } else { State::Active }
}

/// A mailbox as it is when it was just created.
fn first_mailbox(new: &NewMailbox, at: OffsetDateTime) -> Mailbox {
    Mailbox {
        id: new.id,
        address: new.address.clone(),
        state: first_state(new),
        revision: 1,
        settings: new.settings.clone(),
        message_count: 0,
        octets: 0,
        created_at: at,
    }
}

/// Octets that the tenant may still give to its mailboxes as quotas, or no limit.
async fn room(tx: &mut Transaction<'_, Db>, tenant: TenantId) -> Result<Option<i128>, sqlx::Error> {
    // The tenant's row is held: two that give at once must not both see the same room.
    let (quota, percent): (Option<i64>, Option<i32>) =
        sqlx::query_as("SELECT quota_octets, over_allocation_percent FROM tenants WHERE tenant_id = $1")
            .bind(tenant.as_uuid())
            .fetch_optional(&mut **tx)
            .await?
            .unwrap_or_default();
    let Some(allocatable) = allocatable(quota.map(|n| n as u64), percent.map(|n| n as u32)) else {
        return Ok(None);
    };
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE")
        .bind(tenant.as_uuid())
        .execute(&mut **tx)
        .await?;
    let allocated: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(allocated_octets), 0)::bigint FROM tenant_usage WHERE tenant_id = $1",
    )
    .bind(tenant.as_uuid())
    .fetch_one(&mut **tx)
    .await?;
    Ok(Some(i128::from(allocatable) - i128::from(allocated)))
}

pub(super) async fn mailbox_id(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("SELECT mailbox_id FROM mailboxes WHERE tenant_id = $1 AND address = $2")
        .bind(tenant.as_uuid())
        .bind(address.as_str())
        .fetch_optional(&mut **tx)
        .await
}

async fn mailbox_for_update(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Mailbox>, sqlx::Error> {
    let row: Option<MailboxRow> = sqlx::query_as(concat!(
        "SELECT ",
        mailbox_columns!(),
        " FROM mailboxes WHERE tenant_id = $1 AND address = $2 FOR UPDATE"
    ))
    .bind(tenant.as_uuid())
    .bind(address.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| Mailbox::try_from(row).map_err(undecodable)).transpose()
}

#[cfg(test)]
mod plans;
