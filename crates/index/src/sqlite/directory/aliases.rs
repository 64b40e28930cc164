//! Aliases.

use maildrop::{
    Actor, Alias, AliasAddress, TenantId,
    port::{Conflict, IndexError},
};
use time::OffsetDateTime;

use super::{conflict, domains::own_domain, mailboxes::mailbox};
use crate::{
    error::index_error,
    rows::AliasRow,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
};

impl Sqlite {
    pub(super) async fn create_alias(
        &self,
        tenant: TenantId,
        alias: &Alias,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let address = alias.address.to_string();
        let run = async {
            let mut tx = self.writer.begin().await?;
            if !own_domain(&mut tx, tenant, alias.address.domain()).await? {
                return Ok(Err(Conflict::ForeignDomain));
            }
            if let AliasAddress::One(address) = &alias.address
                && mailbox(&mut tx, tenant, address).await?.is_some()
            {
                return Ok(Err(Conflict::Address));
            }
            let Some(mailbox) = mailbox(&mut tx, tenant, &alias.mailbox).await? else {
                return Ok(Err(Conflict::AliasMailbox));
            };
            sqlx::query(
                "INSERT INTO aliases (tenant_id, address, mailbox_id, created_at) VALUES (?, ?, ?, ?)",
            )
            .bind(tenant.as_uuid())
            .bind(&address)
            .bind(mailbox.id.as_uuid())
            .bind(micros(alias.created_at))
            .execute(&mut *tx)
            .await?;
            let (at, action, target) = (alias.created_at, "alias.create", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target }
                .write(&mut tx, NOTHING, Some(alias))
                .await?;
            tx.commit().await?;
            Ok(Ok(()))
        };
        run.await.map_err(|error| conflict(error, Conflict::Address))?.map_err(IndexError::Conflict)
    }

    pub(super) async fn alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
    ) -> Result<Option<Alias>, IndexError> {
        let row: Option<AliasRow> = sqlx::query_as(
            "SELECT a.address, b.address AS mailbox, a.created_at
               FROM aliases a JOIN mailboxes b ON b.tenant_id = a.tenant_id AND b.mailbox_id = a.mailbox_id
              WHERE a.tenant_id = ? AND a.address = ?",
        )
        .bind(tenant.as_uuid())
        .bind(address.to_string())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_aliases(
        &self,
        tenant: TenantId,
        after: Option<&AliasAddress>,
        limit: u32,
    ) -> Result<Vec<Alias>, IndexError> {
        let rows: Vec<AliasRow> = sqlx::query_as(
            "SELECT a.address, b.address AS mailbox, a.created_at
               FROM aliases a JOIN mailboxes b ON b.tenant_id = a.tenant_id AND b.mailbox_id = a.mailbox_id
              WHERE a.tenant_id = ? AND a.address > ? ORDER BY a.address LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(after.map(ToString::to_string).unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn delete_alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let Some(before) = self.alias(tenant, address).await? else { return Ok(false) };
        let address = address.to_string();
        let run = async {
            let mut tx = self.writer.begin().await?;
            let gone = sqlx::query("DELETE FROM aliases WHERE tenant_id = ? AND address = ?")
                .bind(tenant.as_uuid())
                .bind(&address)
                .execute(&mut *tx)
                .await?;
            if gone.rows_affected() == 0 {
                return Ok(false);
            }
            Audit { tenant: Some(tenant), actor, at, action: "alias.delete", target: &address }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
    }
}
