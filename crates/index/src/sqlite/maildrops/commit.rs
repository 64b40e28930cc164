//! UPDATE: what a session deleted goes.

use std::time::Duration;

use maildrop::{
    LockToken, MailboxId, TenantId, Uid,
    port::{CommitOutcome, IndexError},
};
use sqlx::{Connection as _, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::micros;
use crate::{error::index_error, sqlite::Sqlite};

impl Sqlite {
    pub(super) async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError> {
        let mut connection = self.writer.acquire().await.map_err(index_error)?;
        // Checked once the only writer is ours: from here on nobody else changes the maildrop. Whoever commits is
        // not silent: nobody may take the lock over meanwhile.
        if !self.locks.note_silence(tenant, mailbox, token, None) {
            return Ok(CommitOutcome::LockLost);
        }
        let run = async {
            let mut tx = connection.begin().await?;
            let gone = delete_messages(&mut tx, tenant, mailbox, deleted, kept).await?;
            tx.commit().await?;
            Ok(gone.len() as u64)
        };
        let deleted = run.await.map_err(index_error)?;
        self.locks.release(tenant, mailbox, token);
        Ok(CommitOutcome::Committed { deleted })
    }
}

/// Takes messages out of a maildrop: into `deleted_messages` where they are kept, else to the garbage. Gives
/// those that were there.
pub(super) async fn delete_messages(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
    deleted: &[Uid],
    kept: Duration,
) -> Result<Vec<Uid>, sqlx::Error> {
    let now = OffsetDateTime::now_utc();
    let (mut gone, mut octets) = (Vec::with_capacity(deleted.len()), 0_i64);
    for uid in deleted {
        if !kept.is_zero() {
            sqlx::query(
                "INSERT INTO deleted_messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length,
                                               octets, header_octets, received_at, digest, delivered_to,
                                               unique_id, ascii_extra, deleted_at, keep_until)
                 SELECT tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets, header_octets,
                        received_at, digest, delivered_to, unique_id, ascii_extra, ?4, ?5
                   FROM messages WHERE tenant_id = ?1 AND mailbox_id = ?2 AND uid = ?3",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(uid.0 as i64)
            .bind(micros(now))
            .bind(micros(now + kept))
            .execute(&mut *connection)
            .await?;
        }
        let row: Option<(i64, Uuid, i64)> = sqlx::query_as(
            "DELETE FROM messages WHERE tenant_id = ? AND mailbox_id = ? AND uid = ?
             RETURNING octets, pack_id, pack_length",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(uid.0 as i64)
        .fetch_optional(&mut *connection)
        .await?;
        let Some((message_octets, pack, length)) = row else { continue };
        gone.push(*uid);
        octets += message_octets;
        if kept.is_zero() {
            sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
                .bind(tenant.as_uuid())
                .bind(pack)
                .bind(length)
                .bind(micros(now))
                .execute(&mut *connection)
                .await?;
        }
    }
    sqlx::query(
        "UPDATE mailboxes SET message_count = message_count - ?, octets = octets - ?
          WHERE tenant_id = ? AND mailbox_id = ?",
    )
    .bind(gone.len() as i64)
    .bind(octets)
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .execute(connection)
    .await?;
    Ok(gone)
}
