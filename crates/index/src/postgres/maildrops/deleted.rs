//! Deleted messages that are kept for a while, and put back.

use maildrop::{
    Actor, MailboxId, MessageInfo, TenantId, Uid,
    port::{IndexError, RowOutcome},
};
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    postgres::{Postgres, scoped::Audit},
    rows::InfoRow,
};

impl Postgres {
    pub(super) async fn deleted_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let rows: Vec<InfoRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT uid, unique_id, octets, received_at, deleted_at, keep_until
                       FROM deleted_messages
                      WHERE tenant_id = $1 AND mailbox_id = $2 AND uid > $3 AND keep_until > now()
                      ORDER BY uid LIMIT $4",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(after.0 as i64)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
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
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            // The mailbox's row first, as a delivery does.
            let target: Option<String> = sqlx::query_scalar(
                "SELECT address FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2 FOR NO KEY UPDATE",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(target) = target else { return Ok(RowOutcome::Unknown) };
            let octets: Option<i64> = sqlx::query_scalar(
                "SELECT octets FROM deleted_messages
                  WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = $3 AND keep_until > now() FOR UPDATE",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(uid.0 as i64)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(octets) = octets else { return Ok(RowOutcome::Unknown) };
            let restored: Option<i64> = sqlx::query_scalar(
                "WITH box AS (
                     UPDATE mailboxes b
                        SET next_uid = b.next_uid + 1, message_count = b.message_count + 1,
                            octets = b.octets + $4
                       FROM tenants t
                      WHERE b.tenant_id = $1 AND b.mailbox_id = $2 AND t.tenant_id = b.tenant_id
                        AND coalesce(b.octets + $4 <= coalesce(b.quota_octets, t.mailbox_quota_octets), true)
                        AND coalesce(b.message_count < coalesce(b.quota_messages, t.mailbox_quota_messages), true)
                        AND coalesce((SELECT sum(u.octets) + $4 FROM tenant_usage u
                                       WHERE u.tenant_id = $1) <= t.quota_octets, true)
                        AND coalesce((SELECT sum(u.messages) FROM tenant_usage u
                                       WHERE u.tenant_id = $1) < t.quota_messages, true)
                  RETURNING b.next_uid - 1 AS uid
                 ), back AS (
                     DELETE FROM deleted_messages
                      WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = $3 AND EXISTS (SELECT FROM box)
                  RETURNING *
                 )
                 INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                                       header_octets, received_at, digest, delivered_to, ascii_extra)
                 SELECT d.tenant_id, d.mailbox_id, x.uid, d.pack_id, d.pack_offset, d.pack_length, d.octets,
                        d.header_octets, d.received_at, d.digest, d.delivered_to, d.ascii_extra
                   FROM back d, box x
              RETURNING uid",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(uid.0 as i64)
            .bind(octets)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(restored) = restored else { return Ok(RowOutcome::OverQuota) };
            Audit {
                tenant: Some(tenant),
                actor,
                at,
                action: "message.restore",
                target: &target,
                before: Some(json!({ "uid": uid.0 })),
                after: Some(json!({ "uid": restored })),
            }
            .write(&mut tx)
            .await?;
            tx.commit().await?;
            Ok(RowOutcome::Delivered(Uid(restored as u64)))
        })
        .await
    }

    pub(super) async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
        let gone: i64 = self
            .once(|| {
                sqlx::query_scalar(
                    "WITH over AS (
                         SELECT tenant_id, mailbox_id, uid FROM deleted_messages
                          WHERE keep_until <= now() ORDER BY keep_until LIMIT $1 FOR UPDATE SKIP LOCKED
                     ), gone AS (
                         DELETE FROM deleted_messages d USING over o
                          WHERE d.tenant_id = o.tenant_id AND d.mailbox_id = o.mailbox_id AND d.uid = o.uid
                      RETURNING d.tenant_id, d.pack_id, d.pack_length
                     ), garbage AS (
                         INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                         SELECT tenant_id, pack_id, sum(pack_length) FROM gone GROUP BY tenant_id, pack_id
                     )
                     SELECT count(*) FROM gone",
                )
                .bind(i64::from(limit))
                .fetch_one(&self.pool)
            })
            .await?;
        Ok(gone as u64)
    }
}
