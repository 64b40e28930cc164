//! Opening maildrops.

use maildrop::{
    Uid,
    port::{IndexError, OpenOutcome, OpenRequest, Opened},
};

use crate::{
    error::index_error,
    sqlite::{Sqlite, locks::Taken},
};

impl Sqlite {
    pub(super) async fn open_maildrop(&self, request: OpenRequest) -> Result<OpenOutcome, IndexError> {
        let taken_over = match self.locks.take(&request) {
            Taken::Yes { over } => over,
            Taken::InUse => return Ok(OpenOutcome::InUse),
            Taken::TooSoon => return Ok(OpenOutcome::TooSoon),
            Taken::TooManySessions => return Ok(OpenOutcome::TooManySessions),
        };
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
                self.locks.keep(tenant, mailbox, token);
                Ok(OpenOutcome::Opened(Opened {
                    message_count: message_count as u64,
                    octets: octets as u64,
                    next_uid: Uid(next_uid as u64),
                    taken_over,
                }))
            }
            Ok(_) => {
                self.locks.untake(tenant, mailbox, token);
                Ok(OpenOutcome::Stale)
            }
            Err(error) => {
                self.locks.untake(tenant, mailbox, token);
                Err(index_error(error))
            }
        }
    }
}
