//! The steps in which bulletins reach mailboxes, and are taken from them.

use maildrop::{Address, Bulletin, BulletinId, BulletinState, TenantId, port::BulletinStep};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::held;
use crate::{
    bulletins::rolled_out,
    error::{corrupt, undecodable},
    postgres::Postgres,
};

/// The mailboxes that get a bulletin next.
const NEXT_SQL: &str = "SELECT mailbox_id, address, next_uid FROM mailboxes
          WHERE tenant_id = $1 AND mailbox_id > $2 AND bulletins < $3
          ORDER BY mailbox_id LIMIT $4 FOR NO KEY UPDATE";
/// Where many messages are of one bulletin, the planner would read the table from its beginning until it has found
/// enough: in each step past more that is gone.
const BY_INDEX_SQL: &str = "SELECT set_config('enable_seqscan', 'off', true)";
/// Messages that a bulletin became.
const HOLDING_SQL: &str = "SELECT mailbox_id, uid FROM messages
          WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3 LIMIT $4";

impl Postgres {
    pub(super) async fn bulletin_step(
        &self,
        tenant: TenantId,
        id: BulletinId,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<BulletinStep, sqlx::Error> {
        let mut tx = self.scoped(tenant).await?;
        // Another node's step is waited for, and what it did is seen.
        let Some((bulletin, reached)) = held(&mut tx, tenant, id).await? else {
            return Ok(BulletinStep::default());
        };
        let step = match bulletin.state {
            BulletinState::RollingOut | BulletinState::Active if bulletin.has_expired(at) => {
                over(&mut tx, tenant, &bulletin, BulletinState::Ended, at).await?;
                BulletinStep::default()
            }
            BulletinState::RollingOut => roll_out(&mut tx, tenant, &bulletin, reached, limit, at).await?,
            BulletinState::Withdrawing => withdraw(&mut tx, tenant, &bulletin, limit, at).await?,
            BulletinState::Active | BulletinState::Ended | BulletinState::Withdrawn => {
                BulletinStep::default()
            }
        };
        tx.commit().await?;
        Ok(step)
    }
}

/// A mailbox that gets a bulletin.
pub(super) struct Getting {
    pub(super) mailbox: Uuid,
    pub(super) address: Address,
    pub(super) uid: i64,
}

async fn roll_out(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    bulletin: &Bulletin,
    reached: Option<Uuid>,
    limit: u32,
    at: OffsetDateTime,
) -> Result<BulletinStep, sqlx::Error> {
    let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(NEXT_SQL)
        .bind(tenant.as_uuid())
        .bind(reached.unwrap_or(Uuid::nil()))
        .bind(bulletin.number as i64)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    let last = rows.last().map(|(mailbox, ..)| *mailbox);
    let more = rows.len() == limit as usize;
    let getting = rows
        .into_iter()
        .map(|(mailbox, address, uid)| {
            let address = Address::try_from(address.as_str()).map_err(|_| undecodable(corrupt("address")))?;
            Ok(Getting { mailbox, address, uid })
        })
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    give(tx, tenant, bulletin, &getting, at).await?;
    sqlx::query(
        "UPDATE bulletins SET reached = coalesce($3, reached), delivered = delivered + $4
          WHERE tenant_id = $1 AND bulletin_id = $2",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.id.as_uuid())
    .bind(last)
    .bind(getting.len() as i64)
    .execute(&mut **tx)
    .await?;
    match rolled_out(bulletin) {
        _ if more => {}
        BulletinState::Active => {
            sqlx::query("UPDATE bulletins SET state = 'active' WHERE tenant_id = $1 AND bulletin_id = $2")
                .bind(tenant.as_uuid())
                .bind(bulletin.id.as_uuid())
                .execute(&mut **tx)
                .await?;
        }
        end => over(tx, tenant, bulletin, end, at).await?,
    }
    Ok(BulletinStep { rows: getting.len() as u64, more })
}

/// Puts a bulletin into mailboxes that are held. Whatever their quotas: the operator's word is not the owner's mail.
pub(super) async fn give(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    bulletin: &Bulletin,
    to: &[Getting],
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    if to.is_empty() {
        return Ok(());
    }
    let mailboxes: Vec<Uuid> = to.iter().map(|getting| getting.mailbox).collect();
    let sizes: Vec<_> = to.iter().map(|getting| bulletin.octets_for(&getting.address)).collect();
    let octets: Vec<i64> = sizes.iter().map(|size| size.ascii as i64).collect();
    sqlx::query(
        "INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets, header_octets,
                               received_at, digest, delivered_to, ascii_extra)
         SELECT $1, r.mailbox, r.uid, $2, $3, $4, r.octets, $5, $6, $7, r.delivered_to, r.ascii_extra
           FROM unnest($8::uuid[], $9::bigint[], $10::bigint[], $11::text[], $12::bigint[])
                AS r (mailbox, uid, octets, delivered_to, ascii_extra)",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .bind(bulletin.extent.length as i64)
    .bind(bulletin.header_octets as i64)
    .bind(at)
    .bind(bulletin.digest.0.as_slice())
    .bind(&mailboxes)
    .bind(to.iter().map(|getting| getting.uid).collect::<Vec<_>>())
    .bind(&octets)
    .bind(to.iter().map(|getting| getting.address.as_str()).collect::<Vec<_>>())
    .bind(sizes.iter().map(|size| size.ascii_extra).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "UPDATE mailboxes b
            SET next_uid = b.next_uid + 1, message_count = b.message_count + 1, octets = b.octets + r.octets
           FROM unnest($2::uuid[], $3::bigint[]) AS r (mailbox, octets)
          WHERE b.tenant_id = $1 AND b.mailbox_id = r.mailbox",
    )
    .bind(tenant.as_uuid())
    .bind(&mailboxes)
    .bind(&octets)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes a bulletin from mailboxes, and from what is kept of deleted messages: nobody shall restore it. What a session's
/// commit deletes in this moment is left to it.
async fn withdraw(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    bulletin: &Bulletin,
    limit: u32,
    at: OffsetDateTime,
) -> Result<BulletinStep, sqlx::Error> {
    sqlx::query(BY_INDEX_SQL).execute(&mut **tx).await?;
    let holding: Vec<(Uuid, i64)> = sqlx::query_as(HOLDING_SQL)
        .bind(tenant.as_uuid())
        .bind(bulletin.extent.pack.as_uuid())
        .bind(bulletin.extent.offset as i64)
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?;
    let (mailboxes, uids): (Vec<Uuid>, Vec<i64>) = holding.into_iter().unzip();
    // The mailboxes' rows first, in their order, as a delivery does.
    sqlx::query(
        "SELECT FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = ANY ($2) ORDER BY mailbox_id FOR NO KEY UPDATE",
    )
    .bind(tenant.as_uuid())
    .bind(&mailboxes)
    .execute(&mut **tx)
    .await?;
    let removed: i64 = sqlx::query_scalar(
        "WITH free AS (
             SELECT m.mailbox_id, m.uid FROM messages m
               JOIN unnest($2::uuid[], $3::bigint[]) AS r (mailbox, uid)
                 ON m.mailbox_id = r.mailbox AND m.uid = r.uid
              WHERE m.tenant_id = $1
                FOR UPDATE OF m SKIP LOCKED
         ), gone AS (
             DELETE FROM messages m USING free f
              WHERE m.tenant_id = $1 AND m.mailbox_id = f.mailbox_id AND m.uid = f.uid
          RETURNING m.mailbox_id, m.octets
         ), counted AS (
             UPDATE mailboxes b
                SET message_count = b.message_count - s.messages, octets = b.octets - s.octets
               FROM (SELECT g.mailbox_id, count(*) AS messages, sum(g.octets) AS octets
                       FROM gone g GROUP BY g.mailbox_id) s
              WHERE b.tenant_id = $1 AND b.mailbox_id = s.mailbox_id
         )
         SELECT count(*) FROM gone",
    )
    .bind(tenant.as_uuid())
    .bind(&mailboxes)
    .bind(&uids)
    .fetch_one(&mut **tx)
    .await?;
    let forgotten: i64 = sqlx::query_scalar(
        "WITH free AS (
             SELECT mailbox_id, uid FROM deleted_messages
              WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3 LIMIT $4
                FOR UPDATE SKIP LOCKED
         ), gone AS (
             DELETE FROM deleted_messages d USING free f
              WHERE d.tenant_id = $1 AND d.mailbox_id = f.mailbox_id AND d.uid = f.uid
          RETURNING 1
         )
         SELECT count(*) FROM gone",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .bind(i64::from(limit))
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query("UPDATE bulletins SET removed = removed + $3 WHERE tenant_id = $1 AND bulletin_id = $2")
        .bind(tenant.as_uuid())
        .bind(bulletin.id.as_uuid())
        .bind(removed)
        .execute(&mut **tx)
        .await?;
    let left: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM messages WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3)
             OR EXISTS (SELECT FROM deleted_messages
                         WHERE tenant_id = $1 AND pack_id = $2 AND pack_offset = $3)",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .fetch_one(&mut **tx)
    .await?;
    if !left {
        over(tx, tenant, bulletin, BulletinState::Withdrawn, at).await?;
    }
    Ok(BulletinStep { rows: (removed + forgotten) as u64, more: left })
}

/// The bulletin is over: from now on only rows of mailboxes keep its entry alive, if any do.
async fn over(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    bulletin: &Bulletin,
    state: BulletinState,
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE bulletins SET state = $3, ended_at = $4 WHERE tenant_id = $1 AND bulletin_id = $2")
        .bind(tenant.as_uuid())
        .bind(bulletin.id.as_uuid())
        .bind(state.as_str())
        .bind(at)
        .execute(&mut **tx)
        .await?;
    sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets) VALUES ($1, $2, $3)")
        .bind(tenant.as_uuid())
        .bind(bulletin.extent.pack.as_uuid())
        .bind(bulletin.extent.length as i64)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod plans;
