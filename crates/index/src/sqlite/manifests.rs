//! What manifests are written of.

mod restore;

pub(super) use restore::count;

use async_trait::async_trait;
use maildrop::{
    MailboxId, PackId, SealedKey, TenantId, Uid,
    port::{
        FoundMessage, IndexError, MailboxRecord, ManifestRound, Manifests, MessageRecord, Record, Restored,
        RestoredPack, RestoredRows,
    },
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, SqliteConnection, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Sqlite,
    maildrops::{from_micros, micros},
};
use crate::{
    error::{corrupt, index_error, undecodable},
    reachability::{AROUND_ENTRY_OCTETS, AROUND_OCTETS, pointers},
    tables::{CREDENTIALS, Kind, MAILBOXES, MESSAGES, OF_MAILBOX, OF_TENANT, Table},
};

type RoundRow = (i64, Uuid, bool, i64, i64, bool);

#[async_trait]
impl Manifests for Sqlite {
    async fn all_tenants_manifests_due(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, IndexError> {
        let due: Vec<Uuid> = sqlx::query_scalar(
            "SELECT t.tenant_id FROM tenants t
              WHERE t.tenant_id > ? AND t.state <> 'deleting'
                AND (EXISTS (SELECT 1 FROM mailboxes b WHERE b.tenant_id = t.tenant_id AND b.manifest_due)
                     OR EXISTS (SELECT 1 FROM manifest_notes n WHERE n.tenant_id = t.tenant_id)
                     OR NOT EXISTS (SELECT 1 FROM manifest_rounds r
                                     WHERE r.tenant_id = t.tenant_id AND r.is_full AND r.finished)
                     OR EXISTS (SELECT 1 FROM manifest_rounds r
                                 WHERE r.tenant_id = t.tenant_id AND r.key_changes <> coalesce(
                                       (SELECT changes FROM tenant_key_changes k
                                         WHERE k.tenant_id = t.tenant_id), 0)))
              ORDER BY t.tenant_id LIMIT ?",
        )
        .bind(after.map_or(Uuid::nil(), |tenant| tenant.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(due.into_iter().map(TenantId::from_uuid).collect())
    }

    async fn manifest_rounds(&self, tenant: TenantId) -> Result<Vec<ManifestRound>, IndexError> {
        let rows: Vec<RoundRow> = sqlx::query_as(
            "SELECT round, round_id, is_full, octets, begun_at, finished FROM manifest_rounds
              WHERE tenant_id = ? ORDER BY round",
        )
        .bind(tenant.as_uuid())
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let round = |(round, id, full, octets, begun_at, finished): RoundRow| {
            let begun_at = from_micros(begun_at)?;
            Ok(ManifestRound { round: round as u64, id, full, octets: octets as u64, begun_at, finished })
        };
        rows.into_iter().map(round).collect()
    }

    async fn begin_manifest(
        &self,
        tenant: TenantId,
        round: &ManifestRound,
        key: &SealedKey,
    ) -> Result<(), IndexError> {
        self.note_rounds(tenant, std::slice::from_ref(round)).await.map_err(index_error)?;
        // Until it says so it counts as being under the first key, which is never too new.
        sqlx::query(
            "UPDATE manifest_rounds SET key_changes =
                    iif((SELECT data_key FROM tenants WHERE tenant_id = ?1) = ?4,
                        coalesce((SELECT changes FROM tenant_key_changes WHERE tenant_id = ?1), 0), -1)
              WHERE tenant_id = ?1 AND round = ?2 AND round_id = ?3",
        )
        .bind(tenant.as_uuid())
        .bind(round.round as i64)
        .bind(round.id)
        .bind(&key.0)
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn is_manifest_key_outdated(&self, tenant: TenantId) -> Result<bool, IndexError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM manifest_rounds r
                             WHERE r.tenant_id = ?1 AND r.key_changes <> coalesce(
                                   (SELECT changes FROM tenant_key_changes WHERE tenant_id = ?1), 0))",
        )
        .bind(tenant.as_uuid())
        .fetch_one(&self.reader)
        .await
        .map_err(index_error)
    }

    async fn finish_manifest(
        &self,
        tenant: TenantId,
        round: &ManifestRound,
        saved: &[(MailboxId, i64)],
        notes: &[i64],
    ) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let finished = sqlx::query(
                "UPDATE manifest_rounds SET octets = ?, finished = 1
                  WHERE tenant_id = ? AND round = ? AND round_id = ?",
            )
            .bind(round.octets as i64)
            .bind(tenant.as_uuid())
            .bind(round.round as i64)
            .bind(round.id)
            .execute(&mut *tx)
            .await?;
            if finished.rows_affected() == 0 {
                return Err(undecodable(corrupt("the round is not known")));
            }
            if round.full {
                sqlx::query("DELETE FROM manifest_rounds WHERE tenant_id = ? AND round < ?")
                    .bind(tenant.as_uuid())
                    .bind(round.round as i64)
                    .execute(&mut *tx)
                    .await?;
            }
            for (mailbox, changes) in saved {
                sqlx::query(
                    "UPDATE mailboxes SET manifest_due = 0 WHERE tenant_id = ? AND mailbox_id = ? AND changes = ?",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(changes)
                .execute(&mut *tx)
                .await?;
            }
            for note in notes {
                sqlx::query("DELETE FROM manifest_notes WHERE tenant_id = ? AND note_id = ?")
                    .bind(tenant.as_uuid())
                    .bind(note)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn committed_packs(
        &self,
        tenant: TenantId,
        after: PackId,
        since: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<PackId>, IndexError> {
        let packs: Vec<Uuid> = sqlx::query_scalar(
            "SELECT pack_id FROM packs WHERE tenant_id = ?1 AND pack_id > ?2 AND created_at >= ?3
              UNION
             SELECT pack_id FROM rewritings WHERE tenant_id = ?1 AND pack_id > ?2 AND begun_at >= ?3
              ORDER BY pack_id LIMIT ?4",
        )
        .bind(tenant.as_uuid())
        .bind(after.as_uuid())
        .bind(micros(since))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(packs.into_iter().map(PackId::from_uuid).collect())
    }

    async fn tenant_record(&self, tenant: TenantId) -> Result<Option<Record>, IndexError> {
        let run = async {
            let mut tx = self.reader.begin().await?;
            let mut record = Record::new();
            for table in &OF_TENANT {
                let rows = read(&mut tx, table, table.name, "", tenant, None).await?;
                record.insert(table.name.to_owned(), rows);
            }
            let deleting = |row: &Value| row["state"] == "deleting";
            Ok(record["tenants"].first().is_some_and(|row| !deleting(row)).then_some(record))
        };
        run.await.map_err(index_error)
    }

    async fn manifest_notes(
        &self,
        tenant: TenantId,
        limit: u32,
    ) -> Result<Vec<(i64, Option<MailboxId>)>, IndexError> {
        let notes: Vec<(i64, Uuid)> = sqlx::query_as(
            "SELECT note_id, mailbox_id FROM manifest_notes WHERE tenant_id = ? ORDER BY note_id LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let mailbox = |id: Uuid| (!id.is_nil()).then(|| MailboxId::from_uuid(id));
        Ok(notes.into_iter().map(|(note, id)| (note, mailbox(id))).collect())
    }

    async fn manifest_mailboxes(
        &self,
        tenant: TenantId,
        all: bool,
        after: Option<MailboxId>,
        limit: u32,
    ) -> Result<Vec<MailboxId>, IndexError> {
        let sql = if all {
            "SELECT mailbox_id FROM mailboxes WHERE tenant_id = ? AND mailbox_id > ?
              ORDER BY mailbox_id LIMIT ?"
        } else {
            "SELECT mailbox_id FROM mailboxes WHERE tenant_id = ? AND mailbox_id > ? AND manifest_due
              ORDER BY mailbox_id LIMIT ?"
        };
        let mailboxes: Vec<Uuid> = sqlx::query_scalar(sql)
            .bind(tenant.as_uuid())
            .bind(after.map_or(Uuid::nil(), |mailbox| mailbox.as_uuid()))
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await
            .map_err(index_error)?;
        Ok(mailboxes.into_iter().map(MailboxId::from_uuid).collect())
    }

    async fn mailbox_records(
        &self,
        tenant: TenantId,
        mailboxes: &[MailboxId],
    ) -> Result<Vec<MailboxRecord>, IndexError> {
        let run = async {
            let mut tx = self.reader.begin().await?;
            let mut records = Vec::with_capacity(mailboxes.len());
            for mailbox in mailboxes {
                let found: Option<(i64, i64)> = sqlx::query_as(
                    "SELECT changes, next_uid FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
                let Some((changes, next_uid)) = found else { continue };
                let mut tables = Record::new();
                for table in [&MAILBOXES, &CREDENTIALS].into_iter().chain(&OF_MAILBOX) {
                    // The password lies in the mailbox's row.
                    let (from, condition) = if table.name == CREDENTIALS.name {
                        (MAILBOXES.name, "AND mailbox_id = ?2 AND password_hash <> ''")
                    } else {
                        (table.name, "AND mailbox_id = ?2")
                    };
                    let rows = read(&mut tx, table, from, condition, tenant, Some(*mailbox)).await?;
                    tables.insert(table.name.to_owned(), rows);
                }
                records.push(MailboxRecord { id: *mailbox, changes, next_uid: next_uid as u64, tables });
            }
            Ok(records)
        };
        run.await.map_err(index_error)
    }

    async fn message_records(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRecord>, IndexError> {
        let sql = format!(
            "SELECT {} FROM messages WHERE tenant_id = ? AND mailbox_id = ? AND uid >= ? AND uid < ?
              ORDER BY uid LIMIT ?",
            object(&MESSAGES)
        );
        let rows: Vec<Json<MessageRecord>> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(from.0 as i64)
            .bind(before.0 as i64)
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await
            .map_err(index_error)?;
        Ok(rows.into_iter().map(|row| row.0).collect())
    }

    async fn restore_tenant(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        record: &Record,
    ) -> Result<Restored, IndexError> {
        self.put_tenant(tenant, key, record).await.map_err(index_error)
    }

    async fn restore_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &MailboxRecord,
        next_uid: Uid,
    ) -> Result<Restored, IndexError> {
        self.put_mailbox(tenant, mailbox, next_uid).await.map_err(index_error)
    }

    async fn restore_packs(&self, tenant: TenantId, packs: &[RestoredPack]) -> Result<u64, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let added = restore::insert_packs(&mut tx, tenant, packs).await?;
            tx.commit().await?;
            Ok(added)
        };
        run.await.map_err(index_error)
    }

    async fn restore_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<RestoredRows, IndexError> {
        self.put_messages(tenant, mailbox, rows).await.map_err(index_error)
    }

    async fn repoint_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<u64, IndexError> {
        self.repoint(tenant, mailbox, rows).await.map_err(index_error)
    }

    async fn restore_found(
        &self,
        tenant: TenantId,
        pack: &RestoredPack,
        found: &[FoundMessage],
    ) -> Result<RestoredRows, IndexError> {
        self.put_found(tenant, pack, found).await.map_err(index_error)
    }

    async fn recount(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(i64, i64), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let wrong = restore::count(&mut tx, tenant, mailbox).await?;
            tx.commit().await?;
            Ok(wrong)
        };
        run.await.map_err(index_error)
    }

    async fn note_garbage(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            for pack in packs {
                sqlx::query(concat!(
                    "INSERT INTO pack_garbage (tenant_id, pack_id, octets, at)
                     SELECT ?1, ?2, rest, ?5 FROM (
                         SELECT p.octets - ?3 - (SELECT coalesce(sum(e.pack_length + ?4), 0)
                                FROM (SELECT DISTINCT pack_offset, pack_length FROM (",
                    pointers!("?1", "?2"),
                    ")) e) AS rest
                           FROM packs p WHERE p.tenant_id = ?1 AND p.pack_id = ?2)
                      WHERE rest > ?4"
                ))
                .bind(tenant.as_uuid())
                .bind(pack.as_uuid())
                .bind(AROUND_OCTETS)
                .bind(AROUND_ENTRY_OCTETS)
                .bind(micros(OffsetDateTime::now_utc()))
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn adopt_manifests(&self, tenant: TenantId, rounds: &[ManifestRound]) -> Result<(), IndexError> {
        self.note_rounds(tenant, rounds).await.map_err(index_error)
    }
}

impl Sqlite {
    async fn note_rounds(&self, tenant: TenantId, rounds: &[ManifestRound]) -> Result<(), sqlx::Error> {
        let mut tx = self.writer.begin().await?;
        for round in rounds {
            sqlx::query(
                // Under which key they are nobody knows: as if it was exchanged since.
                "INSERT INTO manifest_rounds (tenant_id, round, round_id, is_full, octets, begun_at, finished,
                                              key_changes)
                 VALUES (?, ?, ?, ?, ?, ?, ?, -1)
                     ON CONFLICT (tenant_id, round) DO UPDATE
                    SET octets = excluded.octets, finished = excluded.finished",
            )
            .bind(tenant.as_uuid())
            .bind(round.round as i64)
            .bind(round.id)
            .bind(round.full)
            .bind(round.octets as i64)
            .bind(micros(round.begun_at))
            .bind(round.finished)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await
    }
}

/// A row as an object of its columns.
pub(super) fn object(table: &Table) -> String {
    let pairs = table.each(|name, kind| {
        let value = match kind {
            Kind::Int | Kind::Text | Kind::Time => name.to_owned(),
            Kind::Uuid | Kind::Bytes => format!("iif({name} IS NULL, NULL, lower(hex({name})))"),
            Kind::Bool => format!("json(iif({name}, 'true', 'false'))"),
            Kind::Json => format!("json({name})"),
        };
        format!("'{name}', {value}")
    });
    format!("json_object({pairs})")
}

/// The columns out of an object that is the `value` of `j`.
fn columns(table: &Table) -> String {
    table.each(|name, kind| match kind {
        Kind::Int | Kind::Text | Kind::Time | Kind::Bool => format!("j.value->>'$.{name}'"),
        Kind::Uuid | Kind::Bytes => format!("unhex(replace(j.value->>'$.{name}', '-', ''))"),
        Kind::Json => format!("coalesce(j.value->'$.{name}', '{{}}')"),
    })
}

async fn read(
    connection: &mut SqliteConnection,
    table: &Table,
    from: &str,
    condition: &str,
    tenant: TenantId,
    mailbox: Option<MailboxId>,
) -> Result<Vec<Value>, sqlx::Error> {
    let order = table.key.join(", ");
    let sql =
        format!("SELECT {} FROM {from} WHERE tenant_id = ?1 {condition} ORDER BY {order}", object(table));
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.as_uuid());
    let query = match mailbox {
        Some(mailbox) => query.bind(mailbox.as_uuid()),
        None => query,
    };
    let rows: Vec<Json<Value>> = query.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}
