//! Certificates of tenants' hosts.

use maildrop::{
    Actor, Certificate, State, TenantId,
    port::{Conflict, HostCertificate, IndexError},
};
use sqlx::{FromRow as _, Row as _, SqliteConnection, sqlite::SqliteRow};
use time::OffsetDateTime;
use uuid::Uuid;

use super::conflict;
use crate::{
    error::index_error,
    rows::CertificateRow,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
    words::{domains_above, itself, wildcard},
};

impl Sqlite {
    pub(super) async fn all_tenants_certificate(
        &self,
        host: &str,
    ) -> Result<Option<HostCertificate>, IndexError> {
        let Some(owner) = self.owner_of(host).await? else { return Ok(None) };
        for host in [Some(host.to_owned()), wildcard(host)].into_iter().flatten() {
            let (Some(tenant), Some(certificate)) =
                (self.tenant(owner).await?, self.certificate(owner, &host).await?)
            else {
                continue;
            };
            if tenant.state == State::Active {
                let login = self.tenant_login(owner).await?.unwrap_or_default().settings;
                let policy = tenant.settings.policy;
                return Ok(Some(HostCertificate {
                    tenant: owner,
                    key: tenant.key,
                    certificate,
                    policy,
                    login,
                }));
            }
        }
        Ok(None)
    }

    pub(super) async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let host = certificate.host.as_str();
        if self.owner_of(host).await? != Some(tenant) {
            return Err(IndexError::Conflict(Conflict::ForeignHost));
        }
        let run = async {
            let mut tx = self.writer.begin().await?;
            take_down_foreign(&mut tx, tenant, certificate).await?;
            let before: Option<CertificateRow> = sqlx::query_as(
                "DELETE FROM certificates WHERE tenant_id = ? AND host = ?
                 RETURNING host, chain, sealed_key, not_after, created_at",
            )
            .bind(tenant.as_uuid())
            .bind(host)
            .fetch_optional(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO certificates (tenant_id, host, chain, sealed_key, not_after, created_at)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(tenant.as_uuid())
            .bind(host)
            .bind(&certificate.chain)
            .bind(&certificate.sealed_key)
            .bind(micros(certificate.not_after))
            .bind(micros(certificate.created_at))
            .execute(&mut *tx)
            .await?;
            let before = before.map(Certificate::from);
            let at = certificate.created_at;
            Audit { tenant: Some(tenant), actor, at, action: "certificate.put", target: host }
                .write(&mut tx, before.as_ref(), Some(certificate))
                .await?;
            tx.commit().await?;
            Ok(before.is_none())
        };
        run.await.map_err(|error| conflict(error, Conflict::ForeignHost))
    }

    pub(super) async fn certificate(
        &self,
        tenant: TenantId,
        host: &str,
    ) -> Result<Option<Certificate>, IndexError> {
        let row: Option<CertificateRow> = sqlx::query_as(
            "SELECT host, chain, sealed_key, not_after, created_at FROM certificates
              WHERE tenant_id = ? AND host = ?",
        )
        .bind(tenant.as_uuid())
        .bind(host)
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(row.map(Into::into))
    }

    pub(super) async fn list_certificates(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Certificate>, IndexError> {
        let rows: Vec<CertificateRow> = sqlx::query_as(
            "SELECT host, chain, sealed_key, not_after, created_at FROM certificates
              WHERE tenant_id = ? AND host > ? ORDER BY host LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(after.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    pub(super) async fn delete_certificate(
        &self,
        tenant: TenantId,
        host: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<CertificateRow> = sqlx::query_as(
                "DELETE FROM certificates WHERE tenant_id = ? AND host = ?
                 RETURNING host, chain, sealed_key, not_after, created_at",
            )
            .bind(tenant.as_uuid())
            .bind(host)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            Audit { tenant: Some(tenant), actor, at, action: "certificate.delete", target: host }
                .write(&mut tx, Some(&Certificate::from(row)), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
    }

    /// The tenant of the nearest domain above a host.
    async fn owner_of(&self, host: &str) -> Result<Option<TenantId>, IndexError> {
        for domain in domains_above(host) {
            let owner: Option<Uuid> = sqlx::query_scalar("SELECT tenant_id FROM domains WHERE name = ?")
                .bind(domain)
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
            if let Some(owner) = owner {
                return Ok(Some(TenantId::from_uuid(owner)));
            }
        }
        Ok(None)
    }
}

/// Takes down what another tenant left at the host, from when the domain was its own: it is good for nobody. That
/// tenant's audit log says so, and not who has the host now.
async fn take_down_foreign(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    certificate: &Certificate,
) -> Result<(), sqlx::Error> {
    let host = certificate.host.as_str();
    let foreign: Option<SqliteRow> = sqlx::query(
        "DELETE FROM certificates WHERE host = ? AND tenant_id <> ?
         RETURNING tenant_id, host, chain, sealed_key, not_after, created_at",
    )
    .bind(host)
    .bind(tenant.as_uuid())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = foreign else { return Ok(()) };
    let before = Certificate::from(CertificateRow::from_row(&row)?);
    let (other, at) = (TenantId::from_uuid(row.try_get(0)?), certificate.created_at);
    Audit { tenant: Some(other), actor: &itself(), at, action: "certificate.delete", target: host }
        .write(connection, Some(&before), NOTHING)
        .await
}
