//! Aliases.

use maildrop::{
    Actor, Alias, AliasAddress, TenantId,
    port::{Conflict, IndexError},
};
use time::OffsetDateTime;

use super::{conflict, domains::own_domain, mailboxes::mailbox_id, undecodable};
use crate::{
    postgres::{
        Postgres,
        scoped::{Audit, json},
    },
    rows::AliasRow,
};

impl Postgres {
    pub(super) async fn create_alias(
        &self,
        tenant: TenantId,
        alias: &Alias,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let address = alias.address.to_string();
        let created = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                // Held alone: no mailbox of the address may be made meanwhile.
                sqlx::query("SELECT FROM domains WHERE tenant_id = $1 AND name = $2 FOR NO KEY UPDATE")
                    .bind(tenant.as_uuid())
                    .bind(alias.address.domain())
                    .execute(&mut *tx)
                    .await?;
                if !own_domain(&mut tx, tenant, alias.address.domain()).await? {
                    return Ok(Err(Conflict::ForeignDomain));
                }
                if let AliasAddress::One(address) = &alias.address
                    && mailbox_id(&mut tx, tenant, address).await?.is_some()
                {
                    return Ok(Err(Conflict::Address));
                }
                let Some(mailbox) = mailbox_id(&mut tx, tenant, &alias.mailbox).await? else {
                    return Ok(Err(Conflict::AliasMailbox));
                };
                sqlx::query(
                    "INSERT INTO aliases (tenant_id, address, mailbox_id, created_at) VALUES ($1, $2, $3, $4)",
                )
                .bind(tenant.as_uuid())
                .bind(&address)
                .bind(mailbox)
                .bind(alias.created_at)
                .execute(&mut *tx)
                .await?;
                Audit {
                    tenant: Some(tenant),
                    actor,
                    at: alias.created_at,
                    action: "alias.create",
                    target: &address,
                    before: None,
                    after: json(alias)?,
                }
                .write(&mut tx)
                .await?;
                tx.commit().await?;
                Ok(Ok(()))
            })
            .await
            .map_err(|error| conflict(error, Conflict::Address))?;
        created.map_err(IndexError::Conflict)
    }

    pub(super) async fn alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
    ) -> Result<Option<Alias>, IndexError> {
        let address = address.to_string();
        let row: Option<AliasRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT a.address, b.address AS mailbox, a.created_at
                       FROM aliases a
                       JOIN mailboxes b ON b.tenant_id = a.tenant_id AND b.mailbox_id = a.mailbox_id
                      WHERE a.tenant_id = $1 AND a.address = $2",
                )
                .bind(tenant.as_uuid())
                .bind(&address)
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_aliases(
        &self,
        tenant: TenantId,
        after: Option<&AliasAddress>,
        limit: u32,
    ) -> Result<Vec<Alias>, IndexError> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        let rows: Vec<AliasRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT a.address, b.address AS mailbox, a.created_at
                       FROM aliases a
                       JOIN mailboxes b ON b.tenant_id = a.tenant_id AND b.mailbox_id = a.mailbox_id
                      WHERE a.tenant_id = $1 AND a.address COLLATE \"C\" > $2
                      ORDER BY a.address COLLATE \"C\" LIMIT $3",
                )
                .bind(tenant.as_uuid())
                .bind(&after)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn delete_alias(
        &self,
        tenant: TenantId,
        address: &AliasAddress,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let address = address.to_string();
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let row: Option<AliasRow> = sqlx::query_as(
                "DELETE FROM aliases a USING mailboxes b
                  WHERE a.tenant_id = $1 AND a.address = $2
                    AND b.tenant_id = a.tenant_id AND b.mailbox_id = a.mailbox_id
              RETURNING a.address, b.address AS mailbox, a.created_at",
            )
            .bind(tenant.as_uuid())
            .bind(&address)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let before = Alias::try_from(row).map_err(undecodable)?;
            let (action, target) = ("alias.delete", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target, before: json(&before)?, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}
