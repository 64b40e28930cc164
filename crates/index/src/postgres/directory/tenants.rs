//! Tenants and what is set of them.

use maildrop::{
    Actor, LoginSettings, State, Tenant, TenantId, TenantLogin, TenantName,
    port::{Conflict, IndexError, TenantUpdate},
};
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{conflict, end_sessions, undecodable};
use crate::{
    postgres::{
        Postgres,
        scoped::{Audit, json},
    },
    rows::{LoginRow, TenantRow, tenant_columns},
    words::state_word,
};

impl Postgres {
    pub(super) async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> = self
            .repeatable(|| {
                sqlx::query_as(concat!(
                    "SELECT ",
                    tenant_columns!(),
                    " FROM tenants WHERE tenant_id = $1 AND state <> 'deleting'"
                ))
                .bind(id.as_uuid())
                .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> = self
            .repeatable(|| {
                sqlx::query_as(concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE name = $1"))
                    .bind(name.as_str())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    pub(super) async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError> {
        let rows: Vec<TenantRow> = self
            .repeatable(|| {
                sqlx::query_as(concat!(
                    "SELECT ",
                    tenant_columns!(),
                    " FROM tenants WHERE name > $1 ORDER BY name LIMIT $2"
                ))
                .bind(after.map_or("", TenantName::as_str))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    pub(super) async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
        let settings = &tenant.settings;
        self.once(|| async {
            let mut tx = self.scoped(tenant.id).await?;
            sqlx::query(
                "INSERT INTO tenants (tenant_id, name, data_key, created_at, state, quota_octets, quota_messages,
                                      over_allocation_percent, mailbox_quota_octets, mailbox_quota_messages,
                                      limits, policy)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            )
            .bind(tenant.id.as_uuid())
            .bind(tenant.name.as_str())
            .bind(&tenant.key.0)
            .bind(tenant.created_at)
            .bind(state_word(tenant.state))
            .bind(settings.quota_octets.map(|n| n as i64))
            .bind(settings.quota_messages.map(|n| n as i64))
            .bind(settings.over_allocation_percent.map(|n| n as i32))
            .bind(settings.mailbox_quota_octets.map(|n| n as i64))
            .bind(settings.mailbox_quota_messages.map(|n| n as i64))
            .bind(Json(&settings.limits))
            .bind(Json(&settings.policy))
            .execute(&mut *tx)
            .await?;
            Audit {
                tenant: Some(tenant.id),
                actor,
                at: tenant.created_at,
                action: "tenant.create",
                target: tenant.name.as_str(),
                before: None,
                after: json(tenant)?,
            }
            .write(&mut tx)
            .await?;
            tx.commit().await
        })
        .await
        .map_err(|error| conflict(error, Conflict::TenantName))
    }

    pub(super) async fn update_tenant(
        &self,
        tenant: TenantId,
        update: &TenantUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Tenant>, IndexError> {
        let updated = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let row: Option<TenantRow> = sqlx::query_as(concat!(
                    "SELECT ",
                    tenant_columns!(),
                    " FROM tenants WHERE tenant_id = $1 AND state <> 'deleting' FOR UPDATE"
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
                let settings = &after.settings;
                sqlx::query(
                    "UPDATE tenants
                        SET state = $2, revision = $3, quota_octets = $4, quota_messages = $5,
                            over_allocation_percent = $6, mailbox_quota_octets = $7,
                            mailbox_quota_messages = $8, limits = $9, policy = $10
                      WHERE tenant_id = $1",
                )
                .bind(tenant.as_uuid())
                .bind(state_word(state))
                .bind(after.revision)
                .bind(settings.quota_octets.map(|n| n as i64))
                .bind(settings.quota_messages.map(|n| n as i64))
                .bind(settings.over_allocation_percent.map(|n| n as i32))
                .bind(settings.mailbox_quota_octets.map(|n| n as i64))
                .bind(settings.mailbox_quota_messages.map(|n| n as i64))
                .bind(Json(&settings.limits))
                .bind(Json(&settings.policy))
                .execute(&mut *tx)
                .await?;
                if state != State::Active {
                    end_sessions(&mut tx, tenant, None).await?;
                }
                let action = match (before.state, state) {
                    (State::Active, State::Suspended) => "tenant.suspend",
                    (State::Suspended, State::Active) => "tenant.resume",
                    _ => "tenant.update",
                };
                let target = after.name.as_str();
                let (before, after_value) = (json(&before)?, json(&after)?);
                Audit { tenant: Some(tenant), actor, at, action, target, before, after: after_value }
                    .write(&mut tx)
                    .await?;
                tx.commit().await?;
                Ok(Ok(Some(after)))
            })
            .await?;
        updated.map_err(IndexError::Conflict)
    }
}

impl Postgres {
    pub(super) async fn tenant_login(&self, tenant: TenantId) -> Result<Option<TenantLogin>, IndexError> {
        let row: Option<LoginRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT login, login_secrets, login_version FROM tenants
                      WHERE tenant_id = $1 AND state <> 'deleting'",
                )
                .bind(tenant.as_uuid())
                .fetch_optional(&self.pool)
            })
            .await?;
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
        let set = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let row: Option<(String, Json<LoginSettings>, i64)> = sqlx::query_as(
                    "SELECT name, login, login_version FROM tenants
                      WHERE tenant_id = $1 AND state <> 'deleting' FOR UPDATE",
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
                    "UPDATE tenants SET login = $2, login_secrets = $3, login_version = login_version + 1,
                                        revision = revision + 1
                      WHERE tenant_id = $1",
                )
                .bind(tenant.as_uuid())
                .bind(Json(settings))
                .bind(secrets)
                .execute(&mut *tx)
                .await?;
                let (action, target) = ("tenant.set_login", name.as_str());
                let (before, after) = (json(&before)?, json(settings)?);
                Audit { tenant: Some(tenant), actor, at, action, target, before, after }
                    .write(&mut tx)
                    .await?;
                tx.commit().await?;
                Ok(Ok(Some(version + 1)))
            })
            .await?;
        set.map_err(IndexError::Conflict)
    }
}
