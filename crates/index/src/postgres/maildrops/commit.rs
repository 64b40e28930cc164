//! UPDATE: what a session deleted goes.

use std::time::Duration;

use maildrop::{
    LockToken, MailboxId, TenantId, Uid,
    port::{CommitOutcome, IndexError},
};

use crate::postgres::Postgres;

impl Postgres {
    pub(super) async fn commit_update(
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
}
