//! Sealed keys in the embedded index.

use async_trait::async_trait;
use maildrop::{
    MasterKeyId, NodeId, SealedKey, TenantId,
    port::{ClusterSecret, IndexError, KeyCount, KeyRows},
};
use uuid::Uuid;

use super::Sqlite;
use crate::{
    error::{corrupt, index_error},
    rows::key_counts,
};

#[async_trait]
impl KeyRows for Sqlite {
    async fn all_tenants_key_counts(&self) -> Result<Vec<KeyCount>, IndexError> {
        let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as(
            "SELECT substr(data_key, 3, 8) AS key, count(*) FROM tenants
              WHERE state <> 'deleting' GROUP BY key ORDER BY key",
        )
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(key_counts(rows))
    }

    async fn all_tenants_outdated_manifests(&self) -> Result<u64, IndexError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(DISTINCT r.tenant_id)
               FROM manifest_rounds r
               JOIN tenants t ON t.tenant_id = r.tenant_id AND t.state <> 'deleting'
               LEFT JOIN tenant_key_changes k ON k.tenant_id = r.tenant_id
              WHERE r.key_changes <> coalesce(k.changes, 0)",
        )
        .fetch_one(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(count as u64)
    }

    async fn all_tenants_keys_not_under(
        &self,
        newest: MasterKeyId,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SealedKey)>, IndexError> {
        let rows: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
            "SELECT tenant_id, data_key FROM tenants
              WHERE tenant_id > ? AND state <> 'deleting' AND substr(data_key, 3, 8) <> ?
              ORDER BY tenant_id LIMIT ?",
        )
        .bind(after.map_or(Uuid::nil(), |tenant| tenant.as_uuid()))
        .bind(newest.as_octets().as_slice())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(|(tenant, key)| (TenantId::from_uuid(tenant), SealedKey(key))).collect())
    }

    async fn exchange_key(
        &self,
        tenant: TenantId,
        from: &SealedKey,
        to: &SealedKey,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let exchanged = sqlx::query(
                "UPDATE tenants SET data_key = ? WHERE tenant_id = ? AND data_key = ? AND state <> 'deleting'",
            )
            .bind(&to.0)
            .bind(tenant.as_uuid())
            .bind(&from.0)
            .execute(&mut *tx)
            .await?;
            if exchanged.rows_affected() == 0 {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO tenant_key_changes (tenant_id, changes) VALUES (?, 1)
                     ON CONFLICT (tenant_id) DO UPDATE SET changes = changes + 1",
            )
            .bind(tenant.as_uuid())
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        };
        run.await.map_err(index_error)
    }

    async fn cluster_secret(
        &self,
        secret: ClusterSecret,
        first: &SealedKey,
    ) -> Result<SealedKey, IndexError> {
        sqlx::query("INSERT INTO cluster_secrets (secret, sealed) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(secret.as_str())
            .bind(&first.0)
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        self.cluster_secret_if_any(secret).await?.ok_or_else(|| corrupt("cluster secret"))
    }

    async fn cluster_secret_if_any(&self, secret: ClusterSecret) -> Result<Option<SealedKey>, IndexError> {
        let sealed: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT sealed FROM cluster_secrets WHERE secret = ?")
                .bind(secret.as_str())
                .fetch_optional(&self.writer)
                .await
                .map_err(index_error)?;
        Ok(sealed.map(SealedKey))
    }

    async fn exchange_cluster_secret(
        &self,
        secret: ClusterSecret,
        from: &SealedKey,
        to: &SealedKey,
    ) -> Result<bool, IndexError> {
        let exchanged = sqlx::query("UPDATE cluster_secrets SET sealed = ? WHERE secret = ? AND sealed = ?")
            .bind(&to.0)
            .bind(secret.as_str())
            .bind(&from.0)
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        Ok(exchanged.rows_affected() == 1)
    }

    async fn set_key_check(&self, to: &[u8]) -> Result<(), IndexError> {
        sqlx::query("UPDATE key_check SET check_value = ?")
            .bind(to)
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        Ok(())
    }

    async fn note_opens(&self, _: NodeId, _: &[MasterKeyId]) -> Result<(), IndexError> {
        // Whoever has the file is the only node there is.
        Ok(())
    }

    async fn nodes_without(&self, _: MasterKeyId) -> Result<Vec<String>, IndexError> {
        Ok(Vec::new())
    }
}
