//! What is put back from manifests and packs.

use std::collections::{BTreeMap, HashSet};

use maildrop::{
    MailboxId, SealedKey, TenantId, Uid,
    port::{
        FoundMessage, IndexError, MailboxRecord, MessageRecord, Record, Restored, RestoredPack, RestoredRows,
    },
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Postgres as Db, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{STEP, columns};
use crate::{
    postgres::Postgres,
    tables::{CREDENTIALS, MAILBOXES, MESSAGES, OF_MAILBOX, OF_TENANT, Table, hex},
};

impl Postgres {
    pub(super) async fn put_tenant(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        record: &Record,
    ) -> Result<Restored, IndexError> {
        self.repeatable(|| async {
            let mut restored = Restored::default();
            let mut tx = self.scoped(tenant).await?;
            for table in &OF_TENANT {
                let mut rows = record.get(table.name).cloned().unwrap_or_default();
                if table.name == "tenants" {
                    for row in &mut rows {
                        row["data_key"] = json!(hex(&key.0));
                    }
                }
                insert(&mut tx, table, tenant, rows, &mut restored).await?;
                if table.name == "tenants" && !restored.taken.is_empty() {
                    // Another tenant has its name: nothing of it can be put back.
                    return Ok(restored);
                }
            }
            tx.commit().await?;
            Ok(restored)
        })
        .await
    }

    pub(super) async fn put_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &MailboxRecord,
        next_uid: Uid,
    ) -> Result<Restored, IndexError> {
        self.repeatable(|| async {
            let mut restored = Restored::default();
            let mut tx = self.scoped(tenant).await?;
            let rows = |table: &Table| mailbox.tables.get(table.name).cloned().unwrap_or_default();
            insert(&mut tx, &MAILBOXES, tenant, rows(&MAILBOXES), &mut restored).await?;
            if !restored.taken.is_empty() {
                return Ok(restored);
            }
            if restored.added > 0 {
                insert(&mut tx, &CREDENTIALS, tenant, rows(&CREDENTIALS), &mut restored).await?;
            }
            for table in &OF_MAILBOX {
                insert(&mut tx, table, tenant, rows(table), &mut restored).await?;
            }
            sqlx::query(
                "UPDATE mailboxes SET next_uid = greatest(next_uid, $3) WHERE tenant_id = $1 AND mailbox_id = $2",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.id.as_uuid())
            .bind(next_uid.0 as i64)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(restored)
        })
        .await
    }

    pub(super) async fn put_packs(
        &self,
        tenant: TenantId,
        packs: &[RestoredPack],
    ) -> Result<u64, IndexError> {
        let mut added = 0;
        for packs in packs.chunks(STEP) {
            added += self
                .repeatable(|| async {
                    let mut tx = self.scoped(tenant).await?;
                    let added = insert_packs(&mut tx, tenant, packs).await?;
                    tx.commit().await?;
                    Ok(added)
                })
                .await?;
        }
        Ok(added)
    }

    pub(super) async fn put_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<RestoredRows, IndexError> {
        let mut restored = RestoredRows::default();
        for rows in rows.chunks(STEP) {
            let step = self
                .repeatable(|| async {
                    let mut tx = self.scoped(tenant).await?;
                    let step = insert_messages(&mut tx, tenant, mailbox, rows).await?;
                    tx.commit().await?;
                    Ok(step)
                })
                .await?;
            restored.added += step.added;
            restored.renumbered += step.renumbered;
            restored.known += step.known;
        }
        Ok(restored)
    }

    pub(super) async fn repoint(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<u64, IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            if !lock(&mut tx, tenant, mailbox).await? {
                return Ok(0);
            }
            let done = sqlx::query(
                "UPDATE messages m SET pack_id = (r->>'pack_id')::uuid, pack_offset = (r->>'pack_offset')::bigint,
                                       pack_length = (r->>'pack_length')::bigint
                   FROM jsonb_array_elements($3) AS j (r)
                  WHERE m.tenant_id = $1 AND m.mailbox_id = $2 AND m.uid = (r->>'uid')::bigint
                    AND m.digest = decode(r->>'digest', 'hex')",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(Json(rows))
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        })
        .await
    }

    pub(super) async fn put_found(
        &self,
        tenant: TenantId,
        pack: &RestoredPack,
        found: &[FoundMessage],
    ) -> Result<RestoredRows, IndexError> {
        let mut by_mailbox: BTreeMap<MailboxId, Vec<MessageRecord>> = BTreeMap::new();
        for message in found {
            by_mailbox.entry(message.mailbox).or_default().push(message.row.clone());
        }
        self.repeatable(|| async {
            let mut restored = RestoredRows::default();
            let mut tx = self.scoped(tenant).await?;
            // The mailboxes first, in their order: as deliveries do after the pack's row, which is nobody else's.
            insert_packs(&mut tx, tenant, std::slice::from_ref(pack)).await?;
            for (mailbox, rows) in &by_mailbox {
                if lock(&mut tx, tenant, *mailbox).await? {
                    let added = append(&mut tx, tenant, *mailbox, rows).await?;
                    restored.added += added;
                    restored.known += rows.len() as u64 - added;
                    count(&mut tx, tenant, *mailbox).await?;
                }
            }
            tx.commit().await?;
            Ok(restored)
        })
        .await
    }

    pub(super) async fn count_anew(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
    ) -> Result<(i64, i64), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            if !lock(&mut tx, tenant, mailbox).await? {
                return Ok((0, 0));
            }
            let wrong = count(&mut tx, tenant, mailbox).await?;
            tx.commit().await?;
            Ok(wrong)
        })
        .await
    }
}

