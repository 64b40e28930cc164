//! Packs that are due: looked at, and rewritten.

use maildrop::{
    Digest, Extent, MailboxId, PackId, TenantId, Uid,
    port::{Inspected, LiveEntry, MOVED_ROWS_MAX, MovedEntry, PACK_AGE_MAX, RewrittenPack},
};
use sqlx::{AssertSqlSafe, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::{corrupt, too_old, undecodable},
    reachability::{MOVING, held_by_bulletin, held_by_quarantine, pointers, reachable},
    sqlite::{Sqlite, maildrops::micros},
};

/// Tells whether anything points at a pack, where it is there.
const LOOK_SQL: &str = concat!(
    "SELECT p.octets, p.entries, ",
    reachable!("?1", "?2"),
    ", ",
    "(",
    held_by_bulletin!("?1", "?2"),
    " OR ",
    held_by_quarantine!("?1", "?2"),
    ")",
    " FROM packs p WHERE p.tenant_id = ?1 AND p.pack_id = ?2"
);

/// `mailbox_id` is of the row with the least uid: SQLite takes columns that are not grouped from there.
const ENTRIES_SQL: &str = concat!(
    "SELECT pack_offset, pack_length, digest, mailbox_id, min(uid), count(*) FROM (",
    pointers!("?1", "?2"),
    ") GROUP BY pack_offset, pack_length, digest ORDER BY pack_offset"
);

const DIE_SQL: &str = concat!(
    "UPDATE garbage_packs SET dead_at = ?3, due = 0
      WHERE tenant_id = ?1 AND pack_id = ?2 AND dead_at IS NULL AND NOT ",
    reachable!("?1", "?2")
);

type EntryRow = (i64, i64, Vec<u8>, Uuid, i64, i64);

impl Sqlite {
    pub(super) async fn inspect_pack(
        &self,
        tenant: TenantId,
        pack: PackId,
    ) -> Result<Inspected, sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        let seen: Option<(i64, i64, bool, bool)> = sqlx::query_as(LOOK_SQL)
            .bind(tenant.as_uuid())
            .bind(pack.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
        let Some((octets, entries, alive, held)) = seen else {
            sqlx::query("DELETE FROM garbage_packs WHERE tenant_id = ? AND pack_id = ?")
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            return Ok(Inspected::Gone);
        };
        if !alive {
            die(&mut tx, tenant, pack.as_uuid()).await?;
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
    }

    pub(super) async fn retarget_rows(
        &self,
        tenant: TenantId,
        to: &RewrittenPack,
        moved: &[MovedEntry],
    ) -> Result<u64, sqlx::Error> {
        let now = OffsetDateTime::now_utc();
        if to.pack.time() <= now - PACK_AGE_MAX {
            return Err(undecodable(too_old(to.pack)));
        }
        let now = micros(now);
        let mut tx = self.writer.begin().await?;
        let new = sqlx::query(
            "INSERT INTO packs (tenant_id, pack_id, octets, entries, created_at)
             SELECT tenant_id, ?2, ?3, ?4, ?5 FROM tenants WHERE tenant_id = ?1 AND state <> 'deleting'
                 ON CONFLICT DO NOTHING",
        )
        .bind(tenant.as_uuid())
        .bind(to.pack.as_uuid())
        .bind(to.octets as i64)
        .bind(i64::from(to.entries))
        .bind(now)
        .execute(&mut *tx)
        .await?;
        if new.rows_affected() == 0 {
            // It was done before, or the tenant is gone.
            return Ok(0);
        }
        let mut rows = 0;
        for entry in moved {
            let mut of_entry = 0;
            for table in MOVING {
                let sql = format!(
                    "UPDATE {table} SET pack_id = ?, pack_offset = ?
                      WHERE tenant_id = ? AND pack_id = ? AND pack_offset = ?"
                );
                of_entry += sqlx::query(AssertSqlSafe(sql))
                    .bind(to.pack.as_uuid())
                    .bind(entry.to as i64)
                    .bind(tenant.as_uuid())
                    .bind(entry.from.pack.as_uuid())
                    .bind(entry.from.offset as i64)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
            }
            if of_entry == 0 {
                sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
                    .bind(tenant.as_uuid())
                    .bind(to.pack.as_uuid())
                    .bind(entry.from.length as i64)
                    .bind(now)
                    .execute(&mut *tx)
                    .await?;
            }
            rows += of_entry;
        }
        let mut old: Vec<Uuid> = moved.iter().map(|entry| entry.from.pack.as_uuid()).collect();
        old.sort_unstable();
        old.dedup();
        for pack in old {
            die(&mut tx, tenant, pack).await?;
        }
        // Manifests say where messages lie.
        sqlx::query(
            "INSERT INTO manifest_notes (tenant_id, mailbox_id)
             SELECT DISTINCT tenant_id, mailbox_id FROM messages WHERE tenant_id = ? AND pack_id = ?",
        )
        .bind(tenant.as_uuid())
        .bind(to.pack.as_uuid())
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM rewritings WHERE tenant_id = ? AND pack_id = ?")
            .bind(tenant.as_uuid())
            .bind(to.pack.as_uuid())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows)
    }
}

/// The pack is dead from now on, if nothing points at it.
async fn die(connection: &mut SqliteConnection, tenant: TenantId, pack: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(DIE_SQL)
        .bind(tenant.as_uuid())
        .bind(pack)
        .bind(micros(OffsetDateTime::now_utc()))
        .execute(connection)
        .await?;
    Ok(())
}
