//! Transactions for one tenant, behind the second wall (P5): the database itself shows them that tenant's rows
//! and no others.

use maildrop::{Actor, TenantId};
use serde_json::Value;
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;

use super::Postgres;

impl Postgres {
    /// Begins a transaction that sees `tenant`'s rows alone.
    pub(super) async fn scoped(&self, tenant: TenantId) -> Result<Transaction<'static, Db>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        enter(&mut tx, tenant).await?;
        Ok(tx)
    }

    /// Begins a transaction that sees every tenant's rows, for what must be known of them all before it is
    /// [entered](enter) for one.
    pub(super) async fn unscoped(&self) -> Result<Transaction<'static, Db>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("SELECT set_config('lock_timeout', '5s', true)").execute(&mut *tx).await?;
        Ok(tx)
    }
}

/// From here to its end the transaction sees `tenant`'s rows alone.
pub(super) async fn enter(tx: &mut Transaction<'_, Db>, tenant: TenantId) -> Result<(), sqlx::Error> {
    // Nor does it wait long for a row that somebody else holds: connections are everybody's.
    sqlx::query(
        "SELECT set_config('role', 'postern_tenant', true), set_config('postern.tenant', $1, true),
                set_config('lock_timeout', '5s', true)",
    )
    .bind(tenant.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What goes to the audit log.
pub(super) struct Audit<'a> {
    pub(super) tenant: Option<TenantId>,
    pub(super) actor: &'a Actor,
    pub(super) at: OffsetDateTime,
    pub(super) action: &'static str,
    pub(super) target: &'a str,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

impl Audit<'_> {
    /// Writes it, in the transaction that does what it says.
    pub(super) async fn write(self, tx: &mut Transaction<'_, Db>) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO audit_log (at, tenant_id, actor, origin, request, action, target, before_value,
                                    after_value)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(self.at)
        .bind(self.tenant.map(|t| t.as_uuid()))
        .bind(&self.actor.name)
        .bind(&self.actor.origin)
        .bind(&self.actor.request)
        .bind(self.action)
        .bind(self.target)
        .bind(self.before)
        .bind(self.after)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

/// A value as the audit log keeps it.
pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<Option<Value>, sqlx::Error> {
    serde_json::to_value(value).map(Some).map_err(|error| sqlx::Error::Encode(error.into()))
}
