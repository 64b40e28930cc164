//! What PostgreSQL knows of garbage.

mod beacon;
mod rewriting;

use std::time::Duration;

use async_trait::async_trait;
use maildrop::{
    PackId, TenantId,
    port::{Garbage, Held, IndexError, Inspected, MovedEntry, RewrittenPack, Sweep},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Postgres;
use crate::reachability::{AROUND_ENTRY_OCTETS, AROUND_OCTETS, reachable};

/// A pack of many messages can be most of a table: the planner would read all of it to find out.
pub(super) const BY_INDEX_SQL: &str = "SELECT set_config('enable_seqscan', 'off', true)";

const CONDEMNED_SQL: &str = concat!(
    "WITH old AS (
         SELECT tenant_id, pack_id, dead_at FROM garbage_packs
          WHERE shard = $1 AND deleted_at IS NULL AND dead_at <= now() - make_interval(secs => $2)
          ORDER BY dead_at LIMIT $3
     ), alive AS (
         SELECT o.tenant_id, o.pack_id FROM old o WHERE ",
    reachable!("o.tenant_id", "o.pack_id"),
    "), back AS (
         UPDATE garbage_packs g SET dead_at = NULL, due = true FROM alive a
          WHERE g.tenant_id = a.tenant_id AND g.pack_id = a.pack_id
     )
     SELECT o.tenant_id, o.pack_id, coalesce(p.octets, 0)
       FROM old o LEFT JOIN packs p ON p.tenant_id = o.tenant_id AND p.pack_id = o.pack_id
      WHERE NOT EXISTS (SELECT FROM alive a WHERE a.tenant_id = o.tenant_id AND a.pack_id = o.pack_id)
      ORDER BY o.tenant_id, o.pack_id"
);

