//! The steps in which bulletins reach mailboxes, and are taken from them.

use maildrop::{Address, Bulletin, BulletinId, BulletinState, MailboxId, TenantId, port::BulletinStep};
use sqlx::SqliteConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::one;
use crate::{
    bulletins::rolled_out,
    error::{corrupt, undecodable},
    sqlite::maildrops::{count_in, micros},
};

pub(super) async fn step(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    id: BulletinId,
    limit: u32,
    at: OffsetDateTime,
) -> Result<BulletinStep, sqlx::Error> {
    let Some((bulletin, reached)) = one(connection, tenant, id).await? else {
        return Ok(BulletinStep::default());
    };
    match bulletin.state {
        BulletinState::RollingOut | BulletinState::Active if bulletin.has_expired(at) => {
            over(connection, tenant, &bulletin, BulletinState::Ended, at).await?;
            Ok(BulletinStep::default())
        }
        BulletinState::RollingOut => roll_out(connection, tenant, &bulletin, reached, limit, at).await,
        BulletinState::Withdrawing => withdraw(connection, tenant, &bulletin, limit, at).await,
        BulletinState::Active | BulletinState::Ended | BulletinState::Withdrawn => {
            Ok(BulletinStep::default())
        }
    }
}

async fn roll_out(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    bulletin: &Bulletin,
    reached: Option<Uuid>,
    limit: u32,
    at: OffsetDateTime,
) -> Result<BulletinStep, sqlx::Error> {
    let rows: Vec<(Uuid, String, i64)> = sqlx::query_as(
        "SELECT mailbox_id, address, next_uid FROM mailboxes
          WHERE tenant_id = ? AND mailbox_id > ? AND bulletins < ? ORDER BY mailbox_id LIMIT ?",
    )
    .bind(tenant.as_uuid())
    .bind(reached.unwrap_or(Uuid::nil()))
    .bind(bulletin.number as i64)
    .bind(i64::from(limit))
    .fetch_all(&mut *connection)
    .await?;
    let (given, last) = (rows.len() as u64, rows.last().map(|(mailbox, ..)| *mailbox));
    for (mailbox, address, uid) in rows {
        let address = Address::try_from(address.as_str()).map_err(|_| undecodable(corrupt("address")))?;
        give(connection, tenant, bulletin, mailbox, &address, uid, at).await?;
    }
    let more = given == u64::from(limit);
    let state = if more { BulletinState::RollingOut } else { rolled_out(bulletin) };
    sqlx::query(
        "UPDATE bulletins SET reached = coalesce(?, reached), delivered = delivered + ?
          WHERE tenant_id = ? AND bulletin_id = ?",
    )
    .bind(last)
    .bind(given as i64)
    .bind(tenant.as_uuid())
    .bind(bulletin.id.as_uuid())
    .execute(&mut *connection)
    .await?;
    match state {
        BulletinState::RollingOut => {}
        BulletinState::Active => {
            sqlx::query("UPDATE bulletins SET state = 'active' WHERE tenant_id = ? AND bulletin_id = ?")
                .bind(tenant.as_uuid())
                .bind(bulletin.id.as_uuid())
                .execute(connection)
                .await?;
        }
        end => over(connection, tenant, bulletin, end, at).await?,
    }
    Ok(BulletinStep { rows: given, more })
}

/// Puts a bulletin into a mailbox, whatever its quota: the operator's word is not the owner's mail.
pub(super) async fn give(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    bulletin: &Bulletin,
    mailbox: Uuid,
    address: &Address,
    uid: i64,
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    let octets = bulletin.octets_for(address);
    sqlx::query(
        "INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets, header_octets,
                               received_at, digest, delivered_to, ascii_extra)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox)
    .bind(uid)
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .bind(bulletin.extent.length as i64)
    .bind(octets.ascii as i64)
    .bind(bulletin.header_octets as i64)
    .bind(micros(at))
    .bind(bulletin.digest.0.as_slice())
    .bind(address.as_str())
    .bind(octets.ascii_extra)
    .execute(&mut *connection)
    .await?;
    count_in(connection, tenant, MailboxId::from_uuid(mailbox), octets.ascii as i64).await
}

/// Takes a bulletin from mailboxes, and from what is kept of deleted messages: nobody shall restore it.
async fn withdraw(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    bulletin: &Bulletin,
    limit: u32,
    at: OffsetDateTime,
) -> Result<BulletinStep, sqlx::Error> {
    let removed: Vec<(Uuid, i64)> = sqlx::query_as(
        "DELETE FROM messages WHERE (tenant_id, mailbox_id, uid) IN
         (SELECT tenant_id, mailbox_id, uid FROM messages
           WHERE tenant_id = ? AND pack_id = ? AND pack_offset = ? LIMIT ?)
         RETURNING mailbox_id, octets",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .bind(i64::from(limit))
    .fetch_all(&mut *connection)
    .await?;
    for (mailbox, octets) in &removed {
        sqlx::query(
            "UPDATE mailboxes SET message_count = message_count - 1, octets = octets - ?
              WHERE tenant_id = ? AND mailbox_id = ?",
        )
        .bind(octets)
        .bind(tenant.as_uuid())
        .bind(mailbox)
        .execute(&mut *connection)
        .await?;
    }
    let forgotten = sqlx::query(
        "DELETE FROM deleted_messages WHERE (tenant_id, mailbox_id, uid) IN
         (SELECT tenant_id, mailbox_id, uid FROM deleted_messages
           WHERE tenant_id = ? AND pack_id = ? AND pack_offset = ? LIMIT ?)",
    )
    .bind(tenant.as_uuid())
    .bind(bulletin.extent.pack.as_uuid())
    .bind(bulletin.extent.offset as i64)
    .bind(i64::from(limit))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    sqlx::query("UPDATE bulletins SET removed = removed + ? WHERE tenant_id = ? AND bulletin_id = ?")
        .bind(removed.len() as i64)
        .bind(tenant.as_uuid())
        .bind(bulletin.id.as_uuid())
        .execute(&mut *connection)
        .await?;
    let removed = removed.len() as u64;
    let more = removed == u64::from(limit) || forgotten == u64::from(limit);
    if !more {
        over(connection, tenant, bulletin, BulletinState::Withdrawn, at).await?;
    }
    Ok(BulletinStep { rows: removed + forgotten, more })
}

/// The bulletin is over: from now on only rows of mailboxes keep its entry alive, if any do.
async fn over(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    bulletin: &Bulletin,
    state: BulletinState,
    at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE bulletins SET state = ?, ended_at = ? WHERE tenant_id = ? AND bulletin_id = ?")
        .bind(state.as_str())
        .bind(micros(at))
        .bind(tenant.as_uuid())
        .bind(bulletin.id.as_uuid())
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO pack_garbage (tenant_id, pack_id, octets, at) VALUES (?, ?, ?, ?)")
        .bind(tenant.as_uuid())
        .bind(bulletin.extent.pack.as_uuid())
        .bind(bulletin.extent.length as i64)
        .bind(micros(at))
        .execute(connection)
        .await?;
    Ok(())
}
