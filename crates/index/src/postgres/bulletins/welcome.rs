//! Bulletins for mailboxes that are created after them.

use maildrop::{Bulletin, Mailbox, TenantId};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;

use super::steps::{Getting, give};
use crate::{
    bulletins::{BulletinRow, bulletin_columns},
    error::undecodable,
};

/// What mailboxes that are created in this transaction get, and how many bulletins there have been.
pub(in crate::postgres) struct Welcome {
    pub(in crate::postgres) number: i64,
    bulletins: Vec<Bulletin>,
}

impl Welcome {
    /// To be read before the first mailbox is created: whoever posts a bulletin, or does a step of one, waits from here
    /// on until the transaction ends.
    pub(in crate::postgres) async fn read(
        tx: &mut Transaction<'_, Db>,
        tenant: TenantId,
        at: OffsetDateTime,
    ) -> Result<Self, sqlx::Error> {
        let number: Option<i64> =
            sqlx::query_scalar("SELECT bulletins FROM tenants WHERE tenant_id = $1 FOR KEY SHARE")
                .bind(tenant.as_uuid())
                .fetch_optional(&mut **tx)
                .await?;
        let number = number.unwrap_or(0);
        if number == 0 {
            return Ok(Self { number, bulletins: Vec::new() });
        }
        let rows: Vec<BulletinRow> = sqlx::query_as(concat!(
            "SELECT ",
            bulletin_columns!(),
            " FROM bulletins
               WHERE tenant_id = $1 AND new_mailboxes AND state IN ('rolling_out', 'active')
                 AND (expires_at IS NULL OR expires_at > $2)
               ORDER BY number FOR UPDATE"
        ))
        .bind(tenant.as_uuid())
        .bind(at)
        .fetch_all(&mut **tx)
        .await?;
        let bulletins = rows.into_iter().map(|row| Bulletin::try_from(row).map_err(undecodable));
        Ok(Self { number, bulletins: bulletins.collect::<Result<_, _>>()? })
    }

    /// Puts them into mailboxes just created.
    pub(in crate::postgres) async fn give(
        &self,
        tx: &mut Transaction<'_, Db>,
        tenant: TenantId,
        mailboxes: &mut [Mailbox],
        at: OffsetDateTime,
    ) -> Result<(), sqlx::Error> {
        if mailboxes.is_empty() {
            return Ok(());
        }
        for (place, bulletin) in self.bulletins.iter().enumerate() {
            let getting: Vec<Getting> = mailboxes
                .iter()
                .map(|mailbox| Getting {
                    mailbox: mailbox.id.as_uuid(),
                    address: mailbox.address.clone(),
                    uid: place as i64 + 1,
                })
                .collect();
            give(tx, tenant, bulletin, &getting, at).await?;
            sqlx::query(
                "UPDATE bulletins SET delivered = delivered + $3 WHERE tenant_id = $1 AND bulletin_id = $2",
            )
            .bind(tenant.as_uuid())
            .bind(bulletin.id.as_uuid())
            .bind(getting.len() as i64)
            .execute(&mut **tx)
            .await?;
            for mailbox in &mut *mailboxes {
                mailbox.message_count += 1;
                mailbox.octets += bulletin.octets_for(&mailbox.address).ascii;
            }
        }
        Ok(())
    }
}
