//! Opening maildrops, and giving their locks back.

use std::{cmp::Ordering, time::Duration};

use maildrop::{
    Credential, LockToken, MailboxId, TenantId, Uid,
    port::{IndexError, OpenOutcome, OpenRequest, Opened},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::corrupt,
    postgres::{
        Postgres,
        batch::{Batch, BatchError},
    },
};

/// Opens maildrops, many in one statement.
#[derive(Debug)]
pub(in crate::postgres) struct Open {
    /// A statement that took longer than this undoes itself on the server.
    pub(in crate::postgres) patience: Duration,
}

/// What `open_maildrops` says of one request.
#[derive(Clone, Copy, Debug)]
pub(in crate::postgres) enum OpenAnswer {
    Outcome(OpenOutcome),
    /// The node's own lease has run out: it must say that it lives, and ask again.
    LeaseExpired,
    /// A row that makes no sense. Others in the batch are other tenants'.
    Corrupt(&'static str),
}

impl OpenAnswer {
    fn outcome(self) -> Result<Option<OpenOutcome>, IndexError> {
        match self {
            Self::Outcome(outcome) => Ok(Some(outcome)),
            Self::LeaseExpired => Ok(None),
            Self::Corrupt(what) => Err(corrupt(what)),
        }
    }
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
        let credentials: Vec<Uuid> = requests.iter().map(|r| r.credential.as_uuid()).collect();
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
               FROM open_maildrops($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, make_interval(secs => $12))",
        )
        .bind(first.node.as_uuid())
        .bind(tenants)
        .bind(mailboxes)
        .bind(revisions)
        .bind(versions)
        .bind(credentials)
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
                0 | 6 => match (number(message_count), number(octets), number(next_uid)) {
                    (Some(message_count), Some(octets), Some(next_uid)) => {
                        let taken_over = outcome == 6;
                        let opened = Opened { message_count, octets, next_uid: Uid(next_uid), taken_over };
                        OpenAnswer::Outcome(OpenOutcome::Opened(opened))
                    }
                    _ => OpenAnswer::Corrupt("missing or negative number"),
                },
                1 => OpenAnswer::Outcome(OpenOutcome::InUse),
                2 => OpenAnswer::Outcome(OpenOutcome::Stale),
                3 => OpenAnswer::LeaseExpired,
                4 => OpenAnswer::Outcome(OpenOutcome::TooSoon),
                5 => OpenAnswer::Outcome(OpenOutcome::TooManySessions),
                _ => OpenAnswer::Corrupt("unknown outcome of open_maildrops"),
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
fn number(value: Option<i64>) -> Option<u64> {
    u64::try_from(value?).ok()
}

/// Gives locks back, many in one statement.
#[derive(Debug)]
pub(in crate::postgres) struct Release;

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
pub(in crate::postgres) struct Released;

impl Postgres {
    pub(super) async fn open_maildrop(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        if let Some(outcome) = self.opens.ask(request.clone()).await?.outcome()? {
            return Ok(outcome);
        }
        // The database lost the unlogged table, or this process was stopped for longer than its lease. It
        // lives, and may say so; what others took over meanwhile stays theirs.
        let lease = self.lease.lock().ok().and_then(|lease| lease.clone());
        if let Some((node, name, ttl)) = lease {
            self.heartbeat(node, &name, ttl).await?;
            if let Some(outcome) = self.opens.ask(request).await?.outcome()? {
                return Ok(outcome);
            }
        }
        Err(IndexError::Unavailable("node's lease has run out".into()))
    }

    pub(super) async fn note_silence(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
        credential: Credential,
        silent: bool,
    ) -> Result<bool, IndexError> {
        self.repeatable(|| {
            sqlx::query_scalar("SELECT note_silence($1, $2, $3, $4, $5, make_interval(secs => $6))")
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(token.as_uuid())
                .bind(credential.as_uuid())
                .bind(silent)
                .bind(self.patience().as_secs_f64())
                .fetch_one(&self.pool)
        })
        .await
    }

    pub(super) async fn release(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        token: LockToken,
    ) -> Result<(), IndexError> {
        self.releases.ask((tenant, mailbox, token)).await.map(|Released| ())
    }
}
