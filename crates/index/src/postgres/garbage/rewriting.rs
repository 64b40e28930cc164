//! Packs that are due: looked at, and rewritten.

use maildrop::{
    Digest, Extent, MailboxId, PackId, TenantId, Uid,
    port::{IndexError, Inspected, LiveEntry, MOVED_ROWS_MAX, MovedEntry, PACK_AGE_MAX, RewrittenPack},
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::BY_INDEX_SQL;
use crate::{
    error::{corrupt, too_old, undecodable},
    postgres::Postgres,
    reachability::{MOVING, held_by_bulletin, held_by_quarantine, pointers, reachable},
};

/// Tells whether anything points at a pack, where it is there.
const LOOK_SQL: &str = concat!(
    "SELECT p.octets, p.entries, ",
    reachable!("$1", "$2"),
    ", ",
    "(",
    held_by_bulletin!("$1", "$2"),
    " OR ",
    held_by_quarantine!("$1", "$2"),
    ")",
    " FROM packs p WHERE p.tenant_id = $1 AND p.pack_id = $2"
);

const ENTRIES_SQL: &str = concat!(
    "SELECT pack_offset, pack_length, digest, (array_agg(mailbox_id ORDER BY mailbox_id, uid))[1],
            (array_agg(uid ORDER BY mailbox_id, uid))[1], count(*)
       FROM (",
    pointers!("$1", "$2"),
    ") e GROUP BY pack_offset, pack_length, digest ORDER BY pack_offset"
);

const DIE_SQL: &str = concat!(
    "UPDATE garbage_packs g SET dead_at = now(), due = false
      WHERE g.tenant_id = $1 AND g.pack_id = ANY ($2) AND g.dead_at IS NULL AND NOT ",
    reachable!("$1", "g.pack_id")
);

type EntryRow = (i64, i64, Vec<u8>, Uuid, i64, i64);

impl Postgres {
    pub(super) async fn inspect_pack(&self, tenant: TenantId, pack: PackId) -> Result<Inspected, IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(BY_INDEX_SQL).execute(&mut *tx).await?;
            let seen: Option<(i64, i32, bool, bool)> = sqlx::query_as(LOOK_SQL)
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
            let Some((octets, entries, alive, held)) = seen else {
                sqlx::query("DELETE FROM garbage_packs WHERE tenant_id = $1 AND pack_id = $2")
                    .bind(tenant.as_uuid())
                    .bind(pack.as_uuid())
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                return Ok(Inspected::Gone);
            };
            if !alive {
                sqlx::query(DIE_SQL)
                    .bind(tenant.as_uuid())
                    .bind(vec![pack.as_uuid()])
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                return Ok(Inspected::Dead);
            }
            let octets = octets as u64;
            if entries == 1 || held {
                return Ok(Inspected::Live { octets, live_octets: octets, entries: Vec::new() });
            }
            let rows: Vec<EntryRow> = sqlx::query_as(ENTRIES_SQL)
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .fetch_all(&mut *tx)
                .await?;
            let mut entries = rows
                .into_iter()
                .map(|(offset, length, digest, mailbox, uid, rows)| {
                    let digest = digest.try_into().map_err(|_| undecodable(corrupt("digest")))?;
                    Ok(LiveEntry {
                        extent: Extent { pack, offset: offset as u64, length: length as u64 },
                        digest: Digest(digest),
                        mailbox: MailboxId::from_uuid(mailbox),
                        uid: Uid(uid as u64),
                        rows: rows as u64,
                    })
                })
                .collect::<Result<Vec<_>, sqlx::Error>>()?;
            let live_octets = entries.iter().map(|entry| entry.extent.length).sum();
            if entries.iter().any(|entry| entry.rows > MOVED_ROWS_MAX) {
                entries.clear();
            }
            Ok(Inspected::Live { octets, live_octets, entries })
        })
        .await
    }

    /// Rows that somebody holds are left: a session that ends must not wait for us. Their old pack stays due.
    pub(super) async fn retarget_rows(
        &self,
        tenant: TenantId,
        to: &RewrittenPack,
        moved: &[MovedEntry],
    ) -> Result<u64, IndexError> {
        let packs: Vec<Uuid> = moved.iter().map(|entry| entry.from.pack.as_uuid()).collect();
        let offsets: Vec<i64> = moved.iter().map(|entry| entry.from.offset as i64).collect();
        let lengths: Vec<i64> = moved.iter().map(|entry| entry.from.length as i64).collect();
        let copies: Vec<i64> = moved.iter().map(|entry| entry.to as i64).collect();
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(BY_INDEX_SQL).execute(&mut *tx).await?;
            let alive: Option<bool> = sqlx::query_scalar(
                "SELECT $2 > now() - make_interval(secs => $3) FROM tenants
                  WHERE tenant_id = $1 AND state <> 'deleting' FOR KEY SHARE",
            )
            .bind(tenant.as_uuid())
            .bind(to.pack.time())
            .bind(PACK_AGE_MAX.as_secs_f64())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(young) = alive else { return Ok(0) };
            if !young {
                return Err(undecodable(too_old(to.pack)));
            }
            let new = sqlx::query(
                "INSERT INTO packs (tenant_id, pack_id, octets, entries) VALUES ($1, $2, $3, $4)
                     ON CONFLICT DO NOTHING",
            )
            .bind(tenant.as_uuid())
            .bind(to.pack.as_uuid())
            .bind(to.octets as i64)
            .bind(to.entries as i32)
            .execute(&mut *tx)
            .await?;
            if new.rows_affected() == 0 {
                // It was done before.
                return Ok(0);
            }
            let mut rows = 0;
            for table in MOVING {
                let sql = format!(
                    "WITH held AS (
                         SELECT m.mailbox_id, m.uid, r.copy
                           FROM unnest($3::uuid[], $4::bigint[], $5::bigint[]) AS r (pack, pack_offset, copy)
                           JOIN {table} m ON m.tenant_id = $1 AND m.pack_id = r.pack
                                         AND m.pack_offset = r.pack_offset
                            FOR UPDATE OF m SKIP LOCKED
                     )
                     UPDATE {table} m SET pack_id = $2, pack_offset = h.copy FROM held h
                      WHERE m.tenant_id = $1 AND m.mailbox_id = h.mailbox_id AND m.uid = h.uid"
                );
                rows += sqlx::query(AssertSqlSafe(sql))
                    .bind(tenant.as_uuid())
                    .bind(to.pack.as_uuid())
                    .bind(&packs)
                    .bind(&offsets)
                    .bind(&copies)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
            }
            sqlx::query(concat!(
                "INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                 SELECT $1, $2, r.length FROM unnest($3::bigint[], $4::bigint[]) AS r (copy, length)
                  WHERE r.copy NOT IN (SELECT e.pack_offset FROM (",
                pointers!("$1", "$2"),
                ") e)"
            ))
            .bind(tenant.as_uuid())
            .bind(to.pack.as_uuid())
            .bind(&copies)
            .bind(&lengths)
            .execute(&mut *tx)
            .await?;
            // Manifests say where messages lie.
            sqlx::query(
                "INSERT INTO manifest_notes (tenant_id, mailbox_id)
                 SELECT DISTINCT tenant_id, mailbox_id FROM messages WHERE tenant_id = $1 AND pack_id = $2",
            )
            .bind(tenant.as_uuid())
            .bind(to.pack.as_uuid())
            .execute(&mut *tx)
            .await?;
            sqlx::query(DIE_SQL).bind(tenant.as_uuid()).bind(&packs).execute(&mut *tx).await?;
            sqlx::query("DELETE FROM rewritings WHERE tenant_id = $1 AND pack_id = $2")
                .bind(tenant.as_uuid())
                .bind(to.pack.as_uuid())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(rows)
        })
        .await
    }
}
