//! Maildrops, locks and messages on PostgreSQL. The statements that need two snapshots or loops are
//! functions of the schema (`migrations/postgres`).

use std::{cmp::Ordering, time::Duration};

use async_trait::async_trait;
use maildrop::{
    Actor, Digest, Extent, Listing, LockToken, MailboxId, MessageInfo, MessageRow, NodeId, PackId, Policy,
    StoredEntry, TenantId, TenantLimits, Uid,
    port::{
        CommitOutcome, Index, IndexError, NewMessage, OpenOutcome, OpenRequest, Opened, Pulse, RowOutcome,
        SessionInfo, Usage,
    },
};
use serde_json::json;
use sqlx::{PgConnection, Postgres as Db, Row as _, Transaction, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Postgres,
    batch::{Batch, BatchError},
    scoped::Audit,
};
use crate::{
    error::{corrupt, index_error},
    rows::{InfoRow, SessionRow, Stamp, rules},
};

/// Messages of a listing read in one statement: some 200 KB of arrays.
const LISTING_PAGE: i64 = 10_000;

/// Opens maildrops, many in one statement.
#[derive(Debug)]
pub(super) struct Open {
    /// A statement that took longer than this undoes itself on the server.
    pub(super) patience: Duration,
}

/// What `open_maildrops` says of one request.
#[derive(Clone, Copy, Debug)]
pub(super) enum OpenAnswer {
    Outcome(OpenOutcome),
    /// The node's own lease has run out: it must say that it lives, and ask again.
    LeaseExpired,
}

impl Batch for Open {
    type Request = OpenRequest;
    type Answer = OpenAnswer;

    fn excludes(a: &OpenRequest, b: &OpenRequest) -> bool {
        // One row cannot be proposed twice in one INSERT … ON CONFLICT, and a statement is for one node.
        (a.tenant, a.mailbox) == (b.tenant, b.mailbox) || a.node != b.node
    }

    fn order(a: &OpenRequest, b: &OpenRequest) -> Ordering {
        (a.node, a.tenant, a.mailbox).cmp(&(b.node, b.tenant, b.mailbox))
    }

    fn busy() -> Result<OpenAnswer, IndexError> {
        Ok(OpenAnswer::Outcome(OpenOutcome::InUse))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        requests: &[OpenRequest],
    ) -> Result<Vec<OpenAnswer>, BatchError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let tenants: Vec<Uuid> = requests.iter().map(|r| r.tenant.as_uuid()).collect();
        let mailboxes: Vec<Uuid> = requests.iter().map(|r| r.mailbox.as_uuid()).collect();
        let revisions: Vec<i64> = requests.iter().map(|r| r.tenant_revision).collect();
        let versions: Vec<i64> = requests.iter().map(|r| r.credential_version).collect();
        let tokens: Vec<Uuid> = requests.iter().map(|r| r.token.as_uuid()).collect();
        let sessions: Vec<&str> = requests.iter().map(|r| r.session.as_str()).collect();
        let peers: Vec<&str> = requests.iter().map(|r| r.peer.as_str()).collect();
        let delays: Vec<f64> = requests.iter().map(|r| r.login_delay.as_secs_f64()).collect();
        let limits: Vec<Option<i32>> = requests
            .iter()
            .map(|r| r.sessions_max.map(|most| i32::try_from(most).unwrap_or(i32::MAX)))
            .collect();
        let rows: Vec<(i32, i32, Option<i64>, Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT place, outcome, message_count, octets, next_uid
               FROM open_maildrops($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, make_interval(secs => $11))",
        )
        .bind(first.node.as_uuid())
        .bind(tenants)
        .bind(mailboxes)
        .bind(revisions)
        .bind(versions)
        .bind(tokens)
        .bind(sessions)
        .bind(peers)
        .bind(delays)
        .bind(limits)
        .bind(self.patience.as_secs_f64())
        .fetch_all(connection)
        .await?;
        let mut answers = vec![None; requests.len()];
        for (place, outcome, message_count, octets, next_uid) in rows {
            let answer = match outcome {
                0 => OpenAnswer::Outcome(OpenOutcome::Opened(Opened {
                    message_count: number(message_count)?,
                    octets: number(octets)?,
                    next_uid: Uid(number(next_uid)?),
                })),
                1 => OpenAnswer::Outcome(OpenOutcome::InUse),
                2 => OpenAnswer::Outcome(OpenOutcome::Stale),
                3 => OpenAnswer::LeaseExpired,
                4 => OpenAnswer::Outcome(OpenOutcome::TooSoon),
                5 => OpenAnswer::Outcome(OpenOutcome::TooManySessions),
                _ => return Err(BatchError::Corrupt("unknown outcome of open_maildrops")),
            };
            if let Some(slot) = answers.get_mut((place - 1) as usize) {
                *slot = Some(answer);
            }
        }
        let answers = answers.into_iter().collect::<Option<Vec<_>>>();
        answers.ok_or(BatchError::Corrupt("missing outcome of open_maildrops"))
    }
}

