//! Maildrops and messages on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use maildrop::{
    Digest, Extent, Listing, LockToken, MailboxId, MessageRow, NodeId, PackId, StoredEntry, TenantId, Uid,
    port::{CommitOutcome, Index, IndexError, NewMessage, OpenOutcome, OpenRequest, Opened, RowOutcome},
};
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Sqlite;
use crate::error::{corrupt, index_error};

#[async_trait]
impl Index for Sqlite {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        let OpenRequest { tenant, mailbox, credential_version, token, node } = request;
        if !self.locks.take(tenant, mailbox, token, node) {
            return Ok(OpenOutcome::InUse);
        }
        // Read after the lock was taken: what the former holder committed is in it.
        let row: Result<Option<(i64, i64, i64, i64)>, _> = sqlx::query_as(
            "SELECT credential_version, message_count, octets, next_uid FROM mailboxes
              WHERE tenant_id = ? AND mailbox_id = ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_optional(&self.reader)
        .await;
        match row {
            Ok(Some((version, message_count, octets, next_uid))) if version == credential_version => {
                Ok(OpenOutcome::Opened(Opened {
                    message_count: message_count as u64,
                    octets: octets as u64,
                    next_uid: Uid(next_uid as u64),
                }))
            }
            Ok(_) => {
                self.locks.release(tenant, mailbox, token);
                Ok(OpenOutcome::Stale)
            }
            Err(error) => {
                self.locks.release(tenant, mailbox, token);
                Err(index_error(error))
            }
        }
    }

    async fn release(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
    ) -> Result<(), IndexError> {
        self.locks.release(tenant, mailbox, token);
        Ok(())
    }

    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
    ) -> Result<Listing, IndexError> {
        let mut listing = Listing::new(mailbox);
        let mut rows = sqlx::query(
            "SELECT uid, octets, unique_id FROM messages
              WHERE tenant_id = ? AND mailbox_id = ? AND uid < ? ORDER BY uid",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(before.0 as i64)
        .fetch(&self.reader);
        while let Some(row) = rows.try_next().await.map_err(index_error)? {
            let read = || -> Result<(i64, i64, Option<&str>), sqlx::Error> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
            };
            let (uid, octets, unique_id) = read().map_err(index_error)?;
            listing.push(Uid(uid as u64), octets as u64, unique_id);
        }
        Ok(listing)
    }

    async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        let rows = sqlx::query(
            "SELECT uid, octets, header_octets, digest, delivered_to, pack_id, pack_offset, pack_length
               FROM messages
              WHERE tenant_id = ? AND mailbox_id = ? AND uid >= ? AND uid < ?
              ORDER BY uid LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(from.0 as i64)
        .bind(before.0 as i64)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.iter().map(message_row).collect()
    }

    async fn any_left(&self, tenant: TenantId, mailbox: MailboxId, uids: &[Uid]) -> Result<bool, IndexError> {
        for uid in uids {
            if !self.messages(tenant, mailbox, *uid, Uid(uid.0 + 1), 1).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
    ) -> Result<CommitOutcome, IndexError> {
        let mut connection = self.writer.acquire().await.map_err(index_error)?;
        // Checked once the only writer is ours: from here on nobody else changes the maildrop.
        if !self.locks.holds(tenant, mailbox, token) {
            return Ok(CommitOutcome::LockLost);
        }
        let gone = delete_messages(&mut connection, tenant, mailbox, deleted).await.map_err(index_error)?;
        self.locks.release(tenant, mailbox, token);
        Ok(CommitOutcome::Committed { deleted: gone })
    }

    async fn deliver(
        &self,
        tenant: TenantId,
        entry: &StoredEntry,
        messages: &[NewMessage],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        let mut connection = self.writer.acquire().await.map_err(index_error)?;
        insert_messages(&mut connection, tenant, entry, messages).await.map_err(index_error)
    }

    async fn heartbeat(&self, node: NodeId, _name: &str, ttl: Duration) -> Result<(), IndexError> {
        self.locks.heartbeat(node, ttl);
        Ok(())
    }

    async fn retire(&self, node: NodeId) -> Result<(), IndexError> {
        self.locks.retire(node);
        Ok(())
    }

    async fn ready(&self) -> Result<(), IndexError> {
        sqlx::query("SELECT 1").execute(&self.reader).await.map_err(index_error)?;
        Ok(())
    }

    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        sqlx::query("INSERT INTO key_check (only_row, check_value) VALUES (1, ?) ON CONFLICT DO NOTHING")
            .bind(check)
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        sqlx::query_scalar("SELECT check_value FROM key_check")
            .fetch_one(&self.writer)
            .await
            .map_err(index_error)
    }
}

