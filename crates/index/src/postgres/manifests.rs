//! What manifests are written of.

mod restore;

pub(super) use restore::{count, lock};

use async_trait::async_trait;
use maildrop::{
    MailboxId, PackId, SealedKey, TenantId, Uid,
    port::{
        FoundMessage, IndexError, MailboxRecord, ManifestRound, Manifests, MessageRecord, Record, Restored,
        RestoredPack, RestoredRows,
    },
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Postgres as Db, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Postgres;
use crate::{
    error::corrupt,
    reachability::{AROUND_ENTRY_OCTETS, AROUND_OCTETS, pointers},
    tables::{CREDENTIALS, Kind, MAILBOXES, MESSAGES, OF_MAILBOX, OF_TENANT, Table},
};

/// Rows of one statement.
const STEP: usize = 500;

type RoundRow = (i64, Uuid, bool, i64, OffsetDateTime, bool);

#[async_trait]
impl Manifests for Postgres {
    async fn all_tenants_manifests_due(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, IndexError> {
        let due: Vec<Uuid> = self
            .repeatable(|| {
                sqlx::query_scalar(
                    "SELECT t.tenant_id FROM tenants t
                      WHERE t.tenant_id > $1 AND t.state <> 'deleting'
                        AND (EXISTS (SELECT FROM mailboxes b WHERE b.tenant_id = t.tenant_id AND b.manifest_due)
                             OR EXISTS (SELECT FROM manifest_notes n WHERE n.tenant_id = t.tenant_id)
                             OR NOT EXISTS (SELECT FROM manifest_rounds r
                                             WHERE r.tenant_id = t.tenant_id AND r.is_full AND r.finished)
                     OR EXISTS (SELECT FROM manifest_rounds r
                                 WHERE r.tenant_id = t.tenant_id AND r.key_changes <> coalesce(
                                       (SELECT changes FROM tenant_key_changes k
                                         WHERE k.tenant_id = t.tenant_id), 0)))
                      ORDER BY t.tenant_id LIMIT $2",
                )
                .bind(after.map_or(Uuid::nil(), |tenant| tenant.as_uuid()))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        Ok(due.into_iter().map(TenantId::from_uuid).collect())
    }

    async fn manifest_rounds(&self, tenant: TenantId) -> Result<Vec<ManifestRound>, IndexError> {
        let rows: Vec<RoundRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT round, round_id, is_full, octets, begun_at, finished FROM manifest_rounds
                      WHERE tenant_id = $1 ORDER BY round",
                )
                .bind(tenant.as_uuid())
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        let round = |(round, id, full, octets, begun_at, finished): RoundRow| ManifestRound {
            round: round as u64,
            id,
            full,
            octets: octets as u64,
            begun_at,
            finished,
        };
        Ok(rows.into_iter().map(round).collect())
    }

    async fn begin_manifest(
        &self,
        tenant: TenantId,
        round: &ManifestRound,
        key: &SealedKey,
    ) -> Result<(), IndexError> {
        let noted = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                // Repeated, it finds itself there.
                let noted = sqlx::query(
                    "INSERT INTO manifest_rounds AS r
                            (tenant_id, round, round_id, is_full, octets, begun_at, key_changes)
                     VALUES ($1, $2, $3, $4, $5, $6,
                             CASE WHEN (SELECT data_key FROM tenants WHERE tenant_id = $1) = $7
                                  THEN coalesce((SELECT changes FROM tenant_key_changes WHERE tenant_id = $1), 0)
                                  ELSE -1 END)
                         ON CONFLICT (tenant_id, round) DO UPDATE SET octets = excluded.octets
                      WHERE r.round_id = excluded.round_id",
                )
                .bind(tenant.as_uuid())
                .bind(round.round as i64)
                .bind(round.id)
                .bind(round.full)
                .bind(round.octets as i64)
                .bind(round.begun_at)
                .bind(&key.0)
                .execute(&mut *tx)
                .await?;
                tx.commit().await?;
                Ok(noted.rows_affected())
            })
            .await?;
        if noted == 0 { Err(corrupt("another node has begun this round")) } else { Ok(()) }
    }

    async fn is_manifest_key_outdated(&self, tenant: TenantId) -> Result<bool, IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM manifest_rounds r
                                 WHERE r.tenant_id = $1 AND r.key_changes <> coalesce(
                                       (SELECT changes FROM tenant_key_changes WHERE tenant_id = $1), 0))",
            )
            .bind(tenant.as_uuid())
            .fetch_one(&mut *tx)
            .await
        })
        .await
    }

    async fn finish_manifest(
        &self,
        tenant: TenantId,
        round: &ManifestRound,
        saved: &[(MailboxId, i64)],
        notes: &[i64],
    ) -> Result<(), IndexError> {
        let finished = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                let finished = sqlx::query(
                    "UPDATE manifest_rounds SET octets = $4, finished = true
                      WHERE tenant_id = $1 AND round = $2 AND round_id = $3",
                )
                .bind(tenant.as_uuid())
                .bind(round.round as i64)
                .bind(round.id)
                .bind(round.octets as i64)
                .execute(&mut *tx)
                .await?;
                tx.commit().await?;
                Ok(finished.rows_affected())
            })
            .await?;
        if finished == 0 {
            return Err(corrupt("another node has written a full round since this one was begun"));
        }
        if round.full {
            self.in_tenant(
                tenant,
                "DELETE FROM manifest_rounds WHERE tenant_id = $1 AND round < $2",
                round.round,
            )
            .await?;
        }
        for saved in saved.chunks(STEP) {
            let mailboxes: Vec<Uuid> = saved.iter().map(|(mailbox, _)| mailbox.as_uuid()).collect();
            let changes: Vec<i64> = saved.iter().map(|(_, changes)| *changes).collect();
            self.repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                // In the order in which deliveries lock them.
                sqlx::query(
                    "WITH still AS (
                         SELECT b.mailbox_id FROM mailboxes b
                           JOIN unnest($2::uuid[], $3::bigint[]) AS s (mailbox, changes)
                             ON s.mailbox = b.mailbox_id AND s.changes = b.changes
                          WHERE b.tenant_id = $1 AND b.manifest_due
                          ORDER BY b.mailbox_id FOR NO KEY UPDATE OF b
                     )
                     UPDATE mailboxes b SET manifest_due = false FROM still s
                      WHERE b.tenant_id = $1 AND b.mailbox_id = s.mailbox_id",
                )
                .bind(tenant.as_uuid())
                .bind(&mailboxes)
                .bind(&changes)
                .execute(&mut *tx)
                .await?;
                tx.commit().await
            })
            .await?;
        }
        for notes in notes.chunks(10 * STEP) {
            self.repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query("DELETE FROM manifest_notes WHERE tenant_id = $1 AND note_id = ANY ($2)")
                    .bind(tenant.as_uuid())
                    .bind(notes)
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await
            })
            .await?;
        }
        Ok(())
    }

    async fn committed_packs(
        &self,
        tenant: TenantId,
        after: PackId,
        since: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<PackId>, IndexError> {
        let packs: Vec<Uuid> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_scalar(
                    "SELECT pack_id FROM packs WHERE tenant_id = $1 AND pack_id > $2 AND created_at >= $3
                      UNION
                     SELECT pack_id FROM rewritings WHERE tenant_id = $1 AND pack_id > $2 AND begun_at >= $3
                      ORDER BY pack_id LIMIT $4",
                )
                .bind(tenant.as_uuid())
                .bind(after.as_uuid())
                .bind(since)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(packs.into_iter().map(PackId::from_uuid).collect())
    }

    async fn tenant_record(&self, tenant: TenantId) -> Result<Option<Record>, IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            let mut record = Record::new();
            for table in &OF_TENANT {
                let rows = read(&mut tx, table, table.name, "TRUE", tenant, &[]).await?;
                record.insert(table.name.to_owned(), rows);
            }
            let deleting = |row: &Value| row["state"] == "deleting";
            Ok(record["tenants"].first().is_some_and(|row| !deleting(row)).then_some(record))
        })
        .await
    }

    async fn manifest_notes(
        &self,
        tenant: TenantId,
        limit: u32,
    ) -> Result<Vec<(i64, Option<MailboxId>)>, IndexError> {
        let notes: Vec<(i64, Uuid)> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT note_id, mailbox_id FROM manifest_notes WHERE tenant_id = $1
                      ORDER BY note_id LIMIT $2",
                )
                .bind(tenant.as_uuid())
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        let note =
            |(note, mailbox): (i64, Uuid)| (note, (!mailbox.is_nil()).then(|| MailboxId::from_uuid(mailbox)));
        Ok(notes.into_iter().map(note).collect())
    }

    async fn manifest_mailboxes(
        &self,
        tenant: TenantId,
        all: bool,
        after: Option<MailboxId>,
        limit: u32,
    ) -> Result<Vec<MailboxId>, IndexError> {
        let sql = if all {
            "SELECT mailbox_id FROM mailboxes WHERE tenant_id = $1 AND mailbox_id > $2
              ORDER BY mailbox_id LIMIT $3"
        } else {
            "SELECT mailbox_id FROM mailboxes WHERE tenant_id = $1 AND mailbox_id > $2 AND manifest_due
              ORDER BY mailbox_id LIMIT $3"
        };
        let mailboxes: Vec<Uuid> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_scalar(sql)
                    .bind(tenant.as_uuid())
                    .bind(after.map_or(Uuid::nil(), |mailbox| mailbox.as_uuid()))
                    .bind(i64::from(limit))
                    .fetch_all(&mut *tx)
                    .await
            })
            .await?;
        Ok(mailboxes.into_iter().map(MailboxId::from_uuid).collect())
    }

    async fn mailbox_records(
        &self,
        tenant: TenantId,
        mailboxes: &[MailboxId],
    ) -> Result<Vec<MailboxRecord>, IndexError> {
        let ids: Vec<Uuid> = mailboxes.iter().map(MailboxId::as_uuid).collect();
        let ids = ids.as_slice();
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            // The counts first: what changes while the rest is read is due again.
            let changes: Vec<(Uuid, i64, i64)> = sqlx::query_as(
                "SELECT mailbox_id, changes, next_uid FROM mailboxes
                  WHERE tenant_id = $1 AND mailbox_id = ANY ($2) ORDER BY mailbox_id",
            )
            .bind(tenant.as_uuid())
            .bind(ids)
            .fetch_all(&mut *tx)
            .await?;
            let mut records: Vec<MailboxRecord> = changes
                .into_iter()
                .map(|(id, changes, next_uid)| MailboxRecord {
                    id: MailboxId::from_uuid(id),
                    changes,
                    next_uid: next_uid as u64,
                    tables: Record::new(),
                })
                .collect();
            for table in [&MAILBOXES, &CREDENTIALS].into_iter().chain(&OF_MAILBOX) {
                for row in read(&mut tx, table, table.name, "mailbox_id = ANY ($2)", tenant, ids).await? {
                    let whose = row["mailbox_id"].as_str().and_then(|id| Uuid::try_parse(id).ok());
                    if let Some(record) = records.iter_mut().find(|record| Some(record.id.as_uuid()) == whose)
                    {
                        record.tables.entry(table.name.to_owned()).or_default().push(row);
                    }
                }
            }
            Ok(records)
        })
        .await
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
            "SELECT {} FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 AND uid >= $3 AND uid < $4
              ORDER BY uid LIMIT $5",
            object(&MESSAGES)
        );
        let rows: Vec<Json<MessageRecord>> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_scalar(AssertSqlSafe(sql.clone()))
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(from.0 as i64)
                    .bind(before.0 as i64)
                    .bind(i64::from(limit))
                    .fetch_all(&mut *tx)
                    .await
            })
            .await?;
        Ok(rows.into_iter().map(|row| row.0).collect())
    }

    async fn restore_tenant(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        record: &Record,
    ) -> Result<Restored, IndexError> {
        self.put_tenant(tenant, key, record).await
    }

    async fn restore_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &MailboxRecord,
        next_uid: Uid,
    ) -> Result<Restored, IndexError> {
        self.put_mailbox(tenant, mailbox, next_uid).await
    }

    async fn restore_packs(&self, tenant: TenantId, packs: &[RestoredPack]) -> Result<u64, IndexError> {
        self.put_packs(tenant, packs).await
    }

    async fn restore_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<RestoredRows, IndexError> {
        self.put_messages(tenant, mailbox, rows).await
    }

    async fn repoint_messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rows: &[MessageRecord],
    ) -> Result<u64, IndexError> {
        self.repoint(tenant, mailbox, rows).await
    }

    async fn restore_found(
        &self,
        tenant: TenantId,
        pack: &RestoredPack,
        found: &[FoundMessage],
    ) -> Result<RestoredRows, IndexError> {
        self.put_found(tenant, pack, found).await
    }

    async fn recount(&self, tenant: TenantId, mailbox: MailboxId) -> Result<(i64, i64), IndexError> {
        self.count_anew(tenant, mailbox).await
    }

    async fn note_garbage(&self, tenant: TenantId, packs: &[PackId]) -> Result<(), IndexError> {
        for packs in packs.chunks(STEP) {
            let ids: Vec<Uuid> = packs.iter().map(PackId::as_uuid).collect();
            self.once(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query(concat!(
                    "INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                     SELECT $1, p.pack_id, p.octets - $3 - l.octets
                       FROM packs p CROSS JOIN LATERAL (
                            SELECT coalesce(sum(e.pack_length + $4), 0)::bigint AS octets
                              FROM (SELECT DISTINCT x.pack_offset, x.pack_length FROM (",
                    pointers!("$1", "p.pack_id"),
                    ") x) e) l
                      WHERE p.tenant_id = $1 AND p.pack_id = ANY ($2) AND p.octets - $3 - l.octets > $4"
                ))
                .bind(tenant.as_uuid())
                .bind(&ids)
                .bind(AROUND_OCTETS)
                .bind(AROUND_ENTRY_OCTETS)
                .execute(&mut *tx)
                .await?;
                tx.commit().await
            })
            .await?;
        }
        Ok(())
    }

    async fn adopt_manifests(&self, tenant: TenantId, rounds: &[ManifestRound]) -> Result<(), IndexError> {
        self.note_rounds(tenant, rounds).await
    }
}

impl Postgres {
    async fn note_rounds(&self, tenant: TenantId, rounds: &[ManifestRound]) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            for round in rounds {
                sqlx::query(
                    // Under which key they are nobody knows: as if it was exchanged since.
                    "INSERT INTO manifest_rounds (tenant_id, round, round_id, is_full, octets, begun_at, finished,
                                                  key_changes)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, -1)
                         ON CONFLICT (tenant_id, round) DO UPDATE
                        SET octets = excluded.octets, finished = excluded.finished",
                )
                .bind(tenant.as_uuid())
                .bind(round.round as i64)
                .bind(round.id)
                .bind(round.full)
                .bind(round.octets as i64)
                .bind(round.begun_at)
                .bind(round.finished)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn in_tenant(&self, tenant: TenantId, sql: &'static str, number: u64) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            sqlx::query(sql).bind(tenant.as_uuid()).bind(number as i64).execute(&mut *tx).await?;
            tx.commit().await
        })
        .await
    }
}

