//! Domains.

use maildrop::{
    Actor, Domain, DomainName, TenantId,
    port::{Conflict, IndexError},
};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;

use super::{conflict, undecodable};
use crate::{
    postgres::{
        Postgres,
        scoped::{Audit, enter, json},
    },
    rows::DomainRow,
    words::domains_above,
};

/// The transaction-level advisory lock that creations of domains hold: "domain" in ASCII. No other is taken.
const DOMAIN_CREATION: i64 = 0x646f_6d61_696e;

impl Postgres {
    pub(super) async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let alias_of = domain.alias_of.as_ref().map(DomainName::as_str);
        let created = self
            .once(|| async {
                let mut tx = self.unscoped().await?;
                // One at a time, to the end of the transaction: of two that lie within each other neither would see
                // the other.
                sqlx::query("SELECT pg_advisory_xact_lock($1)")
                    .bind(DOMAIN_CREATION)
                    .execute(&mut *tx)
                    .await?;
                if !nested && lies_with_another(&mut tx, tenant, domain).await? {
                    return Ok(Err(Conflict::DomainName));
                }
                enter(&mut tx, tenant).await?;
                if let Some(alias_of) = alias_of {
                    // Held still: it must not become an alias, or vanish, meanwhile.
                    let good: Option<bool> = sqlx::query_scalar(
                        "SELECT alias_of IS NULL FROM domains WHERE tenant_id = $1 AND name = $2 FOR UPDATE",
                    )
                    .bind(tenant.as_uuid())
                    .bind(alias_of)
                    .fetch_optional(&mut *tx)
                    .await?;
                    if good != Some(true) {
                        return Ok(Err(Conflict::AliasDomain));
                    }
                }
                sqlx::query(
                    "INSERT INTO domains (tenant_id, name, alias_of, created_at) VALUES ($1, $2, $3, $4)",
                )
                .bind(tenant.as_uuid())
                .bind(domain.name.as_str())
                .bind(alias_of)
                .bind(domain.created_at)
                .execute(&mut *tx)
                .await?;
                Audit {
                    tenant: Some(tenant),
                    actor,
                    at: domain.created_at,
                    action: "domain.create",
                    target: domain.name.as_str(),
                    before: None,
                    after: json(domain)?,
                }
                .write(&mut tx)
                .await?;
                tx.commit().await?;
                Ok(Ok(()))
            })
            .await
            .map_err(|error| conflict(error, Conflict::DomainName))?;
        created.map_err(IndexError::Conflict)
    }

    pub(super) async fn domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
    ) -> Result<Option<Domain>, IndexError> {
        let row: Option<DomainRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT name, alias_of, created_at FROM domains WHERE tenant_id = $1 AND name = $2",
                )
                .bind(tenant.as_uuid())
                .bind(name.as_str())
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        let rows: Vec<DomainRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT name, alias_of, created_at FROM domains
                      WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3",
                )
                .bind(tenant.as_uuid())
                .bind(after.map_or("", DomainName::as_str))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let deleted = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                // The row's lock keeps mailboxes from being created under it meanwhile.
                let row: Option<DomainRow> = sqlx::query_as(
                    "SELECT name, alias_of, created_at FROM domains
                      WHERE tenant_id = $1 AND name = $2 FOR UPDATE",
                )
                .bind(tenant.as_uuid())
                .bind(name.as_str())
                .fetch_optional(&mut *tx)
                .await?;
                let Some(row) = row else { return Ok(Some(false)) };
                let before = Domain::try_from(row).map_err(undecodable)?;
                let used: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM mailboxes
                                     WHERE tenant_id = $1 AND domain = $2)
                         OR EXISTS (SELECT FROM aliases
                                     WHERE tenant_id = $1 AND split_part(address, '@', -1) = $2)
                         OR EXISTS (SELECT FROM domains WHERE tenant_id = $1 AND alias_of = $2)",
                )
                .bind(tenant.as_uuid())
                .bind(name.as_str())
                .fetch_one(&mut *tx)
                .await?;
                if used {
                    return Ok(None);
                }
                sqlx::query("DELETE FROM domains WHERE tenant_id = $1 AND name = $2")
                    .bind(tenant.as_uuid())
                    .bind(name.as_str())
                    .execute(&mut *tx)
                    .await?;
                let (action, target) = ("domain.delete", name.as_str());
                Audit {
                    tenant: Some(tenant),
                    actor,
                    at,
                    action,
                    target,
                    before: json(&before)?,
                    after: None,
                }
                .write(&mut tx)
                .await?;
                tx.commit().await?;
                Ok(Some(true))
            })
            .await?;
        deleted.ok_or(IndexError::Conflict(Conflict::DomainInUse))
    }
}

pub(super) async fn own_domain(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    domain: &str,
) -> Result<bool, sqlx::Error> {
    let found: Option<i32> = sqlx::query_scalar(
        "SELECT 1 FROM domains WHERE tenant_id = $1 AND name = $2 AND alias_of IS NULL FOR SHARE",
    )
    .bind(tenant.as_uuid())
    .bind(domain)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(found.is_some())
}

/// Whether the domain lies under another tenant's, or over it. Asked of all tenants: whose domain is the nearest to
/// a host decides whose host it is.
async fn lies_with_another(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    domain: &Domain,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM domains WHERE tenant_id <> $1 AND (name = ANY ($2) OR name LIKE $3))",
    )
    .bind(tenant.as_uuid())
    .bind(domains_above(domain.name.as_str()))
    .bind(format!("%.{}", domain.name))
    .fetch_one(&mut **tx)
    .await
}