async fn delete_messages(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
    deleted: &[Uid],
) -> Result<u64, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let (mut gone, mut octets) = (0_i64, 0_i64);
    for uid in deleted {
        let row: Option<(i64, Uuid, i64)> = sqlx::query_as(
            "DELETE FROM messages WHERE tenant_id = ? AND mailbox_id = ? AND uid = ?
             RETURNING octets, pack_id, pack_length",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(uid.0 as i64)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((message_octets, pack, length)) = row else { continue };
        gone += 1;
        octets += message_octets;
        sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
            .bind(tenant.as_uuid())
            .bind(pack)
            .bind(length)
            .bind(micros(OffsetDateTime::now_utc()))
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query(
        "UPDATE mailboxes SET message_count = message_count - ?, octets = octets - ?
          WHERE tenant_id = ? AND mailbox_id = ?",
    )
    .bind(gone)
    .bind(octets)
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(gone as u64)
}

async fn insert_messages(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    entry: &StoredEntry,
    messages: &[NewMessage],
) -> Result<Vec<RowOutcome>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let extent = entry.extent;
    let tenant_known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM tenants WHERE tenant_id = ?")
        .bind(tenant.as_uuid())
        .fetch_optional(&mut *tx)
        .await?;
    if tenant_known.is_none() {
        return Ok(vec![RowOutcome::Unknown; messages.len()]);
    }
    let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM packs WHERE tenant_id = ? AND pack_id = ?")
        .bind(tenant.as_uuid())
        .bind(extent.pack.as_uuid())
        .fetch_optional(&mut *tx)
        .await?;
    if known.is_none() {
        sqlx::query(
            "INSERT INTO packs (tenant_id, pack_id, octets, entries, created_at) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(tenant.as_uuid())
        .bind(extent.pack.as_uuid())
        .bind(entry.pack_octets as i64)
        .bind(i64::from(entry.pack_entries))
        .bind(micros(OffsetDateTime::now_utc()))
        .execute(&mut *tx)
        .await?;
    }
    let mut outcomes = Vec::with_capacity(messages.len());
    for message in messages {
        let outcome = if known.is_some() {
            repeated(&mut tx, tenant, extent, message).await?
        } else {
            insert_message(&mut tx, tenant, extent, message).await?
        };
        outcomes.push(outcome);
    }
    if known.is_none() && !outcomes.iter().any(|o| matches!(o, RowOutcome::Delivered(_))) {
        sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
            .bind(tenant.as_uuid())
            .bind(extent.pack.as_uuid())
            .bind(extent.length as i64)
            .bind(micros(OffsetDateTime::now_utc()))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(outcomes)
}

/// What became of a message the first time.
async fn repeated(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    extent: Extent,
    message: &NewMessage,
) -> Result<RowOutcome, sqlx::Error> {
    let uid: Option<i64> = sqlx::query_scalar(
        "SELECT uid FROM messages
          WHERE tenant_id = ? AND pack_id = ? AND mailbox_id = ? AND pack_offset = ?",
    )
    .bind(tenant.as_uuid())
    .bind(extent.pack.as_uuid())
    .bind(message.mailbox.as_uuid())
    .bind(extent.offset as i64)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(uid) = uid {
        return Ok(RowOutcome::Delivered(Uid(uid as u64)));
    }
    let mailbox: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?")
            .bind(tenant.as_uuid())
            .bind(message.mailbox.as_uuid())
            .fetch_optional(&mut *connection)
            .await?;
    if mailbox.is_none() {
        return Ok(RowOutcome::Unknown);
    }
    let refused: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM pack_refusals WHERE tenant_id = ? AND pack_id = ? AND mailbox_id = ?",
    )
    .bind(tenant.as_uuid())
    .bind(extent.pack.as_uuid())
    .bind(message.mailbox.as_uuid())
    .fetch_optional(connection)
    .await?;
    Ok(if refused.is_some() { RowOutcome::OverQuota } else { RowOutcome::DeliveredBefore })
}

async fn insert_message(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    extent: Extent,
    message: &NewMessage,
) -> Result<RowOutcome, sqlx::Error> {
    let mailbox: Option<(i64, i64, Option<i64>)> = sqlx::query_as(
        "SELECT next_uid, octets, quota_octets FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?",
    )
    .bind(tenant.as_uuid())
    .bind(message.mailbox.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((uid, held, quota)) = mailbox else { return Ok(RowOutcome::Unknown) };
    let octets = message.octets as i64;
    if quota.is_some_and(|quota| held + octets > quota) {
        sqlx::query("INSERT INTO pack_refusals (tenant_id, pack_id, mailbox_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(tenant.as_uuid())
            .bind(extent.pack.as_uuid())
            .bind(message.mailbox.as_uuid())
            .execute(connection)
            .await?;
        return Ok(RowOutcome::OverQuota);
    }
    sqlx::query(
        "INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                               header_octets, received_at, digest, delivered_to, unique_id)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(tenant.as_uuid())
    .bind(message.mailbox.as_uuid())
    .bind(uid)
    .bind(extent.pack.as_uuid())
    .bind(extent.offset as i64)
    .bind(extent.length as i64)
    .bind(octets)
    .bind(message.header_octets as i64)
    .bind(micros(message.received_at))
    .bind(message.digest.0.as_slice())
    .bind(message.delivered_to.as_str())
    .bind(message.unique_id.as_ref().map(maildrop::UniqueId::as_str))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE mailboxes SET next_uid = next_uid + 1, message_count = message_count + 1, octets = octets + ?
          WHERE tenant_id = ? AND mailbox_id = ?",
    )
    .bind(octets)
    .bind(tenant.as_uuid())
    .bind(message.mailbox.as_uuid())
    .execute(connection)
    .await?;
    Ok(RowOutcome::Delivered(Uid(uid as u64)))
}

fn message_row(row: &SqliteRow) -> Result<MessageRow, IndexError> {
    let read = || -> Result<_, sqlx::Error> {
        let digest: Vec<u8> = row.try_get(3)?;
        Ok((
            MessageRow {
                uid: Uid(row.try_get::<i64, _>(0)? as u64),
                octets: row.try_get::<i64, _>(1)? as u64,
                header_octets: row.try_get::<i64, _>(2)? as u64,
                digest: Digest([0; 32]),
                delivered_to: row.try_get(4)?,
                extent: Extent {
                    pack: PackId::from_uuid(row.try_get(5)?),
                    offset: row.try_get::<i64, _>(6)? as u64,
                    length: row.try_get::<i64, _>(7)? as u64,
                },
            },
            digest,
        ))
    };
    let (mut message, digest) = read().map_err(index_error)?;
    message.digest = Digest(digest.try_into().map_err(|_| corrupt("digest is not 32 octets"))?);
    Ok(message)
}

/// Microseconds since 1970, as times are stored.
pub(super) fn micros(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

/// The time stored as `micros`.
pub(super) fn from_micros(micros: i64) -> Result<OffsetDateTime, IndexError> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| corrupt("time"))
}