/// A row as an object of its columns.
fn object(table: &Table) -> String {
    let pairs = table.each(|name, kind| {
        let value = match kind {
            Kind::Uuid | Kind::Int | Kind::Bool | Kind::Text | Kind::Json => name.to_owned(),
            Kind::Bytes => format!("encode({name}, 'hex')"),
            Kind::Time => format!("(extract(epoch FROM {name}) * 1000000)::bigint"),
        };
        format!("'{name}', {value}")
    });
    format!("jsonb_build_object({pairs})")
}

/// The columns out of an object `r`.
fn columns(table: &Table) -> String {
    table.each(|name, kind| match kind {
        Kind::Uuid => format!("(r->>'{name}')::uuid"),
        Kind::Int => format!("(r->>'{name}')::bigint"),
        Kind::Bool => format!("(r->>'{name}')::boolean"),
        Kind::Text => format!("r->>'{name}'"),
        Kind::Bytes => format!("decode(r->>'{name}', 'hex')"),
        Kind::Time => format!("timestamptz 'epoch' + (r->>'{name}')::bigint * interval '1 microsecond'"),
        Kind::Json => format!("coalesce(r->'{name}', '{{}}')"),
    })
}

async fn read(
    tx: &mut Transaction<'_, Db>,
    table: &Table,
    from: &str,
    condition: &str,
    tenant: TenantId,
    ids: &[Uuid],
) -> Result<Vec<Value>, sqlx::Error> {
    let order = table.key.join(", ");
    let sql =
        format!("SELECT {} FROM {from} WHERE tenant_id = $1 AND {condition} ORDER BY {order}", object(table));
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(tenant.as_uuid());
    let query = if condition.contains("$2") { query.bind(ids) } else { query };
    let rows: Vec<Json<Value>> = query.fetch_all(&mut **tx).await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}
