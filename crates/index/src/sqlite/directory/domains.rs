//! Domains.

use maildrop::{
    Actor, Domain, DomainName, TenantId,
    port::{Conflict, IndexError},
};
use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::{conflict, undecodable};
use crate::{
    error::index_error,
    rows::DomainRow,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
    words::domains_above,
};

impl Sqlite {
    pub(super) async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let others: Vec<String> = sqlx::query_scalar("SELECT name FROM domains WHERE tenant_id <> ?")
                .bind(tenant.as_uuid())
                .fetch_all(&mut *tx)
                .await?;
            let meets = |other: &String| {
                domains_above(domain.name.as_str()).contains(&other.as_str())
                    || domains_above(other).contains(&domain.name.as_str())
            };
            if !nested && others.iter().any(meets) {
                return Ok(Err(Conflict::DomainName));
            }
            if let Some(alias_of) = &domain.alias_of
                && !own_domain(&mut tx, tenant, alias_of.as_str()).await?
            {
                return Ok(Err(Conflict::AliasDomain));
            }
            sqlx::query("INSERT INTO domains (tenant_id, name, alias_of, created_at) VALUES (?, ?, ?, ?)")
                .bind(tenant.as_uuid())
                .bind(domain.name.as_str())
                .bind(domain.alias_of.as_ref().map(DomainName::as_str))
                .bind(micros(domain.created_at))
                .execute(&mut *tx)
                .await?;
            let (at, target) = (domain.created_at, domain.name.as_str());
            Audit { tenant: Some(tenant), actor, at, action: "domain.create", target }
                .write(&mut tx, NOTHING, Some(domain))
                .await?;
            tx.commit().await?;
            Ok(Ok(()))
        };
        run.await.map_err(|error| conflict(error, Conflict::DomainName))?.map_err(IndexError::Conflict)
    }

    pub(super) async fn domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
    ) -> Result<Option<Domain>, IndexError> {
        let row: Option<DomainRow> =
            sqlx::query_as("SELECT name, alias_of, created_at FROM domains WHERE tenant_id = ? AND name = ?")
                .bind(tenant.as_uuid())
                .bind(name.as_str())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        let rows: Vec<DomainRow> = sqlx::query_as(
            "SELECT name, alias_of, created_at FROM domains
              WHERE tenant_id = ? AND name > ? ORDER BY name LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(after.map_or("", DomainName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn delete_domain(
        &self,
        tenant: TenantId,
        name: &DomainName,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let used: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM mailboxes
                                 WHERE tenant_id = ?1 AND substr(address, -length(?2) - 1) = '@' || ?2)
                     OR EXISTS (SELECT 1 FROM aliases
                                 WHERE tenant_id = ?1 AND substr(address, -length(?2) - 1) = '@' || ?2)
                     OR EXISTS (SELECT 1 FROM domains WHERE tenant_id = ?1 AND alias_of = ?2)",
            )
            .bind(tenant.as_uuid())
            .bind(name.as_str())
            .fetch_one(&mut *tx)
            .await?;
            if used {
                return Ok(None);
            }
            let row: Option<DomainRow> = sqlx::query_as(
                "DELETE FROM domains WHERE tenant_id = ? AND name = ? RETURNING name, alias_of, created_at",
            )
            .bind(tenant.as_uuid())
            .bind(name.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(Some(false)) };
            let before = Domain::try_from(row).map_err(undecodable)?;
            Audit { tenant: Some(tenant), actor, at, action: "domain.delete", target: name.as_str() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some(true))
        };
        run.await.map_err(index_error)?.ok_or(IndexError::Conflict(Conflict::DomainInUse))
    }
}

pub(super) async fn own_domain(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    domain: &str,
) -> Result<bool, sqlx::Error> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM domains WHERE tenant_id = ? AND name = ? AND alias_of IS NULL")
            .bind(tenant.as_uuid())
            .bind(domain)
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}