/// Inserts rows that are not there, and finds out which could not be, since another's have what is unique.
async fn insert(
    tx: &mut Transaction<'_, Db>,
    table: &Table,
    tenant: TenantId,
    rows: Vec<Value>,
    restored: &mut Restored,
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let (name, names, values) = (table.name, table.names(), columns(table));
    let sql = format!(
        "INSERT INTO {name} (tenant_id, {names}) SELECT $1, {values} FROM jsonb_array_elements($2) AS j (r)
             ON CONFLICT DO NOTHING"
    );
    let done = sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_uuid()).bind(Json(&rows)).execute(&mut **tx);
    restored.added += done.await?.rows_affected();
    let same: Vec<String> = table
        .key
        .iter()
        .map(|key| {
            let cast = if key.ends_with("_id") { "::uuid" } else { "" };
            format!("x.{key} = (r->>'{key}'){cast}")
        })
        .collect();
    let same = same.join(" AND ");
    let known_by = table.key[0];
    let sql = format!(
        "SELECT r->>'{known_by}' FROM jsonb_array_elements($2) AS j (r)
          WHERE NOT EXISTS (SELECT FROM {name} x WHERE x.tenant_id = $1 AND {same})"
    );
    let taken: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tenant.as_uuid())
        .bind(Json(&rows))
        .fetch_all(&mut **tx)
        .await?;
    restored.taken.extend(taken.into_iter().map(|what| format!("{name}: {what}")));
    Ok(())
}

async fn insert_packs(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    packs: &[RestoredPack],
) -> Result<u64, sqlx::Error> {
    let ids: Vec<Uuid> = packs.iter().map(|pack| pack.pack.as_uuid()).collect();
    let octets: Vec<i64> = packs.iter().map(|pack| pack.octets as i64).collect();
    let entries: Vec<i32> = packs.iter().map(|pack| pack.entries as i32).collect();
    let added = sqlx::query(
        "INSERT INTO packs (tenant_id, pack_id, octets, entries)
         SELECT $1, p.pack, p.octets, p.entries
           FROM unnest($2::uuid[], $3::bigint[], $4::integer[]) AS p (pack, octets, entries)
          ORDER BY p.pack
             ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_uuid())
    .bind(&ids)
    .bind(&octets)
    .bind(&entries)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    sqlx::query(
        "UPDATE garbage_packs SET dead_at = NULL, deleted_at = NULL, due = true
          WHERE tenant_id = $1 AND pack_id = ANY ($2) AND dead_at IS NOT NULL",
    )
    .bind(tenant.as_uuid())
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(added)
}

