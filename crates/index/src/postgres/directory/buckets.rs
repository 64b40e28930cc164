//! Stores of tenants' own.

use maildrop::{
    Actor, TenantBuckets, TenantId,
    port::{Conflict, IndexError, StorePacks},
};
use sqlx::types::Json;
use time::OffsetDateTime;

use crate::{
    postgres::{
        Postgres,
        scoped::{Audit, json},
    },
    rows::{BucketsRow, StorePacksRow},
};

impl Postgres {
    pub(super) async fn tenant_buckets(&self, tenant: TenantId) -> Result<Option<TenantBuckets>, IndexError> {
        let row: Option<BucketsRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT buckets, bucket_key, bucket_secrets, coalesce(buckets_version, 0) AS buckets_version FROM tenants WHERE tenant_id = $1",
                )
                .bind(tenant.as_uuid())
                .fetch_optional(&self.pool)
            })
            .await?;
        Ok(row.map(Into::into))
    }

    pub(super) async fn set_tenant_buckets(
        &self,
        tenant: TenantId,
        stored: &TenantBuckets,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError> {
        let set = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let row: Option<(String, Json<serde_json::Value>, i64)> = sqlx::query_as(
                    "SELECT name, buckets, coalesce(buckets_version, 0) FROM tenants
                      WHERE tenant_id = $1 AND state <> 'deleting' FOR UPDATE",
                )
                .bind(tenant.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
                let Some((name, Json(before), version)) = row else { return Ok(Ok(None)) };
                if stored.version != version {
                    return Ok(Err(Conflict::Revision));
                }
                sqlx::query(
                    "UPDATE tenants SET buckets = $2, bucket_key = $3, bucket_secrets = $4, buckets_version = $5
                      WHERE tenant_id = $1",
                )
                .bind(tenant.as_uuid())
                .bind(Json(&stored.buckets))
                .bind(stored.key.as_ref().map(|key| key.0.as_slice()))
                .bind(stored.secrets.as_deref())
                .bind(version + 1)
                .execute(&mut *tx)
                .await?;
                let (action, target) = ("tenant.set_bucket", name.as_str());
                let (before, after) = (json(&before)?, json(&stored.buckets)?);
                Audit { tenant: Some(tenant), actor, at, action, target, before, after }
                    .write(&mut tx)
                    .await?;
                tx.commit().await?;
                Ok(Ok(Some(version + 1)))
            })
            .await?;
        set.map_err(IndexError::Conflict)
    }

    pub(super) async fn packs_by_store(&self, tenant: TenantId) -> Result<Vec<StorePacks>, IndexError> {
        let rows: Vec<StorePacksRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                // The store's number is behind the version in the third group of its name: see `PackId::store`.
                sqlx::query_as(
                    "SELECT CASE WHEN substr(k.pack_id::text, 15, 1) = '8' THEN substr(k.pack_id::text, 16, 3)
                                 ELSE '0' END AS store, count(*) AS packs, sum(k.octets)::bigint AS octets
                       FROM packs k
                       LEFT JOIN garbage_packs g ON g.tenant_id = $1 AND g.pack_id = k.pack_id
                      WHERE k.tenant_id = $1 AND g.deleted_at IS NULL
                      GROUP BY 1",
                )
                .bind(tenant.as_uuid())
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }
}
