//! Bulletins for mailboxes that are created after them.

use maildrop::{Bulletin, Mailbox, TenantId};
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::steps::give;
use crate::{
    bulletins::{BulletinRow, bulletin_columns},
    error::undecodable,
    sqlite::maildrops::micros,
};

/// What mailboxes that are created in this transaction get, and how many bulletins there have been.
pub(in crate::sqlite) struct Welcome {
    pub(in crate::sqlite) number: i64,
    bulletins: Vec<Bulletin>,
}

impl Welcome {
    pub(in crate::sqlite) async fn read(
        connection: &mut SqliteConnection,
        tenant: TenantId,
        at: OffsetDateTime,
    ) -> Result<Self, sqlx::Error> {
        let number: Option<i64> = sqlx::query_scalar("SELECT bulletins FROM tenants WHERE tenant_id = ?")
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *connection)
            .await?;
        let number = number.unwrap_or(0);
        if number == 0 {
            return Ok(Self { number, bulletins: Vec::new() });
        }
        let rows: Vec<BulletinRow> = sqlx::query_as(concat!(
            "SELECT ",
            bulletin_columns!(),
            " FROM bulletins
               WHERE tenant_id = ? AND new_mailboxes AND state IN ('rolling_out', 'active')
                 AND (expires_at IS NULL OR expires_at > ?)
               ORDER BY number"
        ))
        .bind(tenant.as_uuid())
        .bind(micros(at))
        .fetch_all(connection)
        .await?;
        let bulletins = rows.into_iter().map(|row| Bulletin::try_from(row).map_err(undecodable));
        Ok(Self { number, bulletins: bulletins.collect::<Result<_, _>>()? })
    }

    /// Puts them into a mailbox just created.
    pub(in crate::sqlite) async fn give(
        &self,
        connection: &mut SqliteConnection,
        tenant: TenantId,
        mailbox: &mut Mailbox,
        at: OffsetDateTime,
    ) -> Result<(), sqlx::Error> {
        for (place, bulletin) in self.bulletins.iter().enumerate() {
            let uid = place as i64 + 1;
            give(connection, tenant, bulletin, mailbox.id.as_uuid(), &mailbox.address, uid, at).await?;
            sqlx::query(
                "UPDATE bulletins SET delivered = delivered + 1 WHERE tenant_id = ? AND bulletin_id = ?",
            )
            .bind(tenant.as_uuid())
            .bind(bulletin.id.as_uuid())
            .execute(&mut *connection)
            .await?;
            mailbox.message_count += 1;
            mailbox.octets += bulletin.octets_for(&mailbox.address).ascii;
        }
        Ok(())
    }
}
