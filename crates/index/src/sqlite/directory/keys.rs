//! Keys of the admin API.

use maildrop::{Actor, ApiKey, ApiKeyId, TenantId, port::IndexError};
use time::OffsetDateTime;
use uuid::Uuid;

use super::undecodable;
use crate::{
    error::index_error,
    rows::{ApiKeyRow, api_key_columns},
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
};

impl Sqlite {
    pub(super) async fn all_tenants_api_key(
        &self,
        id: ApiKeyId,
    ) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        let row: Option<ApiKeyRow> =
            sqlx::query_as(concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE key_id = ?"))
                .bind(id.as_uuid())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            sqlx::query(
                "INSERT INTO api_keys (key_id, tenant_id, role, label, secret_hash, created_by, expires_at,
                                       created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(key.id.as_uuid())
            .bind(key.tenant.map(|t| t.as_uuid()))
            .bind(key.role.as_str())
            .bind(&key.label)
            .bind(secret_hash.as_slice())
            .bind(&key.created_by)
            .bind(key.expires_at.map(micros))
            .bind(micros(key.created_at))
            .execute(&mut *tx)
            .await?;
            let (at, target) = (key.created_at, key.id.to_string());
            Audit { tenant: key.tenant, actor, at, action: "api_key.create", target: &target }
                .write(&mut tx, NOTHING, Some(key))
                .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        let rows: Vec<ApiKeyRow> = sqlx::query_as(concat!(
            "SELECT ",
            api_key_columns!(),
            " FROM api_keys WHERE tenant_id IS ? AND key_id > ? ORDER BY key_id LIMIT ?"
        ))
        .bind(tenant.map(|t| t.as_uuid()))
        .bind(after.map_or(Uuid::nil(), |id| id.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(|row| <(ApiKey, [u8; 32])>::try_from(row).map(|(key, _)| key)).collect()
    }

    pub(super) async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<ApiKeyRow> = sqlx::query_as(concat!(
                "DELETE FROM api_keys WHERE tenant_id IS ? AND key_id = ? RETURNING ",
                api_key_columns!()
            ))
            .bind(tenant.map(|t| t.as_uuid()))
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let (before, _) = <(ApiKey, [u8; 32])>::try_from(row).map_err(undecodable)?;
            Audit { tenant, actor, at, action: "api_key.delete", target: &id.to_string() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
    }

    pub(super) async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        sqlx::query(
            "UPDATE api_keys SET last_used_at = ?2
              WHERE key_id = ?1 AND (last_used_at IS NULL OR last_used_at < ?3)",
        )
        .bind(id.as_uuid())
        .bind(micros(at))
        .bind(micros(at - time::Duration::MINUTE))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }
}
