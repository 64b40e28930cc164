//! Maildrops, locks and messages on PostgreSQL. The statements that need two snapshots or loops are
//! functions of the schema (`migrations/postgres`).

use std::{cmp::Ordering, time::Duration};

use async_trait::async_trait;
use maildrop::{
    Digest, Extent, Listing, LockToken, MailboxId, MessageRow, NodeId, PackId, StoredEntry, TenantId, Uid,
    port::{CommitOutcome, Index, IndexError, NewMessage, OpenOutcome, OpenRequest, Opened, RowOutcome},
};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    Postgres,
    batch::{Batch, BatchError},
};
use crate::error::{corrupt, index_error};

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
        let versions: Vec<i64> = requests.iter().map(|r| r.credential_version).collect();
        let tokens: Vec<Uuid> = requests.iter().map(|r| r.token.as_uuid()).collect();
        let rows: Vec<(i32, i32, Option<i64>, Option<i64>, Option<i64>)> = sqlx::query_as(
            "SELECT place, outcome, message_count, octets, next_uid
               FROM open_maildrops($1, $2, $3, $4, $5, make_interval(secs => $6))",
        )
        .bind(first.node.as_uuid())
        .bind(tenants)
        .bind(mailboxes)
        .bind(versions)
        .bind(tokens)
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
    type Answer = ();

    fn excludes(_: &Self::Request, _: &Self::Request) -> bool {
        // There is one node to a process.
        true
    }

    fn order(a: &Self::Request, b: &Self::Request) -> Ordering {
        a.0.cmp(&b.0)
    }

    fn busy() -> Result<(), IndexError> {
        Err(IndexError::Unavailable("node row is being changed".into()))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        requests: &[Self::Request],
    ) -> Result<Vec<()>, BatchError> {
        for (node, name, ttl) in requests {
            sqlx::query(
                "INSERT INTO nodes (node_id, name, expires_at)
                 VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
                 ON CONFLICT (node_id) DO UPDATE SET expires_at = excluded.expires_at",
            )
            .bind(node.as_uuid())
            .bind(name)
            .bind(ttl.as_secs_f64())
            .execute(&mut *connection)
            .await?;
        }
        Ok(vec![(); requests.len()])
    }
}

#[async_trait]
impl Index for Postgres {
    async fn open(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        if let OpenAnswer::Outcome(outcome) = self.opens.ask(request).await? {
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
    ) -> Result<CommitOutcome, IndexError> {
        let uids: Vec<i64> = deleted.iter().map(|uid| uid.0 as i64).collect();
        let (held, gone): (i64, i64) = self
            .once(|| {
                sqlx::query_as(
                    "SELECT held, gone FROM commit_update($1, $2, $3, $4, make_interval(secs => $5))",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(token.as_uuid())
                .bind(&uids)
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

    async fn heartbeat(&self, node: NodeId, name: &str, ttl: Duration) -> Result<(), IndexError> {
        if let Ok(mut lease) = self.lease.lock() {
            *lease = Some((node, name.to_owned(), ttl));
        }
        self.heartbeats.ask((node, name.to_owned(), ttl)).await
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