pub(in crate::postgres) async fn lock(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<bool, sqlx::Error> {
    let there: Option<i32> = sqlx::query_scalar(
        "SELECT 1 FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2 FOR NO KEY UPDATE",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(there.is_some())
}

async fn insert_messages(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    mailbox: MailboxId,
    rows: &[MessageRecord],
) -> Result<RestoredRows, sqlx::Error> {
    if !lock(tx, tenant, mailbox).await? {
        return Ok(RestoredRows::default());
    }
    let (names, values) = (MESSAGES.names(), columns(&MESSAGES));
    let sql = format!(
        "INSERT INTO messages (tenant_id, mailbox_id, {names})
         SELECT $1, $2, {values} FROM jsonb_array_elements($3) AS j (r)
             ON CONFLICT DO NOTHING"
    );
    let done = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(Json(rows))
        .execute(&mut **tx)
        .await?;
    let mut restored = RestoredRows { added: done.rows_affected(), ..RestoredRows::default() };
    if restored.added == rows.len() as u64 {
        return Ok(restored);
    }
    // Uids that the index, since it was set back, gave to other messages.
    let uids: Vec<i64> = rows.iter().map(|row| row.uid).collect();
    let there: Vec<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT uid, digest FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = ANY ($3)",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .bind(&uids)
    .fetch_all(&mut **tx)
    .await?;
    let there: HashSet<(i64, String)> = there.into_iter().map(|(uid, digest)| (uid, hex(&digest))).collect();
    let others: Vec<MessageRecord> =
        rows.iter().filter(|row| !there.contains(&(row.uid, row.digest.clone()))).cloned().collect();
    restored.renumbered = append(tx, tenant, mailbox, &others).await?;
    restored.known = rows.len() as u64 - restored.added - restored.renumbered;
    restored.added += restored.renumbered;
    Ok(restored)
}

/// Adds messages that the mailbox, which is locked, does not have, under new uids.
async fn append(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    mailbox: MailboxId,
    rows: &[MessageRecord],
) -> Result<u64, sqlx::Error> {
    let mut added = 0;
    for row in rows {
        let at = OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(row.received_at);
        let known: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM messages WHERE tenant_id = $1 AND mailbox_id = $2
                               AND digest = decode($3, 'hex') AND received_at = $4)
                 OR EXISTS (SELECT FROM deleted_messages WHERE tenant_id = $1 AND mailbox_id = $2
                               AND digest = decode($3, 'hex') AND received_at = $4)",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(&row.digest)
        .bind(at)
        .fetch_one(&mut **tx)
        .await?;
        if known {
            continue;
        }
        let uid: i64 = sqlx::query_scalar(
            "UPDATE mailboxes SET next_uid = next_uid + 1 WHERE tenant_id = $1 AND mailbox_id = $2
             RETURNING next_uid - 1",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_one(&mut **tx)
        .await?;
        let row = MessageRecord { uid, ..row.clone() };
        let (names, values) = (MESSAGES.names(), columns(&MESSAGES));
        let sql = format!(
            "INSERT INTO messages (tenant_id, mailbox_id, {names}) SELECT $1, $2, {values} FROM (SELECT $3::jsonb AS r) j"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(Json(&row))
            .execute(&mut **tx)
            .await?;
        added += 1;
    }
    Ok(added)
}

/// Counts the messages of a mailbox that is locked, and says by how much its counters were wrong.
pub(in crate::postgres) async fn count(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<(i64, i64), sqlx::Error> {
    let wrong: (i64, i64) = sqlx::query_as(
        "SELECT b.message_count - c.messages, b.octets - c.octets
           FROM mailboxes b, (SELECT count(*) AS messages, coalesce(sum(octets), 0)::bigint AS octets
                                FROM messages WHERE tenant_id = $1 AND mailbox_id = $2) c
          WHERE b.tenant_id = $1 AND b.mailbox_id = $2",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .fetch_one(&mut **tx)
    .await?;
    if wrong != (0, 0) {
        sqlx::query(
            "UPDATE mailboxes SET message_count = message_count - $3, octets = octets - $4
              WHERE tenant_id = $1 AND mailbox_id = $2",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(wrong.0)
        .bind(wrong.1)
        .execute(&mut **tx)
        .await?;
    }
    Ok(wrong)
}
