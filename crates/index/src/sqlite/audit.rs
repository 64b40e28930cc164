//! The audit log of the embedded index.

use maildrop::{Actor, TenantId};
use serde::Serialize;
use sqlx::{SqliteConnection, types::Json};
use time::OffsetDateTime;

use super::maildrops::micros;

/// What goes to the audit log.
pub(super) struct Audit<'a> {
    pub(super) tenant: Option<TenantId>,
    pub(super) actor: &'a Actor,
    pub(super) at: OffsetDateTime,
    pub(super) action: &'static str,
    pub(super) target: &'a str,
}

impl Audit<'_> {
    /// Writes it, in the transaction that does what it says; what was before and what is since go along.
    pub(super) async fn write<B: Serialize + Sync, A: Serialize + Sync>(
        self,
        connection: &mut SqliteConnection,
        before: Option<&B>,
        after: Option<&A>,
    ) -> Result<(), sqlx::Error> {
        let json = |error: serde_json::Error| sqlx::Error::Encode(error.into());
        let before = before.map(serde_json::to_value).transpose().map_err(json)?;
        let after = after.map(serde_json::to_value).transpose().map_err(json)?;
        sqlx::query(
            "INSERT INTO audit_log (at, tenant_id, actor, origin, request, action, target, before_value,
                                    after_value)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(micros(self.at))
        .bind(self.tenant.map(|t| t.as_uuid()))
        .bind(&self.actor.name)
        .bind(&self.actor.origin)
        .bind(&self.actor.request)
        .bind(self.action)
        .bind(self.target)
        .bind(before.map(Json))
        .bind(after.map(Json))
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// What a change has no before of, or no after.
pub(super) const NOTHING: Option<&()> = None;
