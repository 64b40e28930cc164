//! Deleted messages that are kept for a while, and put back.

use maildrop::{
    Actor, MailboxId, MessageInfo, TenantId, Uid,
    port::{IndexError, RowOutcome},
};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    address_of,
    deliver::{Room, count_in},
    micros,
};
use crate::{
    error::index_error,
    rows::InfoRow,
    sqlite::{Sqlite, audit::Audit},
};

impl Sqlite {
    pub(super) async fn deleted_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let rows: Vec<InfoRow> = sqlx::query_as(
            "SELECT uid, unique_id, octets, received_at, deleted_at, keep_until
               FROM deleted_messages
              WHERE tenant_id = ? AND mailbox_id = ? AND uid > ? AND keep_until > ? ORDER BY uid LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(after.0 as i64)
        .bind(micros(OffsetDateTime::now_utc()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(|row| row.info(mailbox)).collect())
    }

    pub(super) async fn restore_message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, IndexError> {
        self.restore(tenant, mailbox, uid, actor, at).await.map_err(index_error)
    }

    /// Puts a deleted message back.
    async fn restore(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        let Some(target) = address_of(&mut tx, tenant, mailbox).await? else {
            return Ok(RowOutcome::Unknown);
        };
        let octets: Option<i64> = sqlx::query_scalar(
            "SELECT octets FROM deleted_messages
              WHERE tenant_id = ? AND mailbox_id = ? AND uid = ? AND keep_until > ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(uid.0 as i64)
        .bind(micros(OffsetDateTime::now_utc()))
        .fetch_optional(&mut *tx)
        .await?;
        let Some(octets) = octets else { return Ok(RowOutcome::Unknown) };
        let Some(room) = Room::of(&mut tx, tenant, mailbox).await? else { return Ok(RowOutcome::Unknown) };
        if !room.takes(octets) {
            return Ok(RowOutcome::OverQuota);
        }
        sqlx::query(
            "INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                                   header_octets, received_at, digest, delivered_to, ascii_extra)
             SELECT tenant_id, mailbox_id, ?4, pack_id, pack_offset, pack_length, octets, header_octets,
                    received_at, digest, delivered_to, ascii_extra
               FROM deleted_messages WHERE tenant_id = ?1 AND mailbox_id = ?2 AND uid = ?3",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(uid.0 as i64)
        .bind(room.next_uid)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM deleted_messages WHERE tenant_id = ? AND mailbox_id = ? AND uid = ?")
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(uid.0 as i64)
            .execute(&mut *tx)
            .await?;
        count_in(&mut tx, tenant, mailbox, octets).await?;
        let restored = Uid(room.next_uid as u64);
        Audit { tenant: Some(tenant), actor, at, action: "message.restore", target: &target }
            .write(&mut tx, Some(&json!({ "uid": uid })), Some(&json!({ "uid": restored })))
            .await?;
        tx.commit().await?;
        Ok(RowOutcome::Delivered(restored))
    }

    pub(super) async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let now = micros(OffsetDateTime::now_utc());
            let gone: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
                "DELETE FROM deleted_messages WHERE (tenant_id, mailbox_id, uid) IN
                 (SELECT tenant_id, mailbox_id, uid FROM deleted_messages
                   WHERE keep_until <= ?1 ORDER BY keep_until LIMIT ?2)
                 RETURNING tenant_id, pack_id, pack_length",
            )
            .bind(now)
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            for (tenant, pack, length) in &gone {
                sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
                    .bind(tenant)
                    .bind(pack)
                    .bind(length)
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await?;
            Ok(gone.len() as u64)
        };
        run.await.map_err(index_error)
    }
}
