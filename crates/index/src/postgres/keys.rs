//! Sealed keys on PostgreSQL.

use async_trait::async_trait;
use maildrop::{
    MasterKeyId, NodeId, SealedKey, TenantId,
    port::{ClusterSecret, IndexError, KeyCount, KeyRows},
};
use uuid::Uuid;

use super::Postgres;
use crate::{error::corrupt, rows::key_counts};

#[async_trait]
impl KeyRows for Postgres {
    async fn all_tenants_key_counts(&self) -> Result<Vec<KeyCount>, IndexError> {
        let rows: Vec<(Vec<u8>, i64)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT substring(data_key FROM 3 FOR 8) AS key, count(*) FROM tenants
                      WHERE state <> 'deleting' GROUP BY key ORDER BY key",
                )
                .fetch_all(&self.pool)
            })
            .await?;
        Ok(key_counts(rows))
    }

    async fn all_tenants_outdated_manifests(&self) -> Result<u64, IndexError> {
        let count: i64 = self
            .repeatable(|| {
                sqlx::query_scalar(
                    "SELECT count(DISTINCT r.tenant_id)
                       FROM manifest_rounds r
                       JOIN tenants t ON t.tenant_id = r.tenant_id AND t.state <> 'deleting'
                       LEFT JOIN tenant_key_changes k ON k.tenant_id = r.tenant_id
                      WHERE r.key_changes <> coalesce(k.changes, 0)",
                )
                .fetch_one(&self.pool)
            })
            .await?;
        Ok(count as u64)
    }

    async fn all_tenants_keys_not_under(
        &self,
        newest: MasterKeyId,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SealedKey)>, IndexError> {
        let rows: Vec<(Uuid, Vec<u8>)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, data_key FROM tenants
                      WHERE tenant_id > $1 AND state <> 'deleting' AND substring(data_key FROM 3 FOR 8) <> $2
                      ORDER BY tenant_id LIMIT $3",
                )
                .bind(after.map_or(Uuid::nil(), |tenant| tenant.as_uuid()))
                .bind(newest.as_octets().as_slice())
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        Ok(rows.into_iter().map(|(tenant, key)| (TenantId::from_uuid(tenant), SealedKey(key))).collect())
    }

    async fn exchange_key(
        &self,
        tenant: TenantId,
        from: &SealedKey,
        to: &SealedKey,
    ) -> Result<bool, IndexError> {
        // Not to be repeated where its answer was lost: it would find its own.
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let exchanged = sqlx::query(
                "UPDATE tenants SET data_key = $3 WHERE tenant_id = $1 AND data_key = $2 AND state <> 'deleting'",
            )
            .bind(tenant.as_uuid())
            .bind(&from.0)
            .bind(&to.0)
            .execute(&mut *tx)
            .await?;
            if exchanged.rows_affected() == 0 {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO tenant_key_changes AS k (tenant_id, changes) VALUES ($1, 1)
                     ON CONFLICT (tenant_id) DO UPDATE SET changes = k.changes + 1",
            )
            .bind(tenant.as_uuid())
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn cluster_secret(
        &self,
        secret: ClusterSecret,
        first: &SealedKey,
    ) -> Result<SealedKey, IndexError> {
        self.repeatable(|| {
            sqlx::query("INSERT INTO cluster_secrets (secret, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(secret.as_str())
                .bind(&first.0)
                .execute(&self.pool)
        })
        .await?;
        self.cluster_secret_if_any(secret).await?.ok_or_else(|| corrupt("cluster secret"))
    }

    async fn cluster_secret_if_any(&self, secret: ClusterSecret) -> Result<Option<SealedKey>, IndexError> {
        let sealed: Option<Vec<u8>> = self
            .repeatable(|| {
                sqlx::query_scalar("SELECT sealed FROM cluster_secrets WHERE secret = $1")
                    .bind(secret.as_str())
                    .fetch_optional(&self.pool)
            })
            .await?;
        Ok(sealed.map(SealedKey))
    }

    async fn exchange_cluster_secret(
        &self,
        secret: ClusterSecret,
        from: &SealedKey,
        to: &SealedKey,
    ) -> Result<bool, IndexError> {
        let exchanged = self
            .once(|| {
                sqlx::query("UPDATE cluster_secrets SET sealed = $3 WHERE secret = $1 AND sealed = $2")
                    .bind(secret.as_str())
                    .bind(&from.0)
                    .bind(&to.0)
                    .execute(&self.pool)
            })
            .await?;
        Ok(exchanged.rows_affected() == 1)
    }

    async fn set_key_check(&self, to: &[u8]) -> Result<(), IndexError> {
        self.repeatable(|| sqlx::query("UPDATE key_check SET check_value = $1").bind(to).execute(&self.pool))
            .await?;
        Ok(())
    }

    async fn note_opens(&self, node: NodeId, opens: &[MasterKeyId]) -> Result<(), IndexError> {
        let opens: Vec<Vec<u8>> = opens.iter().map(|key| key.as_octets().to_vec()).collect();
        self.repeatable(|| {
            // Those of nodes that are long gone are forgotten on the way.
            sqlx::query(
                "WITH gone AS (
                     DELETE FROM node_keys k
                      WHERE k.node_id <> $1 AND k.noted_at < clock_timestamp() - interval '1 hour'
                        AND NOT EXISTS (SELECT FROM nodes n WHERE n.node_id = k.node_id)
                 )
                 INSERT INTO node_keys (node_id, opens, noted_at) VALUES ($1, $2, clock_timestamp())
                     ON CONFLICT (node_id) DO UPDATE SET opens = excluded.opens, noted_at = excluded.noted_at",
            )
            .bind(node.as_uuid())
            .bind(&opens)
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn nodes_without(&self, key: MasterKeyId) -> Result<Vec<String>, IndexError> {
        self.repeatable(|| {
            sqlx::query_scalar(
                "SELECT n.name FROM nodes n LEFT JOIN node_keys k ON k.node_id = n.node_id
                  WHERE n.expires_at > clock_timestamp() AND (k.opens IS NULL OR NOT ($1 = ANY (k.opens)))
                  ORDER BY n.name",
            )
            .bind(key.as_octets().as_slice())
            .fetch_all(&self.pool)
        })
        .await
    }
}
