//! Certificates of tenants' hosts.

use maildrop::{
    Actor, Certificate, LoginSettings, Policy, SealedKey, TenantId,
    port::{Conflict, HostCertificate, IndexError},
};
use sqlx::{FromRow as _, Postgres as Db, Row as _, Transaction, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::conflict;
use crate::{
    error::index_error,
    postgres::{
        Postgres,
        scoped::{Audit, enter, json},
    },
    rows::CertificateRow,
    words::{domains_above, itself, wildcard},
};

impl Postgres {
    pub(super) async fn all_tenants_certificate(
        &self,
        host: &str,
    ) -> Result<Option<HostCertificate>, IndexError> {
        let above = domains_above(host);
        let row: Option<PgRow> = self
            .repeatable(|| {
                // The nearest domain above the host decides whose it is, whatever was so when the certificate
                // was put here.
                sqlx::query(
                    "SELECT c.tenant_id, t.data_key, c.host, c.chain, c.sealed_key, c.not_after, c.created_at,
                            t.policy, t.login
                       FROM certificates c
                       JOIN tenants t ON t.tenant_id = c.tenant_id AND t.state = 'active'
                      WHERE c.host IN ($1, $2)
                        AND c.tenant_id = (SELECT d.tenant_id FROM domains d WHERE d.name = ANY ($3)
                                            ORDER BY length(d.name) DESC LIMIT 1)
                      ORDER BY c.host = $1 DESC LIMIT 1",
                )
                .bind(host)
                .bind(wildcard(host))
                .bind(&above)
                .fetch_optional(&self.pool)
            })
            .await?;
        let read = |row: PgRow| -> Result<HostCertificate, sqlx::Error> {
            let (policy, login): (Json<Policy>, Json<LoginSettings>) = (row.try_get(7)?, row.try_get(8)?);
            Ok(HostCertificate {
                tenant: TenantId::from_uuid(row.try_get(0)?),
                key: SealedKey(row.try_get(1)?),
                certificate: Certificate {
                    host: row.try_get(2)?,
                    chain: row.try_get(3)?,
                    sealed_key: row.try_get(4)?,
                    not_after: row.try_get(5)?,
                    created_at: row.try_get(6)?,
                },
                policy: policy.0,
                login: login.0,
            })
        };
        row.map(read).transpose().map_err(index_error)
    }

    pub(super) async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let host = certificate.host.as_str();
        let above = domains_above(host);
        let put = self.once(|| async {
            let mut tx = self.unscoped().await?;
            // Asked of all tenants: another one's nearer domain makes the host that one's. It stays while this goes on.
            let owner: Option<Uuid> = sqlx::query_scalar(
                "SELECT tenant_id FROM domains WHERE name = ANY ($1) ORDER BY length(name) DESC LIMIT 1 FOR SHARE",
            )
            .bind(&above)
            .fetch_optional(&mut *tx)
            .await?;
            if owner != Some(tenant.as_uuid()) {
                return Ok(Err(Conflict::ForeignHost));
            }
            take_down_foreign(&mut tx, tenant, certificate).await?;
            enter(&mut tx, tenant).await?;
            let before: Option<CertificateRow> = sqlx::query_as(
                "DELETE FROM certificates WHERE tenant_id = $1 AND host = $2
              RETURNING host, chain, sealed_key, not_after, created_at",
            )
            .bind(tenant.as_uuid())
            .bind(host)
            .fetch_optional(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO certificates (tenant_id, host, chain, sealed_key, not_after, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(tenant.as_uuid())
            .bind(host)
            .bind(&certificate.chain)
            .bind(&certificate.sealed_key)
            .bind(certificate.not_after)
            .bind(certificate.created_at)
            .execute(&mut *tx)
            .await?;
            let new = before.is_none();
            let before = before.map(Certificate::from);
            Audit {
                tenant: Some(tenant),
                actor,
                at: certificate.created_at,
                action: "certificate.put",
                target: host,
                before: before.as_ref().map(json).transpose()?.flatten(),
                after: json(certificate)?,
            }
            .write(&mut tx)
            .await?;
            tx.commit().await?;
            Ok(Ok(new))
        });
        // Another tenant that puts one there in the same moment had the domain when it was asked.
        put.await.map_err(|error| conflict(error, Conflict::ForeignHost))?.map_err(IndexError::Conflict)
    }

    pub(super) async fn certificate(
        &self,
        tenant: TenantId,
        host: &str,
    ) -> Result<Option<Certificate>, IndexError> {
        let row: Option<CertificateRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT host, chain, sealed_key, not_after, created_at FROM certificates
                      WHERE tenant_id = $1 AND host = $2",
                )
                .bind(tenant.as_uuid())
                .bind(host)
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        Ok(row.map(Into::into))
    }

    pub(super) async fn list_certificates(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Certificate>, IndexError> {
        let rows: Vec<CertificateRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT host, chain, sealed_key, not_after, created_at FROM certificates
                      WHERE tenant_id = $1 AND host > $2 ORDER BY host LIMIT $3",
                )
                .bind(tenant.as_uuid())
                .bind(after.unwrap_or_default())
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    pub(super) async fn delete_certificate(
        &self,
        tenant: TenantId,
        host: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let row: Option<CertificateRow> = sqlx::query_as(
                "DELETE FROM certificates WHERE tenant_id = $1 AND host = $2
              RETURNING host, chain, sealed_key, not_after, created_at",
            )
            .bind(tenant.as_uuid())
            .bind(host)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let before = json(&Certificate::from(row))?;
            let (action, target) = ("certificate.delete", host);
            Audit { tenant: Some(tenant), actor, at, action, target, before, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}

/// Takes down what another tenant left at the host, from when the domain was its own: it is good for nobody. That
/// tenant's audit log says so, and not who has the host now.
async fn take_down_foreign(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    certificate: &Certificate,
) -> Result<(), sqlx::Error> {
    let host = certificate.host.as_str();
    let foreign: Option<PgRow> = sqlx::query(
        "DELETE FROM certificates WHERE host = $1 AND tenant_id <> $2
      RETURNING tenant_id, host, chain, sealed_key, not_after, created_at",
    )
    .bind(host)
    .bind(tenant.as_uuid())
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = foreign else { return Ok(()) };
    let before = Certificate::from(CertificateRow::from_row(&row)?);
    Audit {
        tenant: Some(TenantId::from_uuid(row.try_get(0)?)),
        actor: &itself(),
        at: certificate.created_at,
        action: "certificate.delete",
        target: host,
        before: json(&before)?,
        after: None,
    }
    .write(tx)
    .await
}
