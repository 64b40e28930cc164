//! What is in a maildrop: its listing, and its messages.

use futures_util::TryStreamExt as _;
use maildrop::{
    Digest, Extent, Form, Listing, MailboxId, MessageInfo, MessageOrder, MessageRow, PackId, ReceivedMessage,
    TenantId, Uid, View, port::IndexError,
};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::micros;
use crate::{
    error::{corrupt, index_error},
    rows::{InfoRow, Stamp},
    sqlite::Sqlite,
};

// A mailbox that was deleted has rows for a while: a session that goes on is shown none of them.

impl Sqlite {
    pub(super) async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        view: View,
    ) -> Result<Listing, IndexError> {
        let by_time = view.order == MessageOrder::Received;
        // The last ones come first, so that there need not be more.
        let last = view.last.filter(|_| !by_time).map_or(-1, i64::from);
        let mut rows = sqlx::query(
            "SELECT uid, octets, unique_id, received_at
               FROM (SELECT uid, octets - iif(?4, coalesce(ascii_extra, 0), 0) AS octets, unique_id, received_at
                       FROM messages
                      WHERE tenant_id = ?1 AND mailbox_id = ?2 AND uid < ?3
                        AND (?5 IS NULL OR received_at >= ?5)
                        AND EXISTS (SELECT 1 FROM mailboxes WHERE tenant_id = ?1 AND mailbox_id = ?2)
                      ORDER BY uid DESC LIMIT ?6)
              ORDER BY uid",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(before.0 as i64)
        .bind(view.form == Form::Native)
        .bind(view.since.map(micros))
        .bind(last)
        .fetch(&self.reader);
        let mut listing = Listing::new(mailbox);
        let mut timed = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(index_error)? {
            let read = || -> Result<(i64, i64, Option<&str>, Stamp), sqlx::Error> {
                Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
            };
            let (uid, octets, unique_id, Stamp(received_at)) = read().map_err(index_error)?;
            let (uid, octets) = (Uid(uid as u64), octets as u64);
            if by_time {
                let unique_id = unique_id.map(str::to_owned);
                timed.push(ReceivedMessage { received_at, uid, octets, unique_id });
            } else {
                listing.push(uid, octets, unique_id);
            }
        }
        Ok(if by_time { Listing::by_time(mailbox, timed, view.last) } else { listing })
    }

    pub(super) async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        let rows = sqlx::query(
            "SELECT uid, octets, header_octets, digest, delivered_to, pack_id, pack_offset, pack_length,
                    ascii_extra
               FROM messages
              WHERE tenant_id = ?1 AND mailbox_id = ?2 AND uid >= ?3 AND uid < ?4
                AND EXISTS (SELECT 1 FROM mailboxes WHERE tenant_id = ?1 AND mailbox_id = ?2)
              ORDER BY uid LIMIT ?5",
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

    pub(super) async fn any_left(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Result<bool, IndexError> {
        for uid in uids {
            if !self.messages(tenant, mailbox, *uid, Uid(uid.0 + 1), 1).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn message_infos(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let rows: Vec<InfoRow> = sqlx::query_as(
            "SELECT uid, unique_id, octets, received_at, NULL AS deleted_at, NULL AS keep_until
               FROM messages WHERE tenant_id = ? AND mailbox_id = ? AND uid > ? ORDER BY uid LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(after.0 as i64)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(|row| row.info(mailbox)).collect())
    }

    pub(super) async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError> {
        let infos = self.message_infos(tenant, mailbox, Uid(uid.0.saturating_sub(1)), 1).await?;
        let rows = self.messages(tenant, mailbox, uid, Uid(uid.0 + 1), 1).await?;
        let info = infos.into_iter().find(|info| info.uid == uid);
        Ok(info.zip(rows.into_iter().next()))
    }
}

fn message_row(row: &SqliteRow) -> Result<MessageRow, IndexError> {
    let read = || -> Result<_, sqlx::Error> {
        let digest: Vec<u8> = row.try_get(3)?;
        Ok((
            MessageRow {
                uid: Uid(row.try_get::<i64, _>(0)? as u64),
                octets: row.try_get::<i64, _>(1)? as u64,
                ascii_extra: row.try_get(8)?,
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