#[async_trait]
impl Garbage for Postgres {
    async fn all_tenants_fold(&self, shard: u8, live_ratio: f64, limit: u32) -> Result<u64, IndexError> {
        let folded: i64 = self
            .once(|| {
                sqlx::query_scalar(
                    "WITH gone AS (
                         DELETE FROM pack_garbage
                          WHERE ctid = ANY (ARRAY(
                              SELECT ctid FROM pack_garbage WHERE gc_shard(tenant_id) = $1
                               ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))
                      RETURNING tenant_id, pack_id, octets
                     ), sums AS (
                         SELECT s.tenant_id, s.pack_id, s.octets, p.octets AS pack_octets,
                                least((1 - $3::float8) * p.octets, p.octets - $4 - $5 * p.entries) AS bound
                           FROM (SELECT tenant_id, pack_id, sum(octets)::bigint AS octets
                                   FROM gone GROUP BY tenant_id, pack_id) s
                           JOIN packs p ON p.tenant_id = s.tenant_id AND p.pack_id = s.pack_id
                     ), counted AS (
                         INSERT INTO garbage_packs AS g (tenant_id, pack_id, shard, dead_octets, due)
                         SELECT tenant_id, pack_id, $1, octets, octets >= bound FROM sums
                          ORDER BY tenant_id, pack_id
                             ON CONFLICT (tenant_id, pack_id) DO UPDATE
                            SET dead_octets = g.dead_octets + excluded.dead_octets,
                                due = g.due OR g.dead_at IS NULL
                                      AND g.dead_octets + excluded.dead_octets
                                          >= (SELECT s.bound FROM sums s
                                               WHERE s.tenant_id = g.tenant_id AND s.pack_id = g.pack_id)
                     )
                     SELECT count(*) FROM gone",
                )
                .bind(i32::from(shard))
                .bind(i64::from(limit))
                .bind(live_ratio)
                .bind(AROUND_OCTETS)
                .bind(AROUND_ENTRY_OCTETS)
                .fetch_one(&self.pool)
            })
            .await?;
        Ok(folded as u64)
    }

    async fn all_tenants_due(
        &self,
        shard: u8,
        after: Option<(TenantId, PackId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId)>, IndexError> {
        let (tenant, pack) =
            after.map_or((Uuid::nil(), Uuid::nil()), |(tenant, pack)| (tenant.as_uuid(), pack.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, pack_id FROM garbage_packs
                      WHERE due AND shard = $1 AND (tenant_id, pack_id) > ($2, $3)
                      ORDER BY tenant_id, pack_id LIMIT $4",
                )
                .bind(i16::from(shard))
                .bind(tenant)
                .bind(pack)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        Ok(rows.into_iter().map(ids).collect())
    }

    async fn inspect(&self, tenant: TenantId, pack: PackId) -> Result<Inspected, IndexError> {
        self.inspect_pack(tenant, pack).await
    }

    async fn settle(&self, tenant: TenantId, pack: PackId, live_octets: u64) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(
                "UPDATE garbage_packs g SET due = false, dead_octets = greatest(p.octets - $3, 0)
                   FROM packs p
                  WHERE g.tenant_id = $1 AND g.pack_id = $2 AND p.tenant_id = $1 AND p.pack_id = $2",
            )
            .bind(tenant.as_uuid())
            .bind(pack.as_uuid())
            .bind(live_octets as i64)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn begin_rewriting(&self, tenant: TenantId, pack: PackId) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            // Full rounds of manifests take what is older for known.
            sqlx::query(
                "DELETE FROM rewritings WHERE tenant_id = $1 AND begun_at < now() - interval '3 days'",
            )
            .bind(tenant.as_uuid())
            .execute(&mut *tx)
            .await?;
            sqlx::query("INSERT INTO rewritings (tenant_id, pack_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        })
        .await
    }

    async fn retarget(
        &self,
        tenant: TenantId,
        to: &RewrittenPack,
        moved: &[MovedEntry],
    ) -> Result<u64, IndexError> {
        self.retarget_rows(tenant, to, moved).await
    }

    async fn all_tenants_condemned(
        &self,
        shard: u8,
        grace: Duration,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId, u64)>, IndexError> {
        let rows: Vec<(Uuid, Uuid, i64)> = self
            .repeatable(|| async {
                let mut tx = self.unscoped().await?;
                sqlx::query(BY_INDEX_SQL).execute(&mut *tx).await?;
                let rows = sqlx::query_as(CONDEMNED_SQL)
                    .bind(i16::from(shard))
                    .bind(grace.as_secs_f64())
                    .bind(i64::from(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(rows)
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|(tenant, pack, octets)| {
                (TenantId::from_uuid(tenant), PackId::from_uuid(pack), octets as u64)
            })
            .collect())
    }

    async fn note_deleted(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), IndexError> {
        let packs: Vec<Uuid> = packs.iter().map(PackId::as_uuid).collect();
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(
                "UPDATE garbage_packs SET deleted_at = now()
                  WHERE tenant_id = $1 AND pack_id = ANY ($2) AND dead_at IS NOT NULL AND deleted_at IS NULL",
            )
            .bind(tenant.as_uuid())
            .bind(&packs)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn all_tenants_forget_packs(
        &self,
        shard: u8,
        age: Duration,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let gone: i64 = self
            .once(|| {
                sqlx::query_scalar(
                    "WITH old AS (
                         SELECT tenant_id, pack_id FROM garbage_packs
                          WHERE shard = $1 AND deleted_at <= now() - make_interval(secs => $2) ORDER BY deleted_at LIMIT $3
                     ), packs_gone AS (
                         DELETE FROM packs p USING old o
                          WHERE p.tenant_id = o.tenant_id AND p.pack_id = o.pack_id
                     ), refusals_gone AS (
                         DELETE FROM pack_refusals r USING old o
                          WHERE r.tenant_id = o.tenant_id AND r.pack_id = o.pack_id
                     ), gone AS (
                         DELETE FROM garbage_packs g USING old o
                          WHERE g.tenant_id = o.tenant_id AND g.pack_id = o.pack_id
                      RETURNING 1
                     )
                     SELECT count(*) FROM gone",
                )
                .bind(i16::from(shard))
                .bind(age.as_secs_f64())
                .bind(i64::from(limit))
                .fetch_one(&self.pool)
            })
            .await?;
        Ok(gone as u64)
    }

    async fn known_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<Vec<PackId>, IndexError> {
        let sql = "SELECT p.pack_id FROM packs p
                    WHERE p.tenant_id = $1 AND p.pack_id = ANY ($2)
                      AND NOT EXISTS (SELECT FROM garbage_packs g
                                       WHERE g.tenant_id = p.tenant_id AND g.pack_id = p.pack_id
                                         AND g.deleted_at IS NOT NULL)";
        self.those_packs(tenant, sql, packs).await
    }

    async fn reachable_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<Vec<PackId>, IndexError> {
        let sql =
            concat!("SELECT f.pack_id FROM unnest($2) AS f (pack_id) WHERE ", reachable!("$1", "f.pack_id"));
        self.those_packs(tenant, sql, packs).await
    }

    async fn all_tenants_sweeps(
        &self,
        shard: u8,
        age: Duration,
        pause: Duration,
        limit: u32,
    ) -> Result<Vec<Sweep>, IndexError> {
        type Row = (Uuid, OffsetDateTime, OffsetDateTime, Option<Uuid>);
        let rows: Vec<Row> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT t.tenant_id, coalesce(s.swept_until, to_timestamp(0)),
                            least(s.until, now() - make_interval(secs => $2)), s.at_pack
                       FROM tenants t LEFT JOIN pack_sweeps s ON s.tenant_id = t.tenant_id
                      WHERE gc_shard(t.tenant_id) = $1 AND t.state <> 'deleting'
                        AND (s.tenant_id IS NULL OR s.until IS NOT NULL
                             OR s.swept_until < now() - make_interval(secs => $2) - make_interval(secs => $3))
                      ORDER BY s.swept_until NULLS FIRST LIMIT $4",
                )
                .bind(i32::from(shard))
                .bind(age.as_secs_f64())
                .bind(pause.as_secs_f64())
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        let sweep = |(tenant, from, until, at): Row| Sweep {
            tenant: TenantId::from_uuid(tenant),
            from,
            until,
            at: at.map(PackId::from_uuid),
        };
        Ok(rows.into_iter().map(sweep).collect())
    }

    async fn note_sweep(&self, sweep: &Sweep) -> Result<(), IndexError> {
        let over = sweep.at.is_none();
        self.repeatable(|| async {
            let mut tx = self.scoped(sweep.tenant).await?;
            sqlx::query(
                "INSERT INTO pack_sweeps (tenant_id, swept_until, until, at_pack)
                 SELECT tenant_id, $2, $3, $4 FROM tenants WHERE tenant_id = $1 AND state <> 'deleting'
                     ON CONFLICT (tenant_id) DO UPDATE
                    SET swept_until = excluded.swept_until, until = excluded.until, at_pack = excluded.at_pack",
            )
            .bind(sweep.tenant.as_uuid())
            .bind(if over { sweep.until } else { sweep.from })
            .bind((!over).then_some(sweep.until))
            .bind(sweep.at.map(|pack| pack.as_uuid()))
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn note_beacon(&self, shard: u8, found: &[Uuid], next: Uuid) -> Result<Option<Held>, IndexError> {
        self.note_beacon_rows(shard, found, next).await
    }

    async fn held_times(&self, shard: u8) -> Result<Vec<Held>, IndexError> {
        let rows: Vec<(OffsetDateTime, OffsetDateTime)> = self
            .repeatable(|| {
                sqlx::query_as("SELECT from_at, until_at FROM held_times WHERE shard = $1 ORDER BY from_at")
                    .bind(i16::from(shard))
                    .fetch_all(&self.pool)
            })
            .await?;
        Ok(rows.into_iter().map(|(from, until)| Held { from, until }).collect())
    }

    async fn all_tenants_oldest_garbage(&self, shard: u8) -> Result<Option<OffsetDateTime>, IndexError> {
        self.repeatable(|| {
            sqlx::query_scalar(
                "SELECT least((SELECT min(at) FROM pack_garbage WHERE gc_shard(tenant_id) = $1),
                              (SELECT min(dead_at) FROM garbage_packs
                                WHERE shard = $1 AND dead_at IS NOT NULL AND deleted_at IS NULL))",
            )
            .bind(i32::from(shard))
            .fetch_one(&self.pool)
        })
        .await
    }
}

fn ids((tenant, pack): (Uuid, Uuid)) -> (TenantId, PackId) {
    (TenantId::from_uuid(tenant), PackId::from_uuid(pack))
}

impl Postgres {
    async fn those_packs(
        &self,
        tenant: TenantId,
        sql: &'static str,
        packs: &[PackId],
    ) -> Result<Vec<PackId>, IndexError> {
        let packs: Vec<Uuid> = packs.iter().map(PackId::as_uuid).collect();
        let found: Vec<Uuid> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_scalar(sql).bind(tenant.as_uuid()).bind(&packs).fetch_all(&mut *tx).await
            })
            .await?;
        Ok(found.into_iter().map(PackId::from_uuid).collect())
    }
}
