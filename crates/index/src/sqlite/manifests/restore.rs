//! What is put back from manifests and packs.

use std::collections::BTreeMap;

use maildrop::{
    MailboxId, SealedKey, TenantId, Uid,
    port::{FoundMessage, MailboxRecord, MessageRecord, Record, Restored, RestoredPack, RestoredRows},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, SqliteConnection, types::Json};
use time::OffsetDateTime;

use super::columns;
use crate::{
    sqlite::{Sqlite, maildrops::micros},
    tables::{CREDENTIALS, MAILBOXES, MESSAGES, OF_MAILBOX, OF_TENANT, Table, hex},
};

impl Sqlite {
    pub(super) async fn put_tenant(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        record: &Record,
    ) -> Result<Restored, sqlx::Error> {
        let mut restored = Restored::default();
        let mut tx = self.writer.begin().await?;
        for table in &OF_TENANT {
            let mut rows = record.get(table.name).cloned().unwrap_or_default();
            if table.name == "tenants" {
                for row in &mut rows {
                    row["data_key"] = json!(hex(&key.0));
                }
            }
            insert(&mut tx, table, tenant, &rows, &mut restored).await?;
            if table.name == "tenants" && !restored.taken.is_empty() {
                // Another tenant has its name: nothing of it can be put back.
                return Ok(restored);
            }
        }
        tx.commit().await?;
        Ok(restored)
    }

    pub(super) async fn put_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &MailboxRecord,
        next_uid: Uid,
    ) -> Result<Restored, sqlx::Error> {
        let mut restored = Restored::default();
        let mut tx = self.writer.begin().await?;
        let rows = |table: &Table| mailbox.tables.get(table.name).cloned().unwrap_or_default();
        insert(&mut tx, &MAILBOXES, tenant, &rows(&MAILBOXES), &mut restored).await?;
        if !restored.taken.is_empty() {
            return Ok(restored);
        }
        if restored.added > 0 {
            for row in rows(&CREDENTIALS) {
                sqlx::query(
                    "UPDATE mailboxes SET password_hash = ?3->>'$.password_hash',
                                          verifiers = unhex(?3->>'$.verifiers')
                      WHERE tenant_id = ?1 AND mailbox_id = ?2",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.id.as_uuid())
                .bind(Json(&row))
                .execute(&mut *tx)
                .await?;
            }
        }
        for table in &OF_MAILBOX {
            insert(&mut tx, table, tenant, &rows(table), &mut restored).await?;
        }
        sqlx::query(
            "UPDATE mailboxes SET next_uid = max(next_uid, ?3) WHERE tenant_id = ?1 AND mailbox_id = ?2",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.id.as_uuid())
        .bind(next_uid.0 as i64)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(restored)
    }

    pub(super) async fn put_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<RestoredRows, sqlx::Error> {
        let mut restored = RestoredRows::default();
        let mut tx = self.writer.begin().await?;
        if !is_there(&mut tx, tenant, mailbox).await? {
            return Ok(restored);
        }
        for row in rows {
            if insert_message(&mut tx, tenant, mailbox, row).await? {
                restored.added += 1;
                continue;
            }
            let same: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM messages WHERE tenant_id = ? AND mailbox_id = ? AND uid = ?
                                   AND digest = unhex(?))",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(row.uid)
            .bind(&row.digest)
            .fetch_one(&mut *tx)
            .await?;
            // A uid that the index, since it was set back, gave to another message.
            if !same && append(&mut tx, tenant, mailbox, row).await? {
                restored.added += 1;
                restored.renumbered += 1;
            } else {
                restored.known += 1;
            }
        }
        tx.commit().await?;
        Ok(restored)
    }

    pub(super) async fn repoint(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<u64, sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        let mut repointed = 0;
        for row in rows {
            repointed += sqlx::query(
                "UPDATE messages SET pack_id = ?, pack_offset = ?, pack_length = ?
                  WHERE tenant_id = ? AND mailbox_id = ? AND uid = ? AND digest = unhex(?)",
            )
            .bind(row.pack_id)
            .bind(row.pack_offset)
            .bind(row.pack_length)
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(row.uid)
            .bind(&row.digest)
            .execute(&mut *tx)
            .await?
            .rows_affected();
        }
        tx.commit().await?;
        Ok(repointed)
    }

    pub(super) async fn put_found(
        &self,
        tenant: TenantId,
        pack: &RestoredPack,
        found: &[FoundMessage],
    ) -> Result<RestoredRows, sqlx::Error> {
        let mut restored = RestoredRows::default();
        let mut by_mailbox: BTreeMap<MailboxId, Vec<&MessageRecord>> = BTreeMap::new();
        for message in found {
            by_mailbox.entry(message.mailbox).or_default().push(&message.row);
        }
        let mut tx = self.writer.begin().await?;
        insert_packs(&mut tx, tenant, std::slice::from_ref(pack)).await?;
        for (mailbox, rows) in by_mailbox {
            if !is_there(&mut tx, tenant, mailbox).await? {
                continue;
            }
            for row in rows {
                if append(&mut tx, tenant, mailbox, row).await? {
                    restored.added += 1;
                } else {
                    restored.known += 1;
                }
            }
            count(&mut tx, tenant, mailbox).await?;
        }
        tx.commit().await?;
        Ok(restored)
    }
}

