//! Deliveries.

use maildrop::{
    Extent, MailboxId, StoredEntry, TenantId, Uid,
    port::{IndexError, NewMessage, PACK_AGE_MAX, PackedEntry, RowOutcome},
};
use sqlx::{Connection as _, SqliteConnection};
use time::OffsetDateTime;

use super::micros;
use crate::{
    error::{index_error, too_old},
    sqlite::Sqlite,
};

impl Sqlite {
    pub(super) async fn deliver_pack(
        &self,
        tenant: TenantId,
        entries: &[PackedEntry],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        let Some(pack) = entries.first().map(|entry| entry.stored) else { return Ok(Vec::new()) };
        if pack.extent.pack.time() <= OffsetDateTime::now_utc() - PACK_AGE_MAX {
            return Err(too_old(pack.extent.pack));
        }
        let mut connection = self.writer.acquire().await.map_err(index_error)?;
        insert_messages(&mut connection, tenant, &pack, entries).await.map_err(index_error)
    }
}

/// What still fits into a mailbox, by its quotas and its tenant's.
pub(super) struct Room {
    pub(super) next_uid: i64,
    octets: Option<i64>,
    messages: Option<i64>,
}

impl Room {
    pub(super) async fn of(
        connection: &mut SqliteConnection,
        tenant: TenantId,
        mailbox: MailboxId,
    ) -> Result<Option<Self>, sqlx::Error> {
        let row: Option<(i64, Option<i64>, Option<i64>, Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT b.next_uid, coalesce(b.quota_octets, t.mailbox_quota_octets) - b.octets,
                    t.quota_octets - u.octets,
                    coalesce(b.quota_messages, t.mailbox_quota_messages) - b.message_count,
                    t.quota_messages - u.messages
               FROM mailboxes b
               JOIN tenants t ON t.tenant_id = b.tenant_id
               JOIN tenant_usage u ON u.tenant_id = b.tenant_id
              WHERE b.tenant_id = ? AND b.mailbox_id = ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_optional(connection)
        .await?;
        Ok(row.map(|(next_uid, box_octets, pool_octets, box_messages, pool_messages)| Self {
            next_uid,
            octets: box_octets.into_iter().chain(pool_octets).min(),
            messages: box_messages.into_iter().chain(pool_messages).min(),
        }))
    }

    pub(super) fn takes(&self, octets: i64) -> bool {
        self.octets.is_none_or(|free| octets <= free) && self.messages.is_none_or(|free| free > 0)
    }
}

/// Counts a message that came into a mailbox.
pub(in crate::sqlite) async fn count_in(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
    octets: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE mailboxes SET next_uid = next_uid + 1, message_count = message_count + 1, octets = octets + ?
          WHERE tenant_id = ? AND mailbox_id = ?",
    )
    .bind(octets)
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_messages(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    stored: &StoredEntry,
    entries: &[PackedEntry],
) -> Result<Vec<RowOutcome>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let pack = stored.extent.pack;
    let count = entries.iter().map(|entry| entry.messages.len()).sum();
    let tenant_known: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM tenants WHERE tenant_id = ? AND state <> 'deleting'")
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
    if tenant_known.is_none() {
        return Ok(vec![RowOutcome::Unknown; count]);
    }
    let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM packs WHERE tenant_id = ? AND pack_id = ?")
        .bind(tenant.as_uuid())
        .bind(pack.as_uuid())
        .fetch_optional(&mut *tx)
        .await?;
    if known.is_none() {
        sqlx::query(
            "INSERT INTO packs (tenant_id, pack_id, octets, entries, created_at) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(tenant.as_uuid())
        .bind(pack.as_uuid())
        .bind(stored.pack_octets as i64)
        .bind(i64::from(stored.pack_entries))
        .bind(micros(OffsetDateTime::now_utc()))
        .execute(&mut *tx)
        .await?;
    }
    let mut outcomes = Vec::with_capacity(count);
    for entry in entries {
        let extent = entry.stored.extent;
        let first = outcomes.len();
        for message in &entry.messages {
            outcomes.push(if known.is_some() {
                repeated(&mut tx, tenant, extent, message).await?
            } else {
                insert_message(&mut tx, tenant, extent, message).await?
            });
        }
        if known.is_none() && !outcomes[first..].iter().any(|o| matches!(o, RowOutcome::Delivered(_))) {
            // An entry that no row will ever point at.
            sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .bind(extent.length as i64)
                .bind(micros(OffsetDateTime::now_utc()))
                .execute(&mut *tx)
                .await?;
        }
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
        "SELECT 1 FROM pack_refusals
          WHERE tenant_id = ? AND pack_id = ? AND mailbox_id = ? AND pack_offset = ?",
    )
    .bind(tenant.as_uuid())
    .bind(extent.pack.as_uuid())
    .bind(message.mailbox.as_uuid())
    .bind(extent.offset as i64)
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
    let Some(room) = Room::of(connection, tenant, message.mailbox).await? else {
        return Ok(RowOutcome::Unknown);
    };
    let (uid, octets) = (room.next_uid, message.octets as i64);
    if !room.takes(octets) {
        sqlx::query(
            "INSERT INTO pack_refusals (tenant_id, pack_id, mailbox_id, pack_offset) VALUES (?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
        )
        .bind(tenant.as_uuid())
        .bind(extent.pack.as_uuid())
        .bind(message.mailbox.as_uuid())
        .bind(extent.offset as i64)
        .execute(connection)
        .await?;
        return Ok(RowOutcome::OverQuota);
    }
    sqlx::query(
        "INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                               header_octets, received_at, digest, delivered_to, unique_id, ascii_extra)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
    .bind(message.ascii_extra)
    .execute(&mut *connection)
    .await?;
    count_in(connection, tenant, message.mailbox, octets).await?;
    Ok(RowOutcome::Delivered(Uid(uid as u64)))
}
