//! The sessions under way.

use maildrop::{
    Actor, MailboxId, TenantId,
    port::{IndexError, SessionInfo},
};
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    error::index_error,
    rows::address,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
    },
};

impl Sqlite {
    pub(super) async fn sessions(
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

    pub(super) async fn end_session(
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
            // It may have ended while the writer was waited for, and another may have come after it: by its token.
            // Then nothing was done, and nothing is written of it.
            let ended = self.locks.end_held(tenant, mailbox, &held);
            if ended {
                tx.commit().await?;
            }
            Ok(ended)
        };
        run.await.map_err(index_error)
    }
}
