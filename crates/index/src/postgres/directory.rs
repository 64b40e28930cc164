//! Tenants, domains, mailboxes, aliases, credentials, keys and certificates on PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use maildrop::{
    Actor, Address, Alias, AliasAddress, ApiKey, ApiKeyId, AppPassword, Certificate, CredentialId, Domain,
    DomainName, LoginScope, Mailbox, MailboxId, NewMailbox, Policy, SealedKey, State, Tenant, TenantId,
    TenantLimits, TenantName,
    port::{
        APP_PASSWORDS_MAX, Account, AppPasswordHash, Conflict, Directory, HostCertificate, IndexError,
        MailboxQuery, MailboxUpdate, ResolvedRecipient, TenantDeletion, TenantUpdate,
    },
};
use sqlx::{Postgres as Db, Row as _, Transaction, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    DELETION_TIMEOUT, Postgres,
    scoped::{Audit, json},
};
use crate::{
    error::index_error,
    rows::{
        AliasRow, ApiKeyRow, AppPasswordRow, CertificateRow, DeletionRow, DomainRow, MailboxRow, TenantRow,
        api_key_columns, mailbox_columns, rules, tenant_columns,
    },
    words::{
        allocatable, changes_within, domains_above, fits, like_prefix, scope, scope_word, state_within,
        state_word, wildcard,
    },
};

