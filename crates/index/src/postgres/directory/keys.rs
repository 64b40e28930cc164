//! Keys of the admin API.

use maildrop::{Actor, ApiKey, ApiKeyId, TenantId, port::IndexError};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::undecodable;
use crate::{
    postgres::{
        Postgres,
        scoped::{Audit, json},
    },
    rows::{ApiKeyRow, api_key_columns},
};

impl Postgres {
    pub(super) async fn all_tenants_api_key(
        &self,
        id: ApiKeyId,
    ) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        let row: Option<ApiKeyRow> = self
            .repeatable(|| {
                sqlx::query_as(concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE key_id = $1"))
                    .bind(id.as_uuid())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let id = key.id.to_string();
        self.once(|| async {
            let mut tx = self.of(key.tenant).await?;
            sqlx::query(
                "INSERT INTO api_keys (key_id, tenant_id, role, label, secret_hash, created_by, expires_at,
                                       created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(key.id.as_uuid())
            .bind(key.tenant.map(|t| t.as_uuid()))
            .bind(key.role.as_str())
            .bind(&key.label)
            .bind(secret_hash.as_slice())
            .bind(&key.created_by)
            .bind(key.expires_at)
            .bind(key.created_at)
            .execute(&mut *tx)
            .await?;
            Audit {
                tenant: key.tenant,
                actor,
                at: key.created_at,
                action: "api_key.create",
                target: &id,
                before: None,
                after: json(key)?,
            }
            .write(&mut tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    pub(super) async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        let rows: Vec<ApiKeyRow> = self
            .repeatable(|| async {
                let mut tx = self.of(tenant).await?;
                sqlx::query_as(concat!(
                    "SELECT ",
                    api_key_columns!(),
                    " FROM api_keys
                       WHERE tenant_id IS NOT DISTINCT FROM $1 AND key_id > $2
                       ORDER BY key_id LIMIT $3"
                ))
                .bind(tenant.map(|t| t.as_uuid()))
                .bind(after.map_or(Uuid::nil(), |id| id.as_uuid()))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        rows.into_iter().map(|row| <(ApiKey, [u8; 32])>::try_from(row).map(|(key, _)| key)).collect()
    }

    pub(super) async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let target = id.to_string();
        self.once(|| async {
            let mut tx = self.of(tenant).await?;
            let row: Option<ApiKeyRow> = sqlx::query_as(concat!(
                "DELETE FROM api_keys WHERE tenant_id IS NOT DISTINCT FROM $1 AND key_id = $2 RETURNING ",
                api_key_columns!()
            ))
            .bind(tenant.map(|t| t.as_uuid()))
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let (before, _) = <(ApiKey, [u8; 32])>::try_from(row).map_err(undecodable)?;
            let (action, target) = ("api_key.delete", target.as_str());
            Audit { tenant, actor, at, action, target, before: json(&before)?, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    pub(super) async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.repeatable(|| {
            sqlx::query(
                "UPDATE api_keys SET last_used_at = $2
                  WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2 - interval '1 minute')",
            )
            .bind(id.as_uuid())
            .bind(at)
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    /// A transaction for the tenant, or for the platform.
    async fn of(&self, tenant: Option<TenantId>) -> Result<Transaction<'static, Db>, sqlx::Error> {
        match tenant {
            Some(tenant) => self.scoped(tenant).await,
            None => self.pool.begin().await,
        }
    }
}
