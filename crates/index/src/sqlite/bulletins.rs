//! Bulletins of the embedded index.

mod steps;
mod welcome;

use async_trait::async_trait;
use maildrop::{
    Actor, Bulletin, BulletinId, BulletinState, StoredEntry, TenantId,
    port::{BULLETINS_MAX, BulletinStep, Bulletins, Conflict, IndexError},
};
use sqlx::SqliteConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub(super) use welcome::Welcome;

use super::{
    Sqlite,
    audit::{Audit, NOTHING},
    maildrops::micros,
};
use crate::{
    bulletins::{BulletinRow, audited, bulletin_columns},
    error::{index_error, undecodable},
};

#[async_trait]
impl Bulletins for Sqlite {
    async fn create_bulletin(
        &self,
        tenant: TenantId,
        bulletin: &Bulletin,
        entry: &StoredEntry,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let created = insert_bulletin(&mut tx, tenant, bulletin, entry, actor).await?;
            tx.commit().await?;
            Ok(created)
        };
        run.await.map_err(index_error)?.map_err(IndexError::Conflict)
    }

    async fn bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
    ) -> Result<Option<(Bulletin, u64)>, IndexError> {
        let run = async {
            let mut tx = self.reader.begin().await?;
            let Some((bulletin, _)) = one(&mut tx, tenant, id).await? else { return Ok(None) };
            let holding: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM messages WHERE tenant_id = ? AND pack_id = ? AND pack_offset = ?",
            )
            .bind(tenant.as_uuid())
            .bind(bulletin.extent.pack.as_uuid())
            .bind(bulletin.extent.offset as i64)
            .fetch_one(&mut *tx)
            .await?;
            Ok(Some((bulletin, holding as u64)))
        };
        run.await.map_err(index_error)
    }

    async fn bulletins(
        &self,
        tenant: TenantId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Bulletin>, IndexError> {
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let rows: Vec<BulletinRow> = sqlx::query_as(concat!(
            "SELECT ",
            bulletin_columns!(),
            " FROM bulletins WHERE tenant_id = ? AND number < ? ORDER BY number DESC LIMIT ?"
        ))
        .bind(tenant.as_uuid())
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn withdraw_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Bulletin>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some((bulletin, _)) = one(&mut tx, tenant, id).await? else { return Ok(None) };
            if matches!(bulletin.state, BulletinState::Withdrawing | BulletinState::Withdrawn) {
                return Ok(Some(bulletin));
            }
            sqlx::query(
                "UPDATE bulletins SET state = 'withdrawing', ended_at = NULL
                  WHERE tenant_id = ? AND bulletin_id = ?",
            )
            .bind(tenant.as_uuid())
            .bind(id.as_uuid())
            .execute(&mut *tx)
            .await?;
            let target = id.to_string();
            Audit { tenant: Some(tenant), actor, at, action: "bulletin.withdraw", target: &target }
                .write(&mut tx, Some(&audited(&bulletin)), NOTHING)
                .await?;
            tx.commit().await?;
            Ok(Some(Bulletin { state: BulletinState::Withdrawing, ended_at: None, ..bulletin }))
        };
        run.await.map_err(index_error)
    }

    async fn continue_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<BulletinStep, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let step = steps::step(&mut tx, tenant, id, limit, at).await?;
            tx.commit().await?;
            Ok(step)
        };
        run.await.map_err(index_error)
    }

    async fn all_tenants_bulletins_due(
        &self,
        after: Option<(TenantId, BulletinId)>,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<Vec<(TenantId, BulletinId)>, IndexError> {
        let (tenant, bulletin) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, bulletin)| (tenant.as_uuid(), bulletin.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT n.tenant_id, n.bulletin_id
               FROM bulletins n JOIN tenants t ON t.tenant_id = n.tenant_id AND t.state <> 'deleting'
              WHERE (n.tenant_id, n.bulletin_id) > (?1, ?2)
                AND n.state IN ('rolling_out', 'active', 'withdrawing')
                AND (n.state <> 'active' OR n.expires_at <= ?4)
              ORDER BY n.tenant_id, n.bulletin_id LIMIT ?3",
        )
        .bind(tenant)
        .bind(bulletin)
        .bind(i64::from(limit))
        .bind(micros(at))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let ids = |(tenant, bulletin)| (TenantId::from_uuid(tenant), BulletinId::from_uuid(bulletin));
        Ok(rows.into_iter().map(ids).collect())
    }
}

async fn insert_bulletin(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    bulletin: &Bulletin,
    entry: &StoredEntry,
    actor: &Actor,
) -> Result<Result<bool, Conflict>, sqlx::Error> {
    let before: Option<i64> =
        sqlx::query_scalar("SELECT bulletins FROM tenants WHERE tenant_id = ? AND state <> 'deleting'")
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *connection)
            .await?;
    let Some(before) = before else { return Ok(Ok(false)) };
    if one(connection, tenant, bulletin.id).await?.is_some() {
        return Ok(Ok(true));
    }
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM bulletins
          WHERE tenant_id = ? AND state IN ('rolling_out', 'active', 'withdrawing')",
    )
    .bind(tenant.as_uuid())
    .fetch_one(&mut *connection)
    .await?;
    if open >= i64::from(BULLETINS_MAX) {
        return Ok(Err(Conflict::Bulletins));
    }
    sqlx::query(
        "INSERT INTO packs (tenant_id, pack_id, octets, entries, created_at) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_uuid())
    .bind(entry.extent.pack.as_uuid())
    .bind(entry.pack_octets as i64)
    .bind(i64::from(entry.pack_entries))
    .bind(micros(OffsetDateTime::now_utc()))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO bulletins (tenant_id, bulletin_id, number, note, state, new_mailboxes, expires_at, pack_id,
                                pack_offset, pack_length, octets, ascii_extra, header_octets, digest, created_by,
                                created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.id.as_uuid())
    .bind(before + 1)
    .bind(&bulletin.note)
    .bind(bulletin.state.as_str())
    .bind(bulletin.new_mailboxes)
    .bind(bulletin.expires_at.map(micros))
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .bind(bulletin.extent.length as i64)
    .bind(bulletin.octets.ascii as i64)
    .bind(bulletin.octets.ascii_extra)
    .bind(bulletin.header_octets as i64)
    .bind(bulletin.digest.0.as_slice())
    .bind(&bulletin.created_by)
    .bind(micros(bulletin.created_at))
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE tenants SET bulletins = ? WHERE tenant_id = ?")
        .bind(before + 1)
        .bind(tenant.as_uuid())
        .execute(&mut *connection)
        .await?;
    let (at, target) = (bulletin.created_at, bulletin.id.to_string());
    Audit { tenant: Some(tenant), actor, at, action: "bulletin.create", target: &target }
        .write(connection, NOTHING, Some(&audited(bulletin)))
        .await?;
    Ok(Ok(true))
}

/// The bulletin, and how far it has come.
async fn one(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    id: BulletinId,
) -> Result<Option<(Bulletin, Option<Uuid>)>, sqlx::Error> {
    let row: Option<BulletinRow> = sqlx::query_as(concat!(
        "SELECT ",
        bulletin_columns!(),
        " FROM bulletins WHERE tenant_id = ? AND bulletin_id = ?"
    ))
    .bind(tenant.as_uuid())
    .bind(id.as_uuid())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let reached = row.reached;
    Ok(Some((Bulletin::try_from(row).map_err(undecodable)?, reached)))
}
