//! Bulletins on PostgreSQL.
//!
//! Rows are locked in this order: the tenant's, the bulletin's, mailboxes by their ids, messages. Whoever creates
//! mailboxes keeps to it, too (`directory/mailboxes.rs`).

mod steps;
mod welcome;

use async_trait::async_trait;
use maildrop::{
    Actor, Bulletin, BulletinId, BulletinState, StoredEntry, TenantId,
    port::{BULLETINS_MAX, BulletinStep, Bulletins, Conflict, IndexError},
};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, scoped::Audit};
pub(super) use welcome::Welcome;

use crate::{
    bulletins::{BulletinRow, audited, bulletin_columns},
    error::undecodable,
};

#[async_trait]
impl Bulletins for Postgres {
    async fn create_bulletin(
        &self,
        tenant: TenantId,
        bulletin: &Bulletin,
        entry: &StoredEntry,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let created = self.repeatable(|| self.insert_bulletin(tenant, bulletin, entry, actor)).await?;
        created.map_err(IndexError::Conflict)
    }

    async fn bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
    ) -> Result<Option<(Bulletin, u64)>, IndexError> {
        let found: Option<(BulletinRow, i64)> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                let row: Option<BulletinRow> = sqlx::query_as(concat!(
                    "SELECT ",
                    bulletin_columns!(),
                    " FROM bulletins WHERE tenant_id = $1 AND bulletin_id = $2"
                ))
                .bind(tenant.as_uuid())
                .bind(id.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
                let Some(row) = row else { return Ok(None) };
                let holding: i64 = sqlx::query_scalar(
                    "SELECT count(*)
                       FROM messages m
                       JOIN bulletins n ON n.tenant_id = m.tenant_id AND n.pack_id = m.pack_id
                                       AND n.pack_offset = m.pack_offset
                      WHERE m.tenant_id = $1 AND n.tenant_id = $1 AND n.bulletin_id = $2",
                )
                .bind(tenant.as_uuid())
                .bind(id.as_uuid())
                .fetch_one(&mut *tx)
                .await?;
                Ok(Some((row, holding)))
            })
            .await?;
        found.map(|(row, holding)| Ok((row.try_into()?, holding as u64))).transpose()
    }

    async fn bulletins(
        &self,
        tenant: TenantId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Bulletin>, IndexError> {
        let before = before.and_then(|number| i64::try_from(number).ok()).unwrap_or(i64::MAX);
        let rows: Vec<BulletinRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(concat!(
                    "SELECT ",
                    bulletin_columns!(),
                    " FROM bulletins WHERE tenant_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3"
                ))
                .bind(tenant.as_uuid())
                .bind(before)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn withdraw_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Bulletin>, IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            let Some((bulletin, _)) = held(&mut tx, tenant, id).await? else { return Ok(None) };
            if matches!(bulletin.state, BulletinState::Withdrawing | BulletinState::Withdrawn) {
                return Ok(Some(bulletin));
            }
            sqlx::query(
                "UPDATE bulletins SET state = 'withdrawing', ended_at = NULL
                  WHERE tenant_id = $1 AND bulletin_id = $2",
            )
            .bind(tenant.as_uuid())
            .bind(id.as_uuid())
            .execute(&mut *tx)
            .await?;
            let (action, target) = ("bulletin.withdraw", id.to_string());
            let before = Some(audited(&bulletin));
            Audit { tenant: Some(tenant), actor, at, action, target: &target, before, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(Some(Bulletin { state: BulletinState::Withdrawing, ended_at: None, ..bulletin }))
        })
        .await
    }

    async fn continue_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<BulletinStep, IndexError> {
        // It may be repeated: what was done is noted with it.
        self.repeatable(|| self.bulletin_step(tenant, id, limit, at)).await
    }

    async fn all_tenants_bulletins_due(
        &self,
        after: Option<(TenantId, BulletinId)>,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<Vec<(TenantId, BulletinId)>, IndexError> {
        let (tenant, bulletin) = after
            .map_or((Uuid::nil(), Uuid::nil()), |(tenant, bulletin)| (tenant.as_uuid(), bulletin.as_uuid()));
        let rows: Vec<(Uuid, Uuid)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT n.tenant_id, n.bulletin_id
                       FROM bulletins n JOIN tenants t ON t.tenant_id = n.tenant_id AND t.state <> 'deleting'
                      WHERE (n.tenant_id, n.bulletin_id) > ($1, $2)
                        AND n.state IN ('rolling_out', 'active', 'withdrawing')
                        AND (n.state <> 'active' OR n.expires_at <= $4)
                      ORDER BY n.tenant_id, n.bulletin_id LIMIT $3",
                )
                .bind(tenant)
                .bind(bulletin)
                .bind(i64::from(limit))
                .bind(at)
                .fetch_all(&self.pool)
            })
            .await?;
        let ids = |(tenant, bulletin)| (TenantId::from_uuid(tenant), BulletinId::from_uuid(bulletin));
        Ok(rows.into_iter().map(ids).collect())
    }
}

