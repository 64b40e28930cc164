//! Tenants and what is set of them.

use maildrop::{
    Actor, LoginSettings, State, Tenant, TenantId, TenantLogin, TenantName,
    port::{Conflict, IndexError, TenantUpdate},
};
use sqlx::{Sqlite as Db, Transaction, types::Json};
use time::OffsetDateTime;

use super::{conflict, undecodable};
use crate::{
    error::index_error,
    rows::{LoginRow, TenantRow, tenant_columns},
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
    words::state_word,
};

impl Sqlite {
    pub(super) async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> = sqlx::query_as(concat!(
            "SELECT ",
            tenant_columns!(),
            " FROM tenants WHERE tenant_id = ? AND state <> 'deleting'"
        ))
        .bind(id.as_uuid())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> =
            sqlx::query_as(concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE name = ?"))
                .bind(name.as_str())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError> {
        let rows: Vec<TenantRow> = sqlx::query_as(concat!(
            "SELECT ",
            tenant_columns!(),
            " FROM tenants WHERE name > ? ORDER BY name LIMIT ?"
        ))
        .bind(after.map_or("", TenantName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            sqlx::query("INSERT INTO tenants (tenant_id, name, data_key, created_at) VALUES (?, ?, ?, ?)")
                .bind(tenant.id.as_uuid())
                .bind(tenant.name.as_str())
                .bind(&tenant.key.0)
                .bind(micros(tenant.created_at))
                .execute(&mut *tx)
                .await?;
            set_tenant(&mut tx, tenant).await?;
            Audit {
                tenant: Some(tenant.id),
                actor,
                at: tenant.created_at,
                action: "tenant.create",
                target: tenant.name.as_str(),
            }
            .write(&mut tx, NOTHING, Some(tenant))
            .await?;
            tx.commit().await
        };
        run.await.map_err(|error| conflict(error, Conflict::TenantName))
    }

    pub(super) async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &TenantUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Tenant>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<TenantRow> = sqlx::query_as(concat!(
                "SELECT ",
                tenant_columns!(),
                " FROM tenants WHERE tenant_id = ? AND state <> 'deleting'"
            ))
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(Ok(None)) };
            let before = Tenant::try_from(row).map_err(undecodable)?;
            if update.if_revision.is_some_and(|revision| revision != before.revision) {
                return Ok(Err(Conflict::Revision));
            }
            let settings = update.settings.clone().unwrap_or_else(|| before.settings.clone());
            let state = update.state.unwrap_or(before.state);
            let after = Tenant { settings, state, revision: before.revision + 1, ..before.clone() };
            set_tenant(&mut tx, &after).await?;
            let action = match (before.state, state) {
                (State::Active, State::Suspended) => "tenant.suspend",
                (State::Suspended, State::Active) => "tenant.resume",
                _ => "tenant.update",
            };
            Audit { tenant: Some(tenant), actor, at, action, target: after.name.as_str() }
                .write(&mut tx, Some(&before), Some(&after))
                .await?;
            tx.commit().await?;
            Ok(Ok(Some(after)))
        };
        let updated = run.await.map_err(index_error)?.map_err(IndexError::Conflict)?;
        if updated.as_ref().is_some_and(|tenant| tenant.state != State::Active) {
            self.locks.end(tenant, None);
        }
        Ok(updated)
    }
}

impl Sqlite {
    pub(super) async fn tenant_login(&self, tenant: TenantId) -> Result<Option<TenantLogin>, IndexError> {
        let row: Option<LoginRow> = sqlx::query_as(
            "SELECT login, login_secrets, login_version FROM tenants
              WHERE tenant_id = ? AND state <> 'deleting'",
        )
        .bind(tenant.as_uuid())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(row.map(Into::into))
    }

    pub(super) async fn set_tenant_login(
        &self,
        tenant: TenantId,
        settings: &LoginSettings,
        secrets: Option<&[u8]>,
        if_version: Option<i64>,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<i64>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<(String, Json<LoginSettings>, i64)> = sqlx::query_as(
                "SELECT name, login, login_version FROM tenants WHERE tenant_id = ? AND state <> 'deleting'",
            )
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some((name, Json(before), version)) = row else { return Ok(Ok(None)) };
            if if_version.is_some_and(|wanted| wanted != version) {
                return Ok(Err(Conflict::Revision));
            }
            // With the tenant's revision what nodes remember of logins goes, too.
            sqlx::query(
                "UPDATE tenants SET login = ?2, login_secrets = ?3, login_version = login_version + 1,
                                    revision = revision + 1
                  WHERE tenant_id = ?1",
            )
            .bind(tenant.as_uuid())
            .bind(Json(settings))
            .bind(secrets)
            .execute(&mut *tx)
            .await?;
            let (action, target) = ("tenant.set_login", name.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target }
                .write(&mut tx, Some(&before), Some(settings))
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Ok(Some(version + 1)))
        };
        run.await.map_err(index_error)?.map_err(IndexError::Conflict)
    }
}

/// Writes what is set of a tenant to its row.
async fn set_tenant(tx: &mut Transaction<'_, Db>, tenant: &Tenant) -> Result<(), sqlx::Error> {
    let settings = &tenant.settings;
    sqlx::query(
        "UPDATE tenants
            SET state = ?2, revision = ?3, quota_octets = ?4, quota_messages = ?5, over_allocation_percent = ?6,
                mailbox_quota_octets = ?7, mailbox_quota_messages = ?8, limits = ?9, policy = ?10
          WHERE tenant_id = ?1",
    )
    .bind(tenant.id.as_uuid())
    .bind(state_word(tenant.state))
    .bind(tenant.revision)
    .bind(settings.quota_octets.map(|n| n as i64))
    .bind(settings.quota_messages.map(|n| n as i64))
    .bind(settings.over_allocation_percent)
    .bind(settings.mailbox_quota_octets.map(|n| n as i64))
    .bind(settings.mailbox_quota_messages.map(|n| n as i64))
    .bind(Json(&settings.limits))
    .bind(Json(&settings.policy))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