/// Inserts rows that are not there, and finds out which could not be, since another's have what is unique.
async fn insert(
    connection: &mut SqliteConnection,
    table: &Table,
    tenant: TenantId,
    rows: &[Value],
    restored: &mut Restored,
) -> Result<(), sqlx::Error> {
    let (name, names, values) = (table.name, table.names(), columns(table));
    // The password comes after it.
    let (more, empty) = if name == MAILBOXES.name { (", password_hash", ", ''") } else { ("", "") };
    let sql = format!(
        "INSERT INTO {name} (tenant_id, {names}{more}) SELECT ?1, {values}{empty} FROM json_each(?2) j WHERE true
             ON CONFLICT DO NOTHING"
    );
    let done =
        sqlx::query(AssertSqlSafe(sql)).bind(tenant.as_uuid()).bind(Json(rows)).execute(&mut *connection);
    restored.added += done.await?.rows_affected();
    let same: Vec<String> = table
        .key
        .iter()
        .map(|key| {
            if key.ends_with("_id") {
                format!("x.{key} = unhex(replace(j.value->>'$.{key}', '-', ''))")
            } else {
                format!("x.{key} = j.value->>'$.{key}'")
            }
        })
        .collect();
    let (same, known_by) = (same.join(" AND "), table.key[0]);
    let sql = format!(
        "SELECT j.value->>'$.{known_by}' FROM json_each(?2) j
          WHERE NOT EXISTS (SELECT 1 FROM {name} x WHERE x.tenant_id = ?1 AND {same})"
    );
    let taken: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(tenant.as_uuid())
        .bind(Json(rows))
        .fetch_all(connection)
        .await?;
    restored.taken.extend(taken.into_iter().map(|what| format!("{name}: {what}")));
    Ok(())
}

pub(super) async fn insert_packs(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    packs: &[RestoredPack],
) -> Result<u64, sqlx::Error> {
    let mut added = 0;
    for pack in packs {
        added += sqlx::query(
            "INSERT INTO packs (tenant_id, pack_id, octets, entries, created_at) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
        )
        .bind(tenant.as_uuid())
        .bind(pack.pack.as_uuid())
        .bind(pack.octets as i64)
        .bind(i64::from(pack.entries))
        .bind(micros(OffsetDateTime::now_utc()))
        .execute(&mut *connection)
        .await?
        .rows_affected();
        sqlx::query(
            "UPDATE garbage_packs SET dead_at = NULL, deleted_at = NULL, due = 1
              WHERE tenant_id = ? AND pack_id = ? AND dead_at IS NOT NULL",
        )
        .bind(tenant.as_uuid())
        .bind(pack.pack.as_uuid())
        .execute(&mut *connection)
        .await?;
    }
    Ok(added)
}

async fn is_there(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?)")
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .fetch_one(connection)
        .await
}

async fn insert_message(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
    row: &MessageRecord,
) -> Result<bool, sqlx::Error> {
    let (names, values) = (MESSAGES.names(), columns(&MESSAGES));
    let sql = format!(
        "INSERT INTO messages (tenant_id, mailbox_id, {names}) SELECT ?1, ?2, {values} FROM (SELECT ?3 AS value) j
          WHERE true ON CONFLICT DO NOTHING"
    );
    let done = sqlx::query(AssertSqlSafe(sql))
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(Json(row))
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Adds a message under a new uid, unless the mailbox has it.
async fn append(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
    row: &MessageRecord,
) -> Result<bool, sqlx::Error> {
    let known: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM messages WHERE tenant_id = ?1 AND mailbox_id = ?2
                           AND digest = unhex(?3) AND received_at = ?4)
             OR EXISTS (SELECT 1 FROM deleted_messages WHERE tenant_id = ?1 AND mailbox_id = ?2
                           AND digest = unhex(?3) AND received_at = ?4)",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .bind(&row.digest)
    .bind(row.received_at)
    .fetch_one(&mut *connection)
    .await?;
    if known {
        return Ok(false);
    }
    let next_uid: i64 = sqlx::query_scalar(
        "UPDATE mailboxes SET next_uid = next_uid + 1 WHERE tenant_id = ? AND mailbox_id = ? RETURNING next_uid",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .fetch_one(&mut *connection)
    .await?;
    let row = MessageRecord { uid: next_uid - 1, ..row.clone() };
    insert_message(connection, tenant, mailbox, &row).await
}

/// Counts the messages of a mailbox, and says by how much its counters were wrong.
pub(in crate::sqlite) async fn count(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    mailbox: MailboxId,
) -> Result<(i64, i64), sqlx::Error> {
    let wrong: Option<(i64, i64)> = sqlx::query_as(
        "SELECT b.message_count - c.messages, b.octets - c.octets
           FROM mailboxes b, (SELECT count(*) AS messages, coalesce(sum(octets), 0) AS octets
                                FROM messages WHERE tenant_id = ?1 AND mailbox_id = ?2) c
          WHERE b.tenant_id = ?1 AND b.mailbox_id = ?2",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let wrong = wrong.unwrap_or_default();
    if wrong != (0, 0) {
        sqlx::query(
            "UPDATE mailboxes SET message_count = message_count - ?3, octets = octets - ?4
              WHERE tenant_id = ?1 AND mailbox_id = ?2",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(wrong.0)
        .bind(wrong.1)
        .execute(connection)
        .await?;
    }
    Ok(wrong)
}