#[async_trait]
impl Directory for Postgres {
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError> {
        let row = self
            .repeatable(|| {
                sqlx::query(
                    "SELECT b.tenant_id, b.mailbox_id, t.state, b.state, t.revision, b.credential_version,
                            c.password_hash, t.limits, t.policy, b.policy,
                            p.ids, p.hashes, p.scopes, p.expiries
                       FROM domains d
                       JOIN tenants t ON t.tenant_id = d.tenant_id
                       JOIN mailboxes b ON b.tenant_id = d.tenant_id
                                       AND b.address = $2 || '@' || coalesce(d.alias_of, d.name)
                       LEFT JOIN credentials c ON c.tenant_id = b.tenant_id AND c.mailbox_id = b.mailbox_id
                       LEFT JOIN LATERAL (
                            SELECT array_agg(a.credential_id ORDER BY a.credential_id) AS ids,
                                   array_agg(a.password_hash ORDER BY a.credential_id) AS hashes,
                                   array_agg(a.scope ORDER BY a.credential_id) AS scopes,
                                   array_agg(a.expires_at ORDER BY a.credential_id) AS expiries
                              FROM app_passwords a
                             WHERE a.tenant_id = b.tenant_id AND a.mailbox_id = b.mailbox_id
                               AND (a.expires_at IS NULL OR a.expires_at > now())) p ON true
                      WHERE d.name = $1",
                )
                .bind(login.domain())
                .bind(login.local_part())
                .fetch_optional(&self.pool)
            })
            .await?;
        row.as_ref().map(account).transpose()
    }

    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        let locals: Vec<&str> = addresses.iter().map(Address::local_part).collect();
        let domains: Vec<&str> = addresses.iter().map(Address::domain).collect();
        let rows = self
            .repeatable(|| {
                sqlx::query(
                    "SELECT r.place, b.tenant_id, b.mailbox_id, t.state, b.state,
                            least(coalesce(b.quota_octets, t.mailbox_quota_octets) - b.octets,
                                  t.quota_octets - u.octets),
                            least(coalesce(b.quota_messages, t.mailbox_quota_messages) - b.message_count,
                                  t.quota_messages - u.messages),
                            t.limits, t.policy, b.policy
                       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (local, domain, place)
                       JOIN domains d ON d.name = r.domain
                       JOIN tenants t ON t.tenant_id = d.tenant_id
                       LEFT JOIN mailboxes m ON m.tenant_id = d.tenant_id
                             AND m.address = r.local || '@' || coalesce(d.alias_of, d.name)
                       LEFT JOIN aliases a ON m.mailbox_id IS NULL AND a.tenant_id = d.tenant_id
                             AND a.address = r.local || '@' || coalesce(d.alias_of, d.name)
                       LEFT JOIN aliases c ON m.mailbox_id IS NULL AND a.mailbox_id IS NULL
                             AND c.tenant_id = d.tenant_id AND c.address = '@' || coalesce(d.alias_of, d.name)
                       JOIN mailboxes b ON b.tenant_id = d.tenant_id
                             AND b.mailbox_id = coalesce(m.mailbox_id, a.mailbox_id, c.mailbox_id)
                       LEFT JOIN LATERAL (
                            SELECT coalesce(sum(s.octets), 0)::bigint AS octets,
                                   coalesce(sum(s.messages), 0)::bigint AS messages
                              FROM tenant_usage s WHERE s.tenant_id = t.tenant_id
                            ) u ON t.quota_octets IS NOT NULL OR t.quota_messages IS NOT NULL",
                )
                .bind(&locals)
                .bind(&domains)
                .fetch_all(&self.pool)
            })
            .await?;
        let mut found = vec![None; addresses.len()];
        for row in &rows {
            let (place, recipient) = recipient(row)?;
            if let Some(slot) = found.get_mut(place) {
                *slot = Some(recipient);
            }
        }
        Ok(found)
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
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

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> = self
            .repeatable(|| {
                sqlx::query_as(concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE name = $1"))
                    .bind(name.as_str())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    async fn all_tenants_list(
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

    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
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

    async fn update_tenant(
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

    async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let row: Option<TenantRow> = sqlx::query_as(concat!(
                "SELECT ",
                tenant_columns!(),
                " FROM tenants WHERE tenant_id = $1 FOR UPDATE"
            ))
            .bind(tenant.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let before = Tenant::try_from(row).map_err(undecodable)?;
            if before.state == State::Deleting {
                return Ok(true);
            }
            // The key first: what is left of the tenant's mail, here or in a backup of the bucket, is noise.
            sqlx::query(
                "UPDATE tenants SET state = 'deleting', revision = revision + 1, data_key = '' WHERE tenant_id = $1",
            )
            .bind(tenant.as_uuid())
            .execute(&mut *tx)
            .await?;
            for statement in [
                "DELETE FROM certificates WHERE tenant_id = $1",
                "DELETE FROM api_keys WHERE tenant_id = $1",
                // Alias domains before those they stand for.
                "DELETE FROM domains WHERE tenant_id = $1 AND alias_of IS NOT NULL",
                "DELETE FROM domains WHERE tenant_id = $1",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            end_sessions(&mut tx, tenant, None).await?;
            sqlx::query(
                "INSERT INTO tenant_deletions (tenant_id, name, begun_at) VALUES ($1, $2, $3)
                 ON CONFLICT DO NOTHING",
            )
            .bind(tenant.as_uuid())
            .bind(before.name.as_str())
            .bind(at)
            .execute(&mut *tx)
            .await?;
            Audit {
                tenant: Some(tenant),
                actor,
                at,
                action: "tenant.delete",
                target: before.name.as_str(),
                before: json(&before)?,
                after: None,
            }
            .write(&mut tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        let row: Option<DeletionRow> = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let under_way: Option<i32> = sqlx::query_scalar(
                    "SELECT 1 FROM tenant_deletions
                      WHERE tenant_id = $1 AND finished_at IS NULL FOR UPDATE",
                )
                .bind(tenant.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
                if under_way.is_none() {
                    return Ok(None);
                }
                let (mut left, mut deleted) = (i64::from(limit), 0_i64);
                // Mailboxes first: a delivery under way holds their rows, so this waits for it, and a later one
                // finds none.
                for (table, key) in TENANT_ROWS {
                    if left == 0 {
                        break;
                    }
                    let sql = format!(
                        "DELETE FROM {table} WHERE tenant_id = $1 AND ({key}) IN
                         (SELECT {key} FROM {table} WHERE tenant_id = $1 LIMIT $2)"
                    );
                    let gone = sqlx::query(sqlx::AssertSqlSafe(sql))
                        .bind(tenant.as_uuid())
                        .bind(left)
                        .execute(&mut *tx)
                        .await?
                        .rows_affected() as i64;
                    deleted += gone;
                    left -= gone.min(left);
                }
                let row = sqlx::query_as(
                    "UPDATE tenant_deletions
                        SET rows_deleted = rows_deleted + $2, rows_left = $3,
                            objects_deleted = objects_deleted + $4
                      WHERE tenant_id = $1
                  RETURNING tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at",
                )
                .bind(tenant.as_uuid())
                .bind(deleted)
                .bind(left == 0)
                .bind(objects as i64)
                .fetch_one(&mut *tx)
                .await?;
                tx.commit().await?;
                Ok(Some(row))
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    async fn finish_tenant_deletion(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.once_within(DELETION_TIMEOUT, || async {
            let mut tx = self.scoped(tenant).await?;
            // What a delivery that raced the deletion may have left, and what counts the rest.
            for statement in [
                "DELETE FROM packs WHERE tenant_id = $1",
                "DELETE FROM pack_refusals WHERE tenant_id = $1",
                "DELETE FROM pack_garbage WHERE tenant_id = $1",
                "DELETE FROM maildrop_locks WHERE tenant_id = $1",
                "DELETE FROM tenant_usage WHERE tenant_id = $1",
                // What was made in the moment the deletion began.
                "DELETE FROM certificates WHERE tenant_id = $1",
                "DELETE FROM api_keys WHERE tenant_id = $1",
                "DELETE FROM domains WHERE tenant_id = $1 AND alias_of IS NOT NULL",
                "DELETE FROM domains WHERE tenant_id = $1",
                "DELETE FROM tenants WHERE tenant_id = $1 AND state = 'deleting'",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "UPDATE tenant_deletions SET finished_at = $2, rows_left = false
                  WHERE tenant_id = $1 AND finished_at IS NULL",
            )
            .bind(tenant.as_uuid())
            .bind(at)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn all_tenants_deletions(
        &self,
        finished: bool,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        let rows: Vec<DeletionRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at
                       FROM tenant_deletions
                      WHERE finished_at IS NULL OR ($2 AND finished_at > now() - interval '30 days')
                      ORDER BY CASE WHEN $2 THEN -extract(epoch FROM begun_at) ELSE extract(epoch FROM begun_at) END
                      LIMIT $1",
                )
                .bind(i64::from(limit))
                .bind(finished)
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        nested: bool,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        // Asked of all tenants: whose domain is the nearest to a host decides whose host it is.
        let foreign = !nested
            && self
                .repeatable(|| {
                    sqlx::query_scalar::<_, bool>(
                        "SELECT EXISTS (SELECT FROM domains
                                         WHERE tenant_id <> $1 AND (name = ANY ($2) OR name LIKE $3))",
                    )
                    .bind(tenant.as_uuid())
                    .bind(domains_above(domain.name.as_str()))
                    .bind(format!("%.{}", domain.name))
                    .fetch_one(&self.pool)
                })
                .await?;
        if foreign {
            return Err(IndexError::Conflict(Conflict::DomainName));
        }
        let alias_of = domain.alias_of.as_ref().map(DomainName::as_str);
        let created = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
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

    async fn domain(&self, tenant: TenantId, name: &DomainName) -> Result<Option<Domain>, IndexError> {
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

    async fn list_domains(
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

    async fn delete_domain(
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

    async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        self.once(|| self.insert_mailboxes(tenant, mailboxes, actor, at)).await
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        let row: Option<MailboxRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(concat!(
                    "SELECT ",
                    mailbox_columns!(),
                    " FROM mailboxes WHERE tenant_id = $1 AND address = $2"
                ))
                .bind(tenant.as_uuid())
                .bind(address.as_str())
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let after = query.after.as_ref().map_or("", Address::as_str);
        let prefix = query.prefix.as_deref().map(like_prefix);
        let sql = list_sql(query.domain.is_some(), prefix.is_some());
        let lowest = query.prefix.as_deref().unwrap_or_default();
        let rows: Vec<MailboxRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                let select = sqlx::query_as(sql)
                    .bind(tenant.as_uuid())
                    .bind(after)
                    .bind(i64::from(query.limit))
                    .bind(&prefix)
                    .bind(query.domain.as_ref().map(DomainName::as_str));
                let select =
                    if query.domain.is_none() && prefix.is_some() { select.bind(lowest) } else { select };
                select.fetch_all(&mut *tx).await
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn update_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        update: &MailboxUpdate,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Mailbox>, IndexError> {
        let updated = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let Some(before) = mailbox_for_update(&mut tx, tenant, address).await? else {
                    return Ok(Ok(None));
                };
                if update.if_revision.is_some_and(|revision| revision != before.revision) {
                    return Ok(Err(Conflict::Revision));
                }
                let settings = update.settings.clone().unwrap_or_else(|| before.settings.clone());
                let state = update.state.unwrap_or(before.state);
                let after = Mailbox { settings, state, revision: before.revision + 1, ..before.clone() };
                let settings = &after.settings;
                if settings.quota_octets != before.settings.quota_octets {
                    let room = room(&mut tx, tenant).await?;
                    if !changes_within(room, before.settings.quota_octets, settings.quota_octets) {
                        return Ok(Err(Conflict::OverAllocated));
                    }
                }
                sqlx::query(
                    "UPDATE mailboxes
                        SET state = $3, revision = $4, quota_octets = $5, quota_messages = $6, policy = $7,
                            credential_version = credential_version + 1
                      WHERE tenant_id = $1 AND mailbox_id = $2",
                )
                .bind(tenant.as_uuid())
                .bind(before.id.as_uuid())
                .bind(state_word(state))
                .bind(after.revision)
                .bind(settings.quota_octets.map(|n| n as i64))
                .bind(settings.quota_messages.map(|n| n as i64))
                .bind(Json(&settings.policy))
                .execute(&mut *tx)
                .await?;
                if state != State::Active {
                    end_sessions(&mut tx, tenant, Some(before.id)).await?;
                }
                let action = match (before.state, state) {
                    (State::Active, State::Suspended) => "mailbox.suspend",
                    (State::Suspended, State::Active) => "mailbox.resume",
                    _ => "mailbox.update",
                };
                let target = address.as_str();
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

    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password_hash: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let Some(mailbox) = renew_credentials(&mut tx, tenant, address).await? else {
                return Ok(false);
            };
            sqlx::query(
                "INSERT INTO credentials (tenant_id, mailbox_id, password_hash) VALUES ($1, $2, $3)
                 ON CONFLICT (tenant_id, mailbox_id) DO UPDATE SET password_hash = excluded.password_hash",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(password_hash)
            .execute(&mut *tx)
            .await?;
            let (action, target) = ("mailbox.set_password", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target, before: None, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            for statement in [
                "UPDATE credentials SET password_hash = $4
                  WHERE tenant_id = $1 AND mailbox_id = $2 AND password_hash = $3",
                "UPDATE app_passwords SET password_hash = $4
                  WHERE tenant_id = $1 AND mailbox_id = $2 AND password_hash = $3",
            ] {
                sqlx::query(statement)
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(old)
                    .bind(new)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once_within(DELETION_TIMEOUT, || async {
            let mut tx = self.scoped(tenant).await?;
            // The row first: a delivery waits here, and finds nothing afterwards.
            let Some(before) = mailbox_for_update(&mut tx, tenant, address).await? else {
                return Ok(false);
            };
            end_sessions(&mut tx, tenant, Some(before.id)).await?;
            for statement in [
                "WITH gone AS (DELETE FROM messages WHERE tenant_id = $1 AND mailbox_id = $2
                               RETURNING pack_id, pack_length)
                 INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                 SELECT $1, pack_id, sum(pack_length) FROM gone GROUP BY pack_id",
                "WITH gone AS (DELETE FROM deleted_messages WHERE tenant_id = $1 AND mailbox_id = $2
                               RETURNING pack_id, pack_length)
                 INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                 SELECT $1, pack_id, sum(pack_length) FROM gone GROUP BY pack_id",
                "DELETE FROM login_times WHERE tenant_id = $1 AND mailbox_id = $2",
                "DELETE FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2",
            ] {
                sqlx::query(statement)
                    .bind(tenant.as_uuid())
                    .bind(before.id.as_uuid())
                    .execute(&mut *tx)
                    .await?;
            }
            let (action, target) = ("mailbox.delete", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target, before: json(&before)?, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn create_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password: &AppPassword,
        hash: &str,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let created = self
            .once(|| async {
                let mut tx = self.scoped(tenant).await?;
                let Some(mailbox) = renew_credentials(&mut tx, tenant, address).await? else {
                    return Ok(Some(false));
                };
                let there: i64 = sqlx::query_scalar(
                    "SELECT count(*) FROM app_passwords WHERE tenant_id = $1 AND mailbox_id = $2",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox)
                .fetch_one(&mut *tx)
                .await?;
                if there as usize >= APP_PASSWORDS_MAX {
                    return Ok(None);
                }
                sqlx::query(
                    "INSERT INTO app_passwords (tenant_id, mailbox_id, credential_id, label, scope, password_hash,
                                                expires_at, created_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox)
                .bind(password.id.as_uuid())
                .bind(&password.label)
                .bind(scope_word(password.scope))
                .bind(hash)
                .bind(password.expires_at)
                .bind(password.created_at)
                .execute(&mut *tx)
                .await?;
                Audit {
                    tenant: Some(tenant),
                    actor,
                    at: password.created_at,
                    action: "app_password.create",
                    target: address.as_str(),
                    before: None,
                    after: json(password)?,
                }
                .write(&mut tx)
                .await?;
                tx.commit().await?;
                Ok(Some(true))
            })
            .await?;
        created.ok_or(IndexError::Conflict(Conflict::AppPasswords))
    }

    async fn app_passwords(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Vec<AppPassword>>, IndexError> {
        let rows: Option<Vec<AppPasswordRow>> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                let Some(mailbox) = mailbox_id(&mut tx, tenant, address).await? else { return Ok(None) };
                sqlx::query_as(
                    "SELECT credential_id, label, scope, expires_at, last_used_at, created_at
                       FROM app_passwords WHERE tenant_id = $1 AND mailbox_id = $2 ORDER BY credential_id",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox)
                .fetch_all(&mut *tx)
                .await
                .map(Some)
            })
            .await?;
        rows.map(|rows| rows.into_iter().map(TryInto::try_into).collect()).transpose()
    }

    async fn delete_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        id: CredentialId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let Some(mailbox) = renew_credentials(&mut tx, tenant, address).await? else {
                return Ok(false);
            };
            let row: Option<AppPasswordRow> = sqlx::query_as(
                "DELETE FROM app_passwords
                  WHERE tenant_id = $1 AND mailbox_id = $2 AND credential_id = $3
              RETURNING credential_id, label, scope, expires_at, last_used_at, created_at",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let before = AppPassword::try_from(row).map_err(undecodable)?;
            let (action, target) = ("app_password.delete", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target, before: json(&before)?, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn touch_app_password(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        id: CredentialId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        self.repeatable(|| {
            sqlx::query(
                "UPDATE app_passwords SET last_used_at = $4
                  WHERE tenant_id = $1 AND mailbox_id = $2 AND credential_id = $3
                    AND (last_used_at IS NULL OR last_used_at < $4 - interval '1 hour')",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(id.as_uuid())
            .bind(at)
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn create_alias(&self, tenant: TenantId, alias: &Alias, actor: &Actor) -> Result<(), IndexError> {
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

    async fn alias(&self, tenant: TenantId, address: &AliasAddress) -> Result<Option<Alias>, IndexError> {
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

    async fn list_aliases(
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

    async fn delete_alias(
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

    async fn all_tenants_api_key(&self, id: ApiKeyId) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        let row: Option<ApiKeyRow> = self
            .repeatable(|| {
                sqlx::query_as(concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE key_id = $1"))
                    .bind(id.as_uuid())
                    .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let id = key.id.to_string();
        self.once(|| async {
            let mut tx = self.of(key.tenant).await?;
            sqlx::query(
                "INSERT INTO api_keys (key_id, tenant_id, role, label, secret_hash, created_by, expires_at,
                                       created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(key.id.as_uuid())
            .bind(key.tenant.map(|t| t.as_uuid()))
            .bind(key.role.as_str())
            .bind(&key.label)
            .bind(secret_hash.as_slice())
            .bind(&key.created_by)
            .bind(key.expires_at)
            .bind(key.created_at)
            .execute(&mut *tx)
            .await?;
            Audit {
                tenant: key.tenant,
                actor,
                at: key.created_at,
                action: "api_key.create",
                target: &id,
                before: None,
                after: json(key)?,
            }
            .write(&mut tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        let rows: Vec<ApiKeyRow> = self
            .repeatable(|| async {
                let mut tx = self.of(tenant).await?;
                sqlx::query_as(concat!(
                    "SELECT ",
                    api_key_columns!(),
                    " FROM api_keys
                       WHERE tenant_id IS NOT DISTINCT FROM $1 AND key_id > $2
                       ORDER BY key_id LIMIT $3"
                ))
                .bind(tenant.map(|t| t.as_uuid()))
                .bind(after.map_or(Uuid::nil(), |id| id.as_uuid()))
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        rows.into_iter().map(|row| <(ApiKey, [u8; 32])>::try_from(row).map(|(key, _)| key)).collect()
    }

    async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let target = id.to_string();
        self.once(|| async {
            let mut tx = self.of(tenant).await?;
            let row: Option<ApiKeyRow> = sqlx::query_as(concat!(
                "DELETE FROM api_keys WHERE tenant_id IS NOT DISTINCT FROM $1 AND key_id = $2 RETURNING ",
                api_key_columns!()
            ))
            .bind(tenant.map(|t| t.as_uuid()))
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let (before, _) = <(ApiKey, [u8; 32])>::try_from(row).map_err(undecodable)?;
            let (action, target) = ("api_key.delete", target.as_str());
            Audit { tenant, actor, at, action, target, before: json(&before)?, after: None }
                .write(&mut tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        self.repeatable(|| {
            sqlx::query(
                "UPDATE api_keys SET last_used_at = $2
                  WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2 - interval '1 minute')",
            )
            .bind(id.as_uuid())
            .bind(at)
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn all_tenants_certificate(&self, host: &str) -> Result<Option<HostCertificate>, IndexError> {
        let above = domains_above(host);
        let row: Option<PgRow> = self
            .repeatable(|| {
                // The nearest domain above the host decides whose it is, whatever was so when the certificate
                // was put here.
                sqlx::query(
                    "SELECT c.tenant_id, t.data_key, c.host, c.chain, c.sealed_key, c.not_after, c.created_at,
                            t.policy
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
            let policy: Json<Policy> = row.try_get(7)?;
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
                greeting: policy.0.greeting,
            })
        };
        row.map(read).transpose().map_err(index_error)
    }

    async fn put_certificate(
        &self,
        tenant: TenantId,
        certificate: &Certificate,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let host = certificate.host.as_str();
        let above = domains_above(host);
        // Asked of all tenants: another one's nearer domain makes the host that one's.
        let owner: Option<Uuid> = self
            .repeatable(|| {
                sqlx::query_scalar(
                    "SELECT tenant_id FROM domains WHERE name = ANY ($1) ORDER BY length(name) DESC LIMIT 1",
                )
                .bind(&above)
                .fetch_optional(&self.pool)
            })
            .await?;
        if owner != Some(tenant.as_uuid()) {
            return Err(IndexError::Conflict(Conflict::ForeignHost));
        }
        // One that another tenant left there, from when the domain was its own, is good for nobody.
        self.repeatable(|| {
            sqlx::query("DELETE FROM certificates WHERE host = $1 AND tenant_id <> $2")
                .bind(host)
                .bind(tenant.as_uuid())
                .execute(&self.pool)
        })
        .await?;
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
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
            Ok(new)
        })
        .await
        // A host that another tenant has from when the domain was its own.
        .map_err(|error| conflict(error, Conflict::ForeignHost))
    }

    async fn certificate(&self, tenant: TenantId, host: &str) -> Result<Option<Certificate>, IndexError> {
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

    async fn list_certificates(
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

    async fn delete_certificate(
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

/// What a tenant's rows are in, in the order in which they are deleted, with the columns that name one row.
const TENANT_ROWS: [(&str, &str); 9] = [
    ("mailboxes", "mailbox_id"),
    ("messages", "mailbox_id, uid"),
    ("deleted_messages", "mailbox_id, uid"),
    ("pack_garbage", "ctid"),
    ("pack_refusals", "pack_id, mailbox_id"),
    ("packs", "pack_id"),
    ("traffic", "day, mailbox_id"),
    ("login_times", "mailbox_id"),
    ("maildrop_locks", "mailbox_id"),
];

impl Postgres {
    /// A transaction for the tenant, or for the platform.
    async fn of(&self, tenant: Option<TenantId>) -> Result<Transaction<'static, Db>, sqlx::Error> {
        match tenant {
            Some(tenant) => self.scoped(tenant).await,
            None => self.pool.begin().await,
        }
    }

    async fn insert_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, sqlx::Error> {
        let mut tx = self.scoped(tenant).await?;
        let mut wanted: Vec<&str> = mailboxes.iter().map(|new| new.address.domain()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // Held still: a domain must not go while mailboxes are made in it. In one order, as everywhere.
        let domains: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM domains
              WHERE tenant_id = $1 AND name = ANY ($2) AND alias_of IS NULL ORDER BY name FOR SHARE",
        )
        .bind(tenant.as_uuid())
        .bind(&wanted)
        .fetch_all(&mut *tx)
        .await?;
        let addresses: Vec<&str> = mailboxes.iter().map(|new| new.address.as_str()).collect();
        let aliases: Vec<String> =
            sqlx::query_scalar("SELECT address FROM aliases WHERE tenant_id = $1 AND address = ANY ($2)")
                .bind(tenant.as_uuid())
                .bind(&addresses)
                .fetch_all(&mut *tx)
                .await?;
        let mut room = room(&mut tx, tenant).await?;
        let mut results: Vec<Result<&NewMailbox, Conflict>> = Vec::with_capacity(mailboxes.len());
        for new in mailboxes {
            let quota = new.settings.quota_octets;
            results.push(if !domains.iter().any(|domain| domain == new.address.domain()) {
                Err(Conflict::ForeignDomain)
            } else if aliases.iter().any(|alias| alias == new.address.as_str()) {
                Err(Conflict::Address)
            } else if !fits(room, quota) {
                Err(Conflict::OverAllocated)
            } else {
                room = room.map(|room| room - i128::from(quota.unwrap_or(0)));
                Ok(new)
            });
        }
        let rows: Vec<&NewMailbox> =
            results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
        let created: Vec<Uuid> = sqlx::query_scalar(
            "INSERT INTO mailboxes (tenant_id, mailbox_id, address, state, quota_octets, quota_messages, policy,
                                    created_at)
             SELECT $1, r.*, $8
               FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::jsonb[]) r
                 ON CONFLICT (tenant_id, address) DO NOTHING
          RETURNING mailbox_id",
        )
        .bind(tenant.as_uuid())
        .bind(rows.iter().map(|new| new.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.address.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| state_word(first_state(new))).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.settings.quota_octets.map(|n| n as i64)).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.settings.quota_messages.map(|n| n as i64)).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| Json(&new.settings.policy)).collect::<Vec<_>>())
        .bind(at)
        .fetch_all(&mut *tx)
        .await?;
        let created: std::collections::HashSet<Uuid> = created.into_iter().collect();
        let rows: Vec<&NewMailbox> =
            rows.into_iter().filter(|new| created.contains(&new.id.as_uuid())).collect();
        sqlx::query(
            "INSERT INTO credentials (tenant_id, mailbox_id, password_hash)
             SELECT $1, r.mailbox, r.hash FROM unnest($2::uuid[], $3::text[]) AS r (mailbox, hash)
              WHERE r.hash IS NOT NULL",
        )
        .bind(tenant.as_uuid())
        .bind(rows.iter().map(|new| new.id.as_uuid()).collect::<Vec<_>>())
        .bind(rows.iter().map(|new| new.password_hash.as_deref()).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        let made: Vec<Mailbox> = rows.iter().map(|new| first_mailbox(new, at)).collect();
        let after: Vec<Option<serde_json::Value>> = made.iter().map(json).collect::<Result<_, _>>()?;
        sqlx::query(
            "INSERT INTO audit_log (at, tenant_id, actor, origin, request, action, target, after_value)
             SELECT $1, $2, $3, $4, $5, 'mailbox.create', r.target, r.after_value
               FROM unnest($6::text[], $7::jsonb[]) AS r (target, after_value)",
        )
        .bind(at)
        .bind(tenant.as_uuid())
        .bind(&actor.name)
        .bind(&actor.origin)
        .bind(&actor.request)
        .bind(rows.iter().map(|new| new.address.as_str()).collect::<Vec<_>>())
        .bind(after)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(results
            .into_iter()
            .map(|result| match result {
                Ok(new) if created.contains(&new.id.as_uuid()) => Ok(first_mailbox(new, at)),
                Ok(_) => Err(Conflict::Address),
                Err(conflict) => Err(conflict),
            })
            .collect())
    }
}

/// The statement that lists mailboxes: one for each kind of question, each with its index, and none sorts.
fn list_sql(domain: bool, prefix: bool) -> &'static str {
    match (domain, prefix) {
        (false, false) => concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
                   WHERE tenant_id = $1 AND address COLLATE \"C\" > $2
                     AND $4::text IS NULL AND $5::text IS NULL
                   ORDER BY address COLLATE \"C\" LIMIT $3"
        ),
        (false, true) => concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
                   WHERE tenant_id = $1 AND address COLLATE \"C\" > $2 AND address COLLATE \"C\" >= $6
                     AND address COLLATE \"C\" < $6 || U&'\\+10FFFF'
                     AND address COLLATE \"C\" LIKE $4 AND $5::text IS NULL
                   ORDER BY address COLLATE \"C\" LIMIT $3"
        ),
        (true, _) => concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
                   WHERE tenant_id = $1 AND domain = $5
                     AND address COLLATE \"C\" > $2
                     AND ($4::text IS NULL OR address COLLATE \"C\" LIKE $4)
                   ORDER BY address COLLATE \"C\" LIMIT $3"
        ),
    }
}

/// The state a mailbox begins in.
fn first_state(new: &NewMailbox) -> State {
    if new.suspended { State::Suspended } else { State::Active }
}

/// A mailbox as it is when it was just created.
fn first_mailbox(new: &NewMailbox, at: OffsetDateTime) -> Mailbox {
    Mailbox {
        id: new.id,
        address: new.address.clone(),
        state: first_state(new),
        revision: 1,
        settings: new.settings.clone(),
        message_count: 0,
        octets: 0,
        created_at: at,
    }
}

/// Octets that the tenant may still give to its mailboxes as quotas, or no limit.
async fn room(tx: &mut Transaction<'_, Db>, tenant: TenantId) -> Result<Option<i128>, sqlx::Error> {
    // The tenant's row is held: two that give at once must not both see the same room.
    let (quota, percent): (Option<i64>, Option<i32>) =
        sqlx::query_as("SELECT quota_octets, over_allocation_percent FROM tenants WHERE tenant_id = $1")
            .bind(tenant.as_uuid())
            .fetch_optional(&mut **tx)
            .await?
            .unwrap_or_default();
    let Some(allocatable) = allocatable(quota.map(|n| n as u64), percent.map(|n| n as u32)) else {
        return Ok(None);
    };
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR NO KEY UPDATE")
        .bind(tenant.as_uuid())
        .execute(&mut **tx)
        .await?;
    let allocated: i64 = sqlx::query_scalar(
        "SELECT coalesce(sum(allocated_octets), 0)::bigint FROM tenant_usage WHERE tenant_id = $1",
    )
    .bind(tenant.as_uuid())
    .fetch_one(&mut **tx)
    .await?;
    Ok(Some(i128::from(allocatable) - i128::from(allocated)))
}

async fn own_domain(
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

async fn mailbox_id(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("SELECT mailbox_id FROM mailboxes WHERE tenant_id = $1 AND address = $2")
        .bind(tenant.as_uuid())
        .bind(address.as_str())
        .fetch_optional(&mut **tx)
        .await
}

async fn mailbox_for_update(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Mailbox>, sqlx::Error> {
    let row: Option<MailboxRow> = sqlx::query_as(concat!(
        "SELECT ",
        mailbox_columns!(),
        " FROM mailboxes WHERE tenant_id = $1 AND address = $2 FOR UPDATE"
    ))
    .bind(tenant.as_uuid())
    .bind(address.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| Mailbox::try_from(row).map_err(undecodable)).transpose()
}

/// Raises the credential's version: what nodes remember of it no longer counts.
async fn renew_credentials(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE mailboxes SET credential_version = credential_version + 1
          WHERE tenant_id = $1 AND address = $2 RETURNING mailbox_id",
    )
    .bind(tenant.as_uuid())
    .bind(address.as_str())
    .fetch_optional(&mut **tx)
    .await
}

/// Takes the locks of a mailbox, or of a whole tenant, away, and has the nodes end those sessions.
async fn end_sessions(
    tx: &mut Transaction<'_, Db>,
    tenant: TenantId,
    mailbox: Option<MailboxId>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH gone AS (DELETE FROM maildrop_locks
                        WHERE tenant_id = $1 AND ($2::uuid IS NULL OR mailbox_id = $2)
                    RETURNING node_id, session)
         INSERT INTO session_ends (node_id, session) SELECT node_id, session FROM gone WHERE session <> ''",
    )
    .bind(tenant.as_uuid())
    .bind(mailbox.map(|m| m.as_uuid()))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn account(row: &PgRow) -> Result<Account, IndexError> {
    type Arrays =
        (Option<Vec<Uuid>>, Option<Vec<String>>, Option<Vec<String>>, Option<Vec<Option<OffsetDateTime>>>);
    let read = || -> Result<_, sqlx::Error> {
        let limits: Json<TenantLimits> = row.try_get(7)?;
        let (of_tenant, own): (Json<Policy>, Json<Policy>) = (row.try_get(8)?, row.try_get(9)?);
        let arrays: Arrays = (row.try_get(10)?, row.try_get(11)?, row.try_get(12)?, row.try_get(13)?);
        let states: (String, String) = (row.try_get(2)?, row.try_get(3)?);
        let account = Account {
            tenant: TenantId::from_uuid(row.try_get(0)?),
            mailbox: MailboxId::from_uuid(row.try_get(1)?),
            state: State::Suspended,
            tenant_revision: row.try_get(4)?,
            credential_version: row.try_get(5)?,
            password_hash: row.try_get(6)?,
            app_passwords: Vec::new(),
            rules: Arc::new(rules(limits, &of_tenant, &own)),
        };
        Ok((account, states, arrays))
    };
    let (mut account, states, (ids, hashes, scopes, expiries)) = read().map_err(index_error)?;
    account.state = state_within(&states.0, &states.1)?;
    let columns = ids.unwrap_or_default().into_iter().zip(hashes.unwrap_or_default());
    let columns = columns.zip(scopes.unwrap_or_default()).zip(expiries.unwrap_or_default());
    for (((id, hash), word), expires_at) in columns {
        let scope: LoginScope = scope(&word)?;
        account.app_passwords.push(AppPasswordHash {
            id: CredentialId::from_uuid(id),
            hash,
            scope,
            expires_at,
        });
    }
    Ok(account)
}

fn recipient(row: &PgRow) -> Result<(usize, ResolvedRecipient), IndexError> {
    let free = |free: Option<i64>| free.map(|n| u64::try_from(n).unwrap_or(0));
    let read = || -> Result<_, sqlx::Error> {
        let place: i64 = row.try_get(0)?;
        let states: (String, String) = (row.try_get(3)?, row.try_get(4)?);
        let limits: Json<TenantLimits> = row.try_get(7)?;
        let (of_tenant, own): (Json<Policy>, Json<Policy>) = (row.try_get(8)?, row.try_get(9)?);
        let recipient = ResolvedRecipient {
            tenant: TenantId::from_uuid(row.try_get(1)?),
            mailbox: MailboxId::from_uuid(row.try_get(2)?),
            state: State::Suspended,
            free_octets: free(row.try_get(5)?),
            free_messages: free(row.try_get(6)?),
            rules: Arc::new(rules(limits, &of_tenant, &own)),
        };
        Ok(((place - 1) as usize, recipient, states))
    };
    let (place, mut recipient, states) = read().map_err(index_error)?;
    recipient.state = state_within(&states.0, &states.1)?;
    Ok((place, recipient))
}

/// A broken unique constraint is the conflict that the statement can have.
fn conflict(error: IndexError, conflict: Conflict) -> IndexError {
    if let IndexError::Internal(source) = &error
        && let Some(sqlx::Error::Database(e)) = source.downcast_ref::<sqlx::Error>()
        && (e.is_unique_violation() || e.is_foreign_key_violation())
    {
        return IndexError::Conflict(conflict);
    }
    error
}

/// A row that cannot be, within a transaction.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` gives")]
fn undecodable(error: IndexError) -> sqlx::Error {
    sqlx::Error::Decode(error.to_string().into())
}

#[cfg(test)]
mod plans;
