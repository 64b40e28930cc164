//! The sessions under way.

use maildrop::{
    Actor, MailboxId, TenantId,
    port::{IndexError, SessionInfo},
};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    postgres::{Postgres, scoped::Audit},
    rows::SessionRow,
};

impl Postgres {
    pub(super) async fn sessions(
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

    pub(super) async fn end_session(
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
}