impl Postgres {
    async fn insert_bulletin(
        &self,
        tenant: TenantId,
        bulletin: &Bulletin,
        entry: &StoredEntry,
        actor: &Actor,
    ) -> Result<Result<bool, Conflict>, sqlx::Error> {
        let mut tx = self.scoped(tenant).await?;
        // Whoever creates mailboxes waits here, or is waited for: each mailbox is from before it or from after it.
        let before: Option<i64> = sqlx::query_scalar(
            "SELECT bulletins FROM tenants WHERE tenant_id = $1 AND state <> 'deleting' FOR UPDATE",
        )
        .bind(tenant.as_uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(before) = before else { return Ok(Ok(false)) };
        let known: Option<i64> =
            sqlx::query_scalar("SELECT number FROM bulletins WHERE tenant_id = $1 AND bulletin_id = $2")
                .bind(tenant.as_uuid())
                .bind(bulletin.id.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
        if known.is_some() {
            return Ok(Ok(true));
        }
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM bulletins
              WHERE tenant_id = $1 AND state IN ('rolling_out', 'active', 'withdrawing')",
        )
        .bind(tenant.as_uuid())
        .fetch_one(&mut *tx)
        .await?;
        if open >= i64::from(BULLETINS_MAX) {
            return Ok(Err(Conflict::Bulletins));
        }
        sqlx::query(
            "INSERT INTO packs (tenant_id, pack_id, octets, entries) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
        )
        .bind(tenant.as_uuid())
        .bind(entry.extent.pack.as_uuid())
        .bind(entry.pack_octets as i64)
        .bind(entry.pack_entries as i32)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO bulletins (tenant_id, bulletin_id, number, note, state, new_mailboxes, expires_at, pack_id,
                                    pack_offset, pack_length, octets, ascii_extra, header_octets, digest,
                                    created_by, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
        )
        .bind(tenant.as_uuid())
        .bind(bulletin.id.as_uuid())
        .bind(before + 1)
        .bind(&bulletin.note)
        .bind(bulletin.state.as_str())
        .bind(bulletin.new_mailboxes)
        .bind(bulletin.expires_at)
        .bind(bulletin.extent.pack.as_uuid())
        .bind(bulletin.extent.offset as i64)
        .bind(bulletin.extent.length as i64)
        .bind(bulletin.octets.ascii as i64)
        .bind(bulletin.octets.ascii_extra)
        .bind(bulletin.header_octets as i64)
        .bind(bulletin.digest.0.as_slice())
        .bind(&bulletin.created_by)
        .bind(bulletin.created_at)
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE tenants SET bulletins = $2 WHERE tenant_id = $1")
            .bind(tenant.as_uuid())
            .bind(before + 1)
            .execute(&mut *tx)
            .await?;
        let (action, target) = ("bulletin.create", bulletin.id.to_string());
        Audit {
            tenant: Some(tenant),
            actor,
            at: bulletin.created_at,
            action,
            target: &target,
            before: None,
            after: Some(audited(bulletin)),
        }
        .write(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(Ok(true))
    }
}

/// The bulletin, held until the transaction ends, and how far it has come.
async fn held(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    id: BulletinId,
) -> Result<Option<(Bulletin, Option<Uuid>)>, sqlx::Error> {
    let row: Option<BulletinRow> = sqlx::query_as(concat!(
        "SELECT ",
        bulletin_columns!(),
        " FROM bulletins WHERE tenant_id = $1 AND bulletin_id = $2 FOR UPDATE"
    ))
    .bind(tenant.as_uuid())
    .bind(id.as_uuid())
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let reached = row.reached;
    Ok(Some((Bulletin::try_from(row).map_err(undecodable)?, reached)))
}