/// A number that must be there.
fn number(value: Option<i64>) -> Result<u64, BatchError> {
    let value = value.and_then(|v| u64::try_from(v).ok());
    value.ok_or(BatchError::Corrupt("missing or negative number"))
}

/// Gives locks back, many in one statement.
#[derive(Debug)]
pub(super) struct Release;

impl Batch for Release {
    type Request = (TenantId, MailboxId, LockToken);
    type Answer = Released;

    fn excludes(_: &Self::Request, _: &Self::Request) -> bool {
        false
    }

    fn order(a: &Self::Request, b: &Self::Request) -> Ordering {
        (a.0, a.1).cmp(&(b.0, b.1))
    }

    fn busy() -> Result<Released, IndexError> {
        // Only where the server has a `lock_timeout` of its own: the lock may still be held.
        Err(IndexError::Unavailable("lock row is being changed".into()))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        requests: &[Self::Request],
    ) -> Result<Vec<Released>, BatchError> {
        let tenants: Vec<Uuid> = requests.iter().map(|r| r.0.as_uuid()).collect();
        let mailboxes: Vec<Uuid> = requests.iter().map(|r| r.1.as_uuid()).collect();
        let tokens: Vec<Uuid> = requests.iter().map(|r| r.2.as_uuid()).collect();
        sqlx::query(
            "DELETE FROM maildrop_locks l
              USING unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS r (tenant, mailbox, token)
              WHERE l.tenant_id = r.tenant AND l.mailbox_id = r.mailbox AND l.token = r.token",
        )
        .bind(tenants)
        .bind(mailboxes)
        .bind(tokens)
        .execute(connection)
        .await?;
        Ok(requests.iter().map(|_| Released).collect())
    }
}

/// A lock was given back, or was not held.
#[derive(Debug)]
pub(super) struct Released;

/// Says that nodes live.
#[derive(Debug)]
pub(super) struct Heartbeat;

impl Batch for Heartbeat {
    type Request = (NodeId, String, Duration);
    type Answer = Pulse;

    fn excludes(_: &Self::Request, _: &Self::Request) -> bool {
        // There is one node to a process.
        true
    }

    fn order(a: &Self::Request, b: &Self::Request) -> Ordering {
        a.0.cmp(&b.0)
    }

    fn busy() -> Result<Pulse, IndexError> {
        Err(IndexError::Unavailable("node row is being changed".into()))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        requests: &[Self::Request],
    ) -> Result<Vec<Pulse>, BatchError> {
        let mut pulses = Vec::with_capacity(requests.len());
        for (node, name, ttl) in requests {
            // Sessions to end are told of for a minute, in case an answer is lost.
            let (others, ended): (i64, Vec<String>) = sqlx::query_as(
                "WITH said AS (
                     INSERT INTO nodes (node_id, name, expires_at)
                     VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
                     ON CONFLICT (node_id) DO UPDATE SET expires_at = excluded.expires_at
                 ), told AS (
                     DELETE FROM session_ends WHERE at < clock_timestamp() - interval '1 minute'
                 )
                 SELECT (SELECT count(*) FROM nodes WHERE expires_at > clock_timestamp() AND node_id <> $1),
                        (SELECT coalesce(array_agg(session), '{}') FROM session_ends WHERE node_id = $1)",
            )
            .bind(node.as_uuid())
            .bind(name)
            .bind(ttl.as_secs_f64())
            .fetch_one(&mut *connection)
            .await?;
            pulses.push(Pulse { nodes: u32::try_from(others + 1).unwrap_or(1), ended });
        }
        Ok(pulses)
    }
}

