//! Mailboxes.

use maildrop::{
    Actor, Address, DomainName, Mailbox, NewMailbox, State, TenantId,
    port::{Conflict, IndexError, MailboxQuery, MailboxUpdate},
};
use sqlx::{SqliteConnection, types::Json};
use time::OffsetDateTime;

use super::{domains::own_domain, undecodable};
use crate::{
    error::index_error,
    rows::{MailboxRow, mailbox_columns},
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        bulletins::Welcome,
        maildrops::micros,
    },
    words::{allocatable, changes_within, fits, like_prefix, state_word},
};

impl Sqlite {
    pub(super) async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let welcome = Welcome::read(&mut tx, tenant, at).await?;
            let mut results = Vec::with_capacity(mailboxes.len());
            for new in mailboxes {
                results.push(insert_mailbox(&mut tx, tenant, new, &welcome, actor, at).await?);
            }
            tx.commit().await?;
            Ok(results)
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Mailbox>, IndexError> {
        let row: Option<MailboxRow> = sqlx::query_as(concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes WHERE tenant_id = ? AND address = ?"
        ))
        .bind(tenant.as_uuid())
        .bind(address.as_str())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let rows: Vec<MailboxRow> = sqlx::query_as(concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
               WHERE tenant_id = ?1 AND address > ?2 AND address >= ?3 AND address LIKE ?4 ESCAPE '\\'
                 AND (?5 IS NULL OR substr(address, -length(?5) - 1) = '@' || ?5)
               ORDER BY address LIMIT ?6"
        ))
        .bind(tenant.as_uuid())
        .bind(query.after.as_ref().map_or("", Address::as_str))
        .bind(query.prefix.as_deref().unwrap_or_default())
        .bind(like_prefix(query.prefix.as_deref().unwrap_or_default()))
        .bind(query.domain.as_ref().map(DomainName::as_str))
        .bind(i64::from(query.limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
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
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some(before) = mailbox(&mut tx, tenant, address).await? else { return Ok(Ok(None)) };
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
                    SET state = ?3, revision = ?4, quota_octets = ?5, quota_messages = ?6, policy = ?7,
                        credential_version = credential_version + 1
                  WHERE tenant_id = ?1 AND mailbox_id = ?2",
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
            let action = match (before.state, state) {
                (State::Active, State::Suspended) => "mailbox.suspend",
                (State::Suspended, State::Active) => "mailbox.resume",
                _ => "mailbox.update",
            };
            Audit { tenant: Some(tenant), actor, at, action, target: address.as_str() }
                .write(&mut tx, Some(&before), Some(&after))
                .await?;
            tx.commit().await?;
            Ok(Ok(Some(after)))
        };
        let updated = run.await.map_err(index_error)?.map_err(IndexError::Conflict)?;
        if let Some(mailbox) = updated.as_ref().filter(|mailbox| mailbox.state != State::Active) {
            self.locks.end(tenant, Some(mailbox.id));
        }
        Ok(updated)
    }

    pub(super) async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some(before) = mailbox(&mut tx, tenant, address).await? else { return Ok(None) };
            sqlx::query(
                "INSERT INTO mailbox_deletions (tenant_id, mailbox_id, address, begun_at) VALUES (?, ?, ?, ?)",
            )
            .bind(tenant.as_uuid())
            .bind(before.id.as_uuid())
            .bind(address.as_str())
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            for statement in [
                "DELETE FROM aliases WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM app_passwords WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?",
            ] {
                sqlx::query(statement)
                    .bind(tenant.as_uuid())
                    .bind(before.id.as_uuid())
                    .execute(&mut *tx)
                    .await?;
            }
            Audit { tenant: Some(tenant), actor, at, action: "mailbox.delete", target: address.as_str() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some(before.id))
        };
        let Some(mailbox) = run.await.map_err(index_error)? else { return Ok(false) };
        self.locks.end(tenant, Some(mailbox));
        Ok(true)
    }
}

async fn insert_mailbox(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    new: &NewMailbox,
    welcome: &Welcome,
    actor: &Actor,
    at: OffsetDateTime,
) -> Result<Result<Mailbox, Conflict>, sqlx::Error> {
    if !own_domain(connection, tenant, new.address.domain()).await? {
        return Ok(Err(Conflict::ForeignDomain));
    }
    let alias: Option<i64> = sqlx::query_scalar("SELECT 1 FROM aliases WHERE tenant_id = ? AND address = ?")
        .bind(tenant.as_uuid())
        .bind(new.address.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    if alias.is_some() {
        return Ok(Err(Conflict::Address));
    }
    if !fits(room(connection, tenant).await?, new.settings.quota_octets) {
        return Ok(Err(Conflict::OverAllocated));
    }
    let mut made = Mailbox {
        id: new.id,
        address: new.address.clone(),
        state: if new.suspended { State::Suspended } else { State::Active },
        revision: 1,
        settings: new.settings.clone(),
        message_count: 0,
        octets: 0,
        created_at: at,
    };
    let created = sqlx::query(
        "INSERT INTO mailboxes (tenant_id, mailbox_id, address, password_hash, verifiers, state, quota_octets,
                                quota_messages, policy, created_at, bulletins)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant_id, address) DO NOTHING",
    )
    .bind(tenant.as_uuid())
    .bind(new.id.as_uuid())
    .bind(new.address.as_str())
    .bind(new.credential.as_ref().map_or("", |credential| &credential.hash))
    .bind(new.credential.as_ref().and_then(|credential| credential.verifiers.as_deref()))
    .bind(state_word(made.state))
    .bind(new.settings.quota_octets.map(|n| n as i64))
    .bind(new.settings.quota_messages.map(|n| n as i64))
    .bind(Json(&new.settings.policy))
    .bind(micros(at))
    .bind(welcome.number)
    .execute(&mut *connection)
    .await?;
    if created.rows_affected() == 0 {
        return Ok(Err(Conflict::Address));
    }
    welcome.give(connection, tenant, &mut made, at).await?;
    Audit { tenant: Some(tenant), actor, at, action: "mailbox.create", target: new.address.as_str() }
        .write(connection, NOTHING, Some(&made))
        .await?;
    Ok(Ok(made))
}

/// Octets that the tenant may still give to its mailboxes as quotas, or no limit.
async fn room(connection: &mut SqliteConnection, tenant: TenantId) -> Result<Option<i128>, sqlx::Error> {
    let row: Option<(Option<i64>, Option<u32>, i64)> = sqlx::query_as(
        "SELECT t.quota_octets, t.over_allocation_percent, coalesce(u.allocated_octets, 0)
           FROM tenants t LEFT JOIN tenant_usage u ON u.tenant_id = t.tenant_id WHERE t.tenant_id = ?",
    )
    .bind(tenant.as_uuid())
    .fetch_optional(connection)
    .await?;
    let Some((quota, percent, allocated)) = row else { return Ok(None) };
    let allocatable = allocatable(quota.map(|n| n as u64), percent);
    Ok(allocatable.map(|allocatable| i128::from(allocatable) - i128::from(allocated)))
}

pub(super) async fn mailbox(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Mailbox>, sqlx::Error> {
    let row: Option<MailboxRow> = sqlx::query_as(concat!(
        "SELECT ",
        mailbox_columns!(),
        " FROM mailboxes WHERE tenant_id = ? AND address = ?"
    ))
    .bind(tenant.as_uuid())
    .bind(address.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|row| Mailbox::try_from(row).map_err(undecodable)).transpose()
}
