//! What SQLite knows of garbage.

mod beacon;
mod rewriting;

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use maildrop::{
    PackId, TenantId,
    port::{GARBAGE_SHARDS, Garbage, Held, IndexError, Inspected, MovedEntry, RewrittenPack, Sweep},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Sqlite,
    maildrops::{from_micros, micros},
};
use crate::{
    error::index_error,
    reachability::{AROUND_ENTRY_OCTETS, AROUND_OCTETS, reachable},
};

/// The part of the work that a tenant is in, of 16, as SQL.
macro_rules! shard_of {
    ($tenant:literal) => {
        concat!("(instr('0123456789ABCDEF', substr(hex(", $tenant, "), 32, 1)) - 1)")
    };
}
const _: () = assert!(GARBAGE_SHARDS == 16, "a hex digit");

#[async_trait]
impl Garbage for Sqlite {
    async fn all_tenants_fold(&self, shard: u8, live_ratio: f64, limit: u32) -> Result<u64, IndexError> {
        self.fold(shard, live_ratio, limit).await.map_err(index_error)
    }

    async fn all_tenants_due(
        &self,
        shard: u8,
        after: Option<(TenantId, PackId)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId)>, IndexError> {
        let (tenant, pack) =
            after.map_or((Uuid::nil(), Uuid::nil()), |(tenant, pack)| (tenant.as_uuid(), pack.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT tenant_id, pack_id FROM garbage_packs
              WHERE due AND shard = ? AND (tenant_id, pack_id) > (?, ?) ORDER BY tenant_id, pack_id LIMIT ?",
        )
        .bind(shard)
        .bind(tenant)
        .bind(pack)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let ids = |(tenant, pack)| (TenantId::from_uuid(tenant), PackId::from_uuid(pack));
        Ok(rows.into_iter().map(ids).collect())
    }

    async fn inspect(&self, tenant: TenantId, pack: PackId) -> Result<Inspected, IndexError> {
        self.inspect_pack(tenant, pack).await.map_err(index_error)
    }

    async fn settle(&self, tenant: TenantId, pack: PackId, live_octets: u64) -> Result<(), IndexError> {
        sqlx::query(
            "UPDATE garbage_packs
                SET due = 0, dead_octets = max(0, (SELECT p.octets FROM packs p
                                                    WHERE p.tenant_id = ?1 AND p.pack_id = ?2) - ?3)
              WHERE tenant_id = ?1 AND pack_id = ?2
                AND EXISTS (SELECT 1 FROM packs p WHERE p.tenant_id = ?1 AND p.pack_id = ?2)",
        )
        .bind(tenant.as_uuid())
        .bind(pack.as_uuid())
        .bind(live_octets as i64)
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn begin_rewriting(&self, tenant: TenantId, pack: PackId) -> Result<(), IndexError> {
        let now = OffsetDateTime::now_utc();
        let run = async {
            let mut tx = self.writer.begin().await?;
            // Full rounds of manifests take what is older for known.
            sqlx::query("DELETE FROM rewritings WHERE tenant_id = ? AND begun_at < ?")
                .bind(tenant.as_uuid())
                .bind(micros(now - Duration::from_hours(72)))
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "INSERT INTO rewritings (tenant_id, pack_id, begun_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            )
            .bind(tenant.as_uuid())
            .bind(pack.as_uuid())
            .bind(micros(now))
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn retarget(
        &self,
        tenant: TenantId,
        to: &RewrittenPack,
        moved: &[MovedEntry],
    ) -> Result<u64, IndexError> {
        self.retarget_rows(tenant, to, moved).await.map_err(index_error)
    }

    async fn all_tenants_condemned(
        &self,
        shard: u8,
        grace: Duration,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId, u64)>, IndexError> {
        self.condemned(shard, grace, limit).await.map_err(index_error)
    }

    async fn note_deleted(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            for pack in packs {
                sqlx::query(
                    "UPDATE garbage_packs SET deleted_at = ?
                      WHERE tenant_id = ? AND pack_id = ? AND dead_at IS NOT NULL AND deleted_at IS NULL",
                )
                .bind(micros(OffsetDateTime::now_utc()))
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn all_tenants_forget_packs(
        &self,
        shard: u8,
        age: Duration,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let before = OffsetDateTime::now_utc() - age;
        self.forget_packs(shard, before, limit).await.map_err(index_error)
    }

    async fn known_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<Vec<PackId>, IndexError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM packs p WHERE p.tenant_id = ?1 AND p.pack_id = ?2
                      AND NOT EXISTS (SELECT 1 FROM garbage_packs g WHERE g.tenant_id = ?1 AND g.pack_id = ?2
                                         AND g.deleted_at IS NOT NULL))";
        self.those_packs(tenant, sql, packs).await
    }

    async fn reachable_packs(&self, tenant: TenantId, packs: &[PackId]) -> Result<Vec<PackId>, IndexError> {
        self.those_packs(tenant, concat!("SELECT ", reachable!("?1", "?2")), packs).await
    }

    async fn all_tenants_sweeps(
        &self,
        shard: u8,
        age: Duration,
        pause: Duration,
        limit: u32,
    ) -> Result<Vec<Sweep>, IndexError> {
        type Row = (Uuid, i64, i64, Option<Uuid>);
        let horizon = OffsetDateTime::now_utc() - age;
        let rows: Vec<Row> = sqlx::query_as(concat!(
            "SELECT t.tenant_id, coalesce(s.swept_until, 0), min(coalesce(s.until, ?2), ?2), s.at_pack
               FROM tenants t LEFT JOIN pack_sweeps s ON s.tenant_id = t.tenant_id
              WHERE ",
            shard_of!("t.tenant_id"),
            " = ?1 AND t.state <> 'deleting'
                AND (s.tenant_id IS NULL OR s.until IS NOT NULL OR s.swept_until < ?3)
              ORDER BY s.swept_until LIMIT ?4"
        ))
        .bind(shard)
        .bind(micros(horizon))
        .bind(micros(horizon - pause))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let sweep = |(tenant, from, until, at): Row| {
            Ok(Sweep {
                tenant: TenantId::from_uuid(tenant),
                from: from_micros(from)?,
                until: from_micros(until)?,
                at: at.map(PackId::from_uuid),
            })
        };
        rows.into_iter().map(sweep).collect()
    }

    async fn note_sweep(&self, sweep: &Sweep) -> Result<(), IndexError> {
        let over = sweep.at.is_none();
        sqlx::query(
            "INSERT INTO pack_sweeps (tenant_id, swept_until, until, at_pack)
             SELECT tenant_id, ?2, ?3, ?4 FROM tenants WHERE tenant_id = ?1 AND state <> 'deleting'
                 ON CONFLICT (tenant_id) DO UPDATE
                SET swept_until = excluded.swept_until, until = excluded.until, at_pack = excluded.at_pack",
        )
        .bind(sweep.tenant.as_uuid())
        .bind(micros(if over { sweep.until } else { sweep.from }))
        .bind((!over).then(|| micros(sweep.until)))
        .bind(sweep.at.map(|pack| pack.as_uuid()))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn note_beacon(&self, shard: u8, found: &[Uuid], next: Uuid) -> Result<Option<Held>, IndexError> {
        self.note_beacon_rows(shard, found, next).await.map_err(index_error)
    }

    async fn held_times(&self, shard: u8) -> Result<Vec<Held>, IndexError> {
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT from_at, until_at FROM held_times WHERE shard = ? ORDER BY from_at")
                .bind(shard)
                .fetch_all(&self.reader)
                .await
                .map_err(index_error)?;
        let held = |(from, until)| Ok(Held { from: from_micros(from)?, until: from_micros(until)? });
        rows.into_iter().map(held).collect()
    }

    async fn all_tenants_oldest_garbage(&self, shard: u8) -> Result<Option<OffsetDateTime>, IndexError> {
        let at: Option<i64> = sqlx::query_scalar(concat!(
            "SELECT min(at) FROM (
                 SELECT at FROM pack_garbage WHERE ",
            shard_of!("tenant_id"),
            " = ?1
                 UNION ALL
                 SELECT dead_at FROM garbage_packs
                  WHERE shard = ?1 AND dead_at IS NOT NULL AND deleted_at IS NULL)"
        ))
        .bind(shard)
        .fetch_one(&self.reader)
        .await
        .map_err(index_error)?;
        at.map(from_micros).transpose()
    }
}

impl Sqlite {
    async fn fold(&self, shard: u8, live_ratio: f64, limit: u32) -> Result<u64, sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        let notes: Vec<(i64, Uuid, Uuid, i64)> = sqlx::query_as(concat!(
            "SELECT rowid, tenant_id, pack_id, octets FROM pack_garbage WHERE ",
            shard_of!("tenant_id"),
            " = ? ORDER BY rowid LIMIT ?"
        ))
        .bind(shard)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        let mut sums = BTreeMap::new();
        for (row, tenant, pack, octets) in &notes {
            *sums.entry((*tenant, *pack)).or_insert(0_i64) += octets;
            sqlx::query("DELETE FROM pack_garbage WHERE rowid = ?").bind(row).execute(&mut *tx).await?;
        }
        for ((tenant, pack), octets) in sums {
            sqlx::query(
                "INSERT INTO garbage_packs (tenant_id, pack_id, shard, dead_octets, due)
                 SELECT tenant_id, pack_id, ?3, ?4, ?4 >= min((1 - ?5) * octets, octets - ?6 - ?7 * entries)
                   FROM packs WHERE tenant_id = ?1 AND pack_id = ?2
                     ON CONFLICT (tenant_id, pack_id) DO UPDATE
                    SET dead_octets = dead_octets + excluded.dead_octets,
                        due = due OR dead_at IS NULL AND dead_octets + excluded.dead_octets
                              >= (SELECT min((1 - ?5) * p.octets, p.octets - ?6 - ?7 * p.entries) FROM packs p
                                   WHERE p.tenant_id = ?1 AND p.pack_id = ?2)",
            )
            .bind(tenant)
            .bind(pack)
            .bind(shard)
            .bind(octets)
            .bind(live_ratio)
            .bind(AROUND_OCTETS)
            .bind(AROUND_ENTRY_OCTETS)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(notes.len() as u64)
    }

    async fn condemned(
        &self,
        shard: u8,
        grace: Duration,
        limit: u32,
    ) -> Result<Vec<(TenantId, PackId, u64)>, sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        let old: Vec<(Uuid, Uuid, i64, bool)> = sqlx::query_as(concat!(
            "SELECT g.tenant_id, g.pack_id, coalesce(p.octets, 0), ",
            reachable!("g.tenant_id", "g.pack_id"),
            " FROM garbage_packs g LEFT JOIN packs p ON p.tenant_id = g.tenant_id AND p.pack_id = g.pack_id
              WHERE g.shard = ? AND g.deleted_at IS NULL AND g.dead_at <= ? ORDER BY g.dead_at LIMIT ?"
        ))
        .bind(shard)
        .bind(micros(OffsetDateTime::now_utc() - grace))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        let mut condemned = Vec::new();
        for (tenant, pack, octets, alive) in old {
            if alive {
                sqlx::query(
                    "UPDATE garbage_packs SET dead_at = NULL, due = 1 WHERE tenant_id = ? AND pack_id = ?",
                )
                .bind(tenant)
                .bind(pack)
                .execute(&mut *tx)
                .await?;
            } else {
                condemned.push((TenantId::from_uuid(tenant), PackId::from_uuid(pack), octets as u64));
            }
        }
        tx.commit().await?;
        condemned.sort_unstable();
        Ok(condemned)
    }

    async fn forget_packs(&self, shard: u8, before: OffsetDateTime, limit: u32) -> Result<u64, sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        let old: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT tenant_id, pack_id FROM garbage_packs WHERE shard = ? AND deleted_at <= ?
              ORDER BY deleted_at LIMIT ?",
        )
        .bind(shard)
        .bind(micros(before))
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        for (tenant, pack) in &old {
            for statement in [
                "DELETE FROM packs WHERE tenant_id = ? AND pack_id = ?",
                "DELETE FROM pack_refusals WHERE tenant_id = ? AND pack_id = ?",
                "DELETE FROM garbage_packs WHERE tenant_id = ? AND pack_id = ?",
            ] {
                sqlx::query(statement).bind(tenant).bind(pack).execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
        Ok(old.len() as u64)
    }
}

impl Sqlite {
    async fn those_packs(
        &self,
        tenant: TenantId,
        sql: &'static str,
        packs: &[PackId],
    ) -> Result<Vec<PackId>, IndexError> {
        let mut those = Vec::new();
        for pack in packs {
            let is: bool = sqlx::query_scalar(sql)
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .fetch_one(&self.reader)
                .await
                .map_err(index_error)?;
            those.extend(is.then_some(*pack));
        }
        Ok(those)
    }
}