#[async_trait]
impl Index for Postgres {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        if let OpenAnswer::Outcome(outcome) = self.opens.ask(request.clone()).await? {
            return Ok(outcome);
        }
        // The database lost the unlogged table, or this process was stopped for longer than its lease. It
        // lives, and may say so; what others took over meanwhile stays theirs.
        let lease = self.lease.lock().ok().and_then(|lease| lease.clone());
        if let Some((node, name, ttl)) = lease {
            self.heartbeat(node, &name, ttl).await?;
            if let OpenAnswer::Outcome(outcome) = self.opens.ask(request).await? {
                return Ok(outcome);
            }
        }
        Err(IndexError::Unavailable("node's lease has run out".into()))
    }

    async fn release(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
    ) -> Result<(), IndexError> {
        self.releases.ask((tenant, mailbox, token)).await.map(|Released| ())
    }

    async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
    ) -> Result<Listing, IndexError> {
        let mut listing = Listing::new(mailbox);
        let mut after = 0_i64;
        loop {
            // Columns come as arrays: a page is one row, and no message costs an allocation.
            let page: ListingPage = self
                .repeatable(|| {
                    sqlx::query_as(
                        "SELECT coalesce(array_agg(uid), '{}') AS uids, coalesce(array_agg(octets), '{}') AS octets,
                                coalesce(array_agg(uid) FILTER (WHERE unique_id IS NOT NULL), '{}') AS named,
                                coalesce(array_agg(unique_id) FILTER (WHERE unique_id IS NOT NULL), '{}') AS names
                           FROM (SELECT uid, octets, unique_id FROM messages
                                  WHERE tenant_id = $1 AND mailbox_id = $2 AND uid > $3 AND uid < $4
                                  ORDER BY uid LIMIT $5) AS page",
                    )
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(after)
                    .bind(before.0 as i64)
                    .bind(LISTING_PAGE)
                    .fetch_one(&self.pool)
                })
                .await?;
            listing.reserve(page.uids.len());
            let mut names = page.named.iter().zip(&page.names).peekable();
            for (uid, octets) in page.uids.iter().zip(&page.octets) {
                if *uid <= after {
                    return Err(corrupt("listing out of order"));
                }
                after = *uid;
                let name = names.next_if(|(named, _)| *named == uid).map(|(_, name)| name.as_str());
                listing.push(Uid(*uid as u64), *octets as u64, name);
            }
            if (page.uids.len() as i64) < LISTING_PAGE {
                return Ok(listing);
            }
        }
    }

    async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        let rows = self
            .repeatable(|| {
                sqlx::query(
                    "SELECT uid, octets, header_octets, digest, delivered_to, pack_id, pack_offset, pack_length
                       FROM messages
                      WHERE tenant_id = $1 AND mailbox_id = $2 AND uid >= $3 AND uid < $4
                      ORDER BY uid LIMIT $5",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(from.0 as i64)
                .bind(before.0 as i64)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.iter().map(message_row).collect()
    }

    async fn any_left(&self, tenant: TenantId, mailbox: MailboxId, uids: &[Uid]) -> Result<bool, IndexError> {
        let uids: Vec<i64> = uids.iter().map(|uid| uid.0 as i64).collect();
        self.repeatable(|| {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM messages
                                 WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = ANY ($3))",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(&uids)
            .fetch_one(&self.pool)
        })
        .await
    }

    async fn commit_update(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        deleted: &[Uid],
        kept: Duration,
    ) -> Result<CommitOutcome, IndexError> {
        let uids: Vec<i64> = deleted.iter().map(|uid| uid.0 as i64).collect();
        let (held, gone): (i64, i64) = self
            .once(|| {
                sqlx::query_as(
                    "SELECT held, gone
                       FROM commit_update($1, $2, $3, $4, make_interval(secs => $5), make_interval(secs => $6))",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(token.as_uuid())
                .bind(&uids)
                .bind(kept.as_secs_f64())
                .bind(self.patience().as_secs_f64())
                .fetch_one(&self.pool)
            })
            .await?;
        if held == 0 {
            return Ok(CommitOutcome::LockLost);
        }
        Ok(CommitOutcome::Committed { deleted: gone as u64 })
    }

    async fn deliver(
        &self,
        tenant: TenantId,
        entry: &StoredEntry,
        messages: &[NewMessage],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        let turn = tokio::time::timeout(self.statement_timeout, self.deliveries.acquire()).await;
        let _turn = turn
            .map_err(|_| IndexError::Unreached("too many deliveries wait".into()))?
            .map_err(|error| IndexError::Unreached(Box::new(error)))?;
        let mailboxes: Vec<Uuid> = messages.iter().map(|m| m.mailbox.as_uuid()).collect();
        let offsets = vec![entry.extent.offset as i64; messages.len()];
        let lengths = vec![entry.extent.length as i64; messages.len()];
        let octets: Vec<i64> = messages.iter().map(|m| m.octets as i64).collect();
        let header_octets: Vec<i64> = messages.iter().map(|m| m.header_octets as i64).collect();
        let received: Vec<_> = messages.iter().map(|m| m.received_at).collect();
        let digests: Vec<&[u8]> = messages.iter().map(|m| m.digest.0.as_slice()).collect();
        let delivered_to: Vec<&str> = messages.iter().map(|m| m.delivered_to.as_str()).collect();
        let unique_ids: Vec<Option<&str>> =
            messages.iter().map(|m| m.unique_id.as_ref().map(maildrop::UniqueId::as_str)).collect();
        let rows: Vec<(i32, i32, Option<i64>)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT place, outcome, uid
                       FROM deliver_pack($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                )
                .bind(tenant.as_uuid())
                .bind(entry.extent.pack.as_uuid())
                .bind(entry.pack_octets as i64)
                .bind(entry.pack_entries as i32)
                .bind(&mailboxes)
                .bind(&offsets)
                .bind(&lengths)
                .bind(&octets)
                .bind(&header_octets)
                .bind(&received)
                .bind(&digests)
                .bind(&delivered_to)
                .bind(&unique_ids)
                .fetch_all(&self.pool)
            })
            .await?;
        let mut outcomes = vec![None; messages.len()];
        for (place, outcome, uid) in rows {
            let outcome = match outcome {
                0 => RowOutcome::Delivered(Uid(unsigned(uid)?)),
                1 => RowOutcome::OverQuota,
                2 => RowOutcome::Unknown,
                3 => RowOutcome::DeliveredBefore,
                _ => return Err(corrupt("unknown outcome of deliver_pack")),
            };
            if let Some(slot) = outcomes.get_mut((place - 1) as usize) {
                *slot = Some(outcome);
            }
        }
        outcomes
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| corrupt("missing outcome of deliver_pack"))
    }

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<Pulse, IndexError> {
        if let Ok(mut lease) = self.lease.lock() {
            *lease = Some((node, name.to_owned(), ttl));
        }
        self.heartbeats.ask((node, name.to_owned(), ttl)).await
    }

    async fn take_task(&self, task: &str, node: NodeId, ttl: Duration) -> Result<bool, IndexError> {
        let holder: Option<Uuid> = self
            .repeatable(|| {
                sqlx::query_scalar(
                    "INSERT INTO tasks AS t (task, node_id, expires_at)
                     VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
                     ON CONFLICT (task) DO UPDATE SET node_id = excluded.node_id, expires_at = excluded.expires_at
                      WHERE t.node_id = excluded.node_id OR t.expires_at < clock_timestamp()
                     RETURNING node_id",
                )
                .bind(task)
                .bind(node.as_uuid())
                .bind(ttl.as_secs_f64())
                .fetch_optional(&self.pool)
            })
            .await?;
        Ok(holder.is_some())
    }

    async fn message_infos(
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
                    "SELECT uid, unique_id, octets, received_at, NULL::timestamptz AS deleted_at,
                            NULL::timestamptz AS keep_until
                       FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 AND uid > $3
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

    async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError> {
        let row = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query(
                    "SELECT uid, octets, header_octets, digest, delivered_to, pack_id, pack_offset, pack_length,
                            unique_id, received_at
                       FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = $3",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(uid.0 as i64)
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        let message = message_row(&row)?;
        let info = InfoRow {
            uid: message.uid.0 as i64,
            unique_id: row.try_get(8).map_err(index_error)?,
            octets: message.octets as i64,
            received_at: Stamp(row.try_get(9).map_err(index_error)?),
            deleted_at: None,
            keep_until: None,
        };
        Ok(Some((info.info(mailbox), message)))
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
        let uids: Vec<i64> = uids.iter().map(|uid| uid.0 as i64).collect();
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let removal = Removal { tenant, mailbox, kept, actor, at, action: "message.delete" };
            let gone = removal.run(&mut tx, &uids).await?;
            tx.commit().await?;
            Ok(gone)
        })
        .await
    }

    async fn deleted_messages(
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

    async fn restore_message(
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
                                       header_octets, received_at, digest, delivered_to)
                 SELECT d.tenant_id, d.mailbox_id, x.uid, d.pack_id, d.pack_offset, d.pack_length, d.octets,
                        d.header_octets, d.received_at, d.digest, d.delivered_to
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

    async fn expire_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        limit: u32,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<u64, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            // Under the mailbox's row: a rule that was withdrawn takes nothing any more.
            let row: Option<(Json<TenantLimits>, Json<Policy>, Json<Policy>)> = sqlx::query_as(
                "SELECT t.limits, t.policy, b.policy
                   FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id
                  WHERE b.tenant_id = $1 AND b.mailbox_id = $2 FOR NO KEY UPDATE OF b",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some((limits, of_tenant, own)) = row else { return Ok(0) };
            let rules = rules(limits, &of_tenant, &own);
            let Some(days) = rules.mailbox.expire_days else { return Ok(0) };
            let before = at - time::Duration::days(days.into());
            // Uids grow with time: the oldest messages are the first, and what comes after the first young
            // one need not be looked at.
            let oldest: Vec<(i64, OffsetDateTime)> = sqlx::query_as(
                "SELECT uid, received_at FROM messages
                  WHERE tenant_id = $1 AND mailbox_id = $2 ORDER BY uid LIMIT $3",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(i64::from(limit))
            .fetch_all(&mut *tx)
            .await?;
            let old = oldest.iter().take_while(|(_, received)| *received < before);
            let uids: Vec<i64> = old.map(|(uid, _)| *uid).collect();
            if uids.is_empty() {
                return Ok(0);
            }
            let kept = rules.undelete_window();
            let removal = Removal { tenant, mailbox, kept, actor, at, action: "message.expire" };
            let gone = removal.run(&mut tx, &uids).await?;
            tx.commit().await?;
            Ok(gone.len() as u64)
        })
        .await
    }

    async fn all_tenants_expiring(
        &self,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, MailboxId)>, IndexError> {
        let (tenant, mailbox) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT b.tenant_id, b.mailbox_id
                       FROM mailboxes b JOIN tenants t ON t.tenant_id = b.tenant_id AND t.state <> 'deleting'
                      WHERE (b.tenant_id, b.mailbox_id) > ($1, $2) AND b.message_count > 0
                        AND (b.policy ? 'expire_days' OR t.policy ? 'expire_days')
                      ORDER BY b.tenant_id, b.mailbox_id LIMIT $3",
                )
                .bind(tenant)
                .bind(mailbox)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        let ids = |(tenant, mailbox)| (TenantId::from_uuid(tenant), MailboxId::from_uuid(mailbox));
        Ok(rows.into_iter().map(ids).collect())
    }

    async fn all_tenants_purge_deleted(&self, limit: u32) -> Result<u64, IndexError> {
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

    async fn sessions(
        &self,
        tenant: Option<TenantId>,
        after: Option<(TenantId, MailboxId)>,
        limit: u32,
    ) -> Result<Vec<SessionInfo>, IndexError> {
        let nil = (Uuid::nil(), Uuid::nil());
        let (after_tenant, after_mailbox) =
            after.map_or(nil, |(tenant, mailbox)| (tenant.as_uuid(), mailbox.as_uuid()));
        let rows: Vec<SessionRow> = self
            .repeatable(|| async {
                let mut tx = match tenant {
                    Some(tenant) => self.scoped(tenant).await?,
                    None => self.pool.begin().await?,
                };
                sqlx::query_as(
                    "SELECT l.session, l.tenant_id, t.name AS tenant_name, l.mailbox_id, b.address,
                            n.name AS node, l.peer, l.since
                       FROM maildrop_locks l
                       JOIN nodes n ON n.node_id = l.node_id AND n.expires_at > clock_timestamp()
                       JOIN mailboxes b ON b.tenant_id = l.tenant_id AND b.mailbox_id = l.mailbox_id
                       JOIN tenants t ON t.tenant_id = l.tenant_id
                      WHERE ($1::uuid IS NULL OR l.tenant_id = $1) AND (l.tenant_id, l.mailbox_id) > ($2, $3)
                      ORDER BY l.tenant_id, l.mailbox_id LIMIT $4",
                )
                .bind(tenant.map(|t| t.as_uuid()))
                .bind(after_tenant)
                .bind(after_mailbox)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn end_session(
        &self,
        tenant: TenantId,
        session: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let ended: Option<(String, String)> = sqlx::query_as(
                "WITH gone AS (DELETE FROM maildrop_locks WHERE tenant_id = $1 AND session = $2
                            RETURNING mailbox_id, node_id, peer),
                      told AS (INSERT INTO session_ends (node_id, session) SELECT node_id, $2 FROM gone)
                 SELECT b.address, g.peer FROM gone g
                   JOIN mailboxes b ON b.tenant_id = $1 AND b.mailbox_id = g.mailbox_id",
            )
            .bind(tenant.as_uuid())
            .bind(session)
            .fetch_optional(&mut *tx)
            .await?;
            let Some((address, peer)) = ended else { return Ok(false) };
            let before = Some(json!({ "session": session, "peer": peer }));
            let (action, target) = ("session.end", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target, before, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        let (mailboxes, messages, octets, allocated): (i64, i64, i64, i64) = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT coalesce(sum(mailboxes), 0)::bigint, coalesce(sum(messages), 0)::bigint,
                            coalesce(sum(octets), 0)::bigint, coalesce(sum(allocated_octets), 0)::bigint
                       FROM tenant_usage WHERE tenant_id = $1",
                )
                .bind(tenant.as_uuid())
                .fetch_one(&mut *tx)
                .await
            })
            .await?;
        Ok(Usage {
            mailboxes: mailboxes as u64,
            messages: messages as u64,
            octets: octets as u64,
            allocated_octets: allocated as u64,
        })
    }

    async fn retire(&self, node: NodeId) -> Result<(), IndexError> {
        if let Ok(mut lease) = self.lease.lock() {
            *lease = None;
        }
        // Long-dead nodes are swept on the way; their locks were free since their lease ran out.
        self.repeatable(|| {
            sqlx::query(
                "DELETE FROM nodes WHERE node_id = $1 OR expires_at < clock_timestamp() - interval '1 day'",
            )
            .bind(node.as_uuid())
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn ready(&self) -> Result<(), IndexError> {
        self.repeatable(|| sqlx::query("SELECT 1").execute(&self.pool)).await?;
        Ok(())
    }

    async fn key_check(&self, check: &[u8]) -> Result<Vec<u8>, IndexError> {
        self.repeatable(|| {
            sqlx::query("INSERT INTO key_check (check_value) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(check)
                .execute(&self.pool)
        })
        .await?;
        self.repeatable(|| sqlx::query_scalar("SELECT check_value FROM key_check").fetch_one(&self.pool))
            .await
    }
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
    async fn run(self, tx: &mut Transaction<'_, Db>, uids: &[i64]) -> Result<Vec<Uid>, sqlx::Error> {
        // The mailbox's row first, as a delivery does.
        let target: Option<String> = sqlx::query_scalar(
            "SELECT address FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2 FOR NO KEY UPDATE",
        )
        .bind(self.tenant.as_uuid())
        .bind(self.mailbox.as_uuid())
        .fetch_optional(&mut **tx)
        .await?;
        let Some(target) = target else { return Ok(Vec::new()) };
        let gone: Vec<i64> =
            sqlx::query_scalar("SELECT remove_messages($1, $2, $3, make_interval(secs => $4))")
                .bind(self.tenant.as_uuid())
                .bind(self.mailbox.as_uuid())
                .bind(uids)
                .bind(self.kept.as_secs_f64())
                .fetch_one(&mut **tx)
                .await?;
        if !gone.is_empty() {
            Audit {
                tenant: Some(self.tenant),
                actor: self.actor,
                at: self.at,
                action: self.action,
                target: &target,
                before: Some(json!({ "uids": gone })),
                after: None,
            }
            .write(tx)
            .await?;
        }
        Ok(gone.into_iter().map(|uid| Uid(uid as u64)).collect())
    }
}

#[derive(sqlx::FromRow)]
struct ListingPage {
    uids: Vec<i64>,
    octets: Vec<i64>,
    named: Vec<i64>,
    names: Vec<String>,
}

fn message_row(row: &PgRow) -> Result<MessageRow, IndexError> {
    let read = || -> Result<_, sqlx::Error> {
        let digest: &[u8] = row.try_get(3)?;
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
            digest.try_into(),
        ))
    };
    let (mut message, digest) = read().map_err(index_error)?;
    message.digest = Digest(digest.map_err(|_| corrupt("digest is not 32 octets"))?);
    Ok(message)
}

fn unsigned(value: Option<i64>) -> Result<u64, IndexError> {
    value.and_then(|v| u64::try_from(v).ok()).ok_or_else(|| corrupt("missing or negative number"))
}
