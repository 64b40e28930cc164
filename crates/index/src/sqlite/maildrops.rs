//! Maildrops and messages on SQLite.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use maildrop::{
    Actor, Digest, Extent, Listing, LockToken, MailboxId, MessageInfo, MessageRow, NodeId, PackId, Policy,
    StoredEntry, TenantId, TenantLimits, Uid,
    port::{
        CommitOutcome, Index, IndexError, NewMessage, OpenOutcome, OpenRequest, Opened, Pulse, RowOutcome,
        SessionInfo, Usage,
    },
};
use serde_json::json;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Sqlite,
    audit::{Audit, NOTHING},
    locks::Taken,
};
use crate::{
    error::{corrupt, index_error},
    rows::{InfoRow, address, rules},
};

#[async_trait]
impl Index for Sqlite {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        match self.locks.take(&request) {
            Taken::Yes => {}
            Taken::InUse => return Ok(OpenOutcome::InUse),
            Taken::TooSoon => return Ok(OpenOutcome::TooSoon),
            Taken::TooManySessions => return Ok(OpenOutcome::TooManySessions),
        }
        let OpenRequest { tenant, mailbox, token, .. } = request;
        let wanted = (request.credential_version, request.tenant_revision);
        // Read after the lock was taken: what the former holder committed is in it.
        let row: Result<Option<(i64, i64, i64, i64, i64)>, _> = sqlx::query_as(
            "SELECT b.credential_version, t.revision, b.message_count, b.octets, b.next_uid
               FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id
              WHERE b.tenant_id = ? AND b.mailbox_id = ?",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_optional(&self.reader)
        .await;
        match row {
            Ok(Some((version, revision, message_count, octets, next_uid)))
                if (version, revision) == wanted =>
            {
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
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError> {
        let mut connection = self.writer.acquire().await.map_err(index_error)?;
        // Checked once the only writer is ours: from here on nobody else changes the maildrop.
        if !self.locks.holds(tenant, mailbox, token) {
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

    async fn deliver(
        &self,
        tenant: TenantId,
        entry: &StoredEntry,
        messages: &[NewMessage],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        let mut connection = self.writer.acquire().await.map_err(index_error)?;
        insert_messages(&mut connection, tenant, entry, messages).await.map_err(index_error)
    }

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<Pulse, IndexError> {
        let (nodes, ended) = self.locks.heartbeat(node, name, ttl);
        Ok(Pulse { nodes, ended })
    }

    async fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> Result<bool, IndexError> {
        Ok(self.locks.take_task(task, node, ttl))
    }

    async fn message_infos(
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

    async fn message(
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

    async fn remove_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
        kept: Duration,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Uid>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let removal = Removal { tenant, mailbox, kept, actor, at, action: "message.delete" };
            let gone = removal.run(&mut tx, uids).await?;
            tx.commit().await?;
            Ok(gone)
        };
        run.await.map_err(index_error)
    }

    async fn deleted_messages(
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

    async fn restore_message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<RowOutcome, IndexError> {
        self.restore(tenant, mailbox, uid, actor, at).await.map_err(index_error)
    }

    async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<(Json<TenantLimits>, Json<Policy>, Json<Policy>)> = sqlx::query_as(
                "SELECT t.limits, t.policy, b.policy
                   FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id
                  WHERE b.tenant_id = ? AND b.mailbox_id = ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some((limits, of_tenant, own)) = row else { return Ok(0) };
            let rules = rules(limits, &of_tenant, &own);
            let Some(days) = rules.mailbox.expire_days else { return Ok(0) };
            let before = micros(at - time::Duration::days(days.into()));
            let oldest: Vec<(i64, i64)> = sqlx::query_as(
                "SELECT uid, received_at FROM messages WHERE tenant_id = ? AND mailbox_id = ?
                  ORDER BY uid LIMIT ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            let old = oldest.iter().take_while(|(_, received)| *received < before);
            let uids: Vec<Uid> = old.map(|(uid, _)| Uid(*uid as u64)).collect();
            let removal = Removal {
                tenant,
                mailbox,
                kept: rules.undelete_window(),
                actor,
                at,
                action: "message.expire",
            };
            let gone = removal.run(&mut tx, &uids).await?;
            tx.commit().await?;
            Ok(gone.len() as u64)
        };
        run.await.map_err(index_error)
    }

    async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let (tenant, mailbox) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT b.tenant_id, b.mailbox_id
               FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id AND t.state <> 'deleting'
              WHERE (b.tenant_id, b.mailbox_id) > (?1, ?2) AND b.message_count > 0
                AND coalesce(b.policy ->> 'expire_days', t.policy ->> 'expire_days') IS NOT NULL
              ORDER BY b.tenant_id, b.mailbox_id LIMIT ?3",
        )
        .bind(tenant)
        .bind(mailbox)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let ids = |(tenant, mailbox)| (TenantId::from_uuid(tenant), MailboxId::from_uuid(mailbox));
        Ok(rows.into_iter().map(ids).collect())
    }

    async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
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

    async fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<SessionInfo>, IndexError> {
        let mut sessions = Vec::new();
        for ((tenant, mailbox), held, node) in self.locks.sessions(tenant, after, limit as usize) {
            let names: Option<(String, String)> = sqlx::query_as(
                "SELECT t.name, b.address FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id
                  WHERE b.tenant_id = ? AND b.mailbox_id = ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&self.reader)
            .await
            .map_err(index_error)?;
            let Some((tenant_name, at)) = names else { continue };
            sessions.push(SessionInfo {
                id: held.session,
                tenant,
                tenant_name,
                mailbox,
                address: address(&at)?,
                node,
                peer: held.peer,
                since: held.since,
            });
        }
        Ok(sessions)
    }

    async fn end_session(
        &self,
        tenant: TenantId,
        session: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let Some((mailbox, held)) = self.locks.session(tenant, session) else { return Ok(false) };
        let run = async {
            let mut tx = self.writer.begin().await?;
            let target: Option<String> =
                sqlx::query_scalar("SELECT address FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            let target = target.unwrap_or_default();
            let before = json!({ "session": session, "peer": held.peer });
            Audit { tenant: Some(tenant), actor, at, action: "session.end", target: &target }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)?;
        // By its token: another session may have come after it.
        self.locks.end_held(tenant, mailbox, &held);
        Ok(true)
    }

    async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        let row: Option<(i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT mailboxes, messages, octets, allocated_octets FROM tenant_usage WHERE tenant_id = ?",
        )
        .bind(tenant.as_uuid())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        let (mailboxes, messages, octets, allocated) = row.unwrap_or_default();
        Ok(Usage {
            mailboxes: mailboxes as u64,
            messages: messages as u64,
            octets: octets as u64,
            allocated_octets: allocated as u64,
        })
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

/// Takes messages out of a maildrop: into `deleted_messages` where they are kept, else to the garbage. Gives
/// those that were there.
async fn delete_messages(
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
                                               unique_id, deleted_at, keep_until)
                 SELECT tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets, header_octets,
                        received_at, digest, delivered_to, unique_id, ?4, ?5
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

/// Takes messages away otherwise than by their owner's DELE.
struct Removal<'a> {
    tenant: TenantId,
    mailbox: MailboxId,
    kept: Duration,
    actor: &'a Actor,
    at: OffsetDateTime,
    action: &'static str,
}

impl Removal<'_> {
    /// Removes what is there of `uids`, and writes that to the audit log.
    async fn run(self, connection: &mut SqliteConnection, uids: &[Uid]) -> Result<Vec<Uid>, sqlx::Error> {
        let Self { tenant, mailbox, kept, actor, at, action } = self;
        let target = address_of(connection, tenant, mailbox).await?;
        let Some(target) = target.filter(|_| !uids.is_empty()) else { return Ok(Vec::new()) };
        let gone = delete_messages(connection, tenant, mailbox, uids, kept).await?;
        if !gone.is_empty() {
            Audit { tenant: Some(tenant), actor, at, action, target: &target }
                .write(connection, Some(&json!({ "uids": gone })), NOTHING)
                .await?;
        }
        Ok(gone)
    }
}

impl Sqlite {
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
                                   header_octets, received_at, digest, delivered_to)
             SELECT tenant_id, mailbox_id, ?4, pack_id, pack_offset, pack_length, octets, header_octets,
                    received_at, digest, delivered_to
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
}

async fn address_of(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT address FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?")
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_optional(connection)
        .await
}

/// What still fits into a mailbox, by its quotas and its tenant's.
struct Room {
    next_uid: i64,
    octets: Option<i64>,
    messages: Option<i64>,
}

impl Room {
    async fn of(
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

    fn takes(&self, octets: i64) -> bool {
        self.octets.is_none_or(|free| octets <= free) && self.messages.is_none_or(|free| free > 0)
    }
}

/// Counts a message that came into a mailbox.
async fn count_in(
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
    entry: &StoredEntry,
    messages: &[NewMessage],
) -> Result<Vec<RowOutcome>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let extent = entry.extent;
    let tenant_known: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM tenants WHERE tenant_id = ? AND state <> 'deleting'")
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
    let Some(room) = Room::of(connection, tenant, message.mailbox).await? else {
        return Ok(RowOutcome::Unknown);
    };
    let (uid, octets) = (room.next_uid, message.octets as i64);
    if !room.takes(octets) {
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
    count_in(connection, tenant, message.mailbox, octets).await?;
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
