//! Tenants, domains, mailboxes, aliases, credentials, keys and certificates on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use maildrop::{
    Actor, Address, Alias, AliasAddress, ApiKey, ApiKeyId, AppPassword, Certificate, CredentialId, Domain,
    DomainName, Mailbox, MailboxId, NewMailbox, Policy, State, Tenant, TenantId, TenantLimits, TenantName,
    port::{
        APP_PASSWORDS_MAX, Account, AppPasswordHash, Conflict, Directory, HostCertificate, IndexError,
        MailboxQuery, MailboxUpdate, ResolvedRecipient, TenantDeletion, TenantUpdate,
    },
};
use sqlx::{AssertSqlSafe, Sqlite as Db, SqliteConnection, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Sqlite,
    audit::{Audit, NOTHING},
    maildrops::{from_micros, micros},
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

/// Who logs in: ids, states of tenant and mailbox, revision and version, hash, limits and policies.
type AccountRow =
    (Uuid, Uuid, String, String, i64, i64, String, Json<TenantLimits>, Json<Policy>, Json<Policy>);
/// Where mail goes: ids, states, what is free, limits and policies.
type RecipientRow = (
    Uuid,
    Uuid,
    String,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Json<TenantLimits>,
    Json<Policy>,
    Json<Policy>,
);
/// An app password: id, hash, scope, expiry.
type HashRow = (Uuid, String, String, Option<i64>);

#[async_trait]
impl Directory for Sqlite {
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError> {
        let row: Option<AccountRow> = sqlx::query_as(
            "SELECT b.tenant_id, b.mailbox_id, t.state, b.state, t.revision, b.credential_version,
                    b.password_hash, t.limits, t.policy, b.policy
               FROM domains d
               JOIN tenants t ON t.tenant_id = d.tenant_id
               JOIN mailboxes b ON b.tenant_id = d.tenant_id
                               AND b.address = ?2 || '@' || coalesce(d.alias_of, d.name)
              WHERE d.name = ?1",
        )
        .bind(login.domain())
        .bind(login.local_part())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        let Some((tenant, mailbox, of_tenant, own, revision, version, hash, limits, defaults, policy)) = row
        else {
            return Ok(None);
        };
        let hashes: Vec<HashRow> = sqlx::query_as(
            "SELECT credential_id, password_hash, scope, expires_at FROM app_passwords
              WHERE tenant_id = ? AND mailbox_id = ? AND (expires_at IS NULL OR expires_at > ?)
              ORDER BY credential_id",
        )
        .bind(tenant)
        .bind(mailbox)
        .bind(micros(OffsetDateTime::now_utc()))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let app_password = |(id, hash, word, expires_at): HashRow| {
            Ok(AppPasswordHash {
                id: CredentialId::from_uuid(id),
                hash,
                scope: scope(&word)?,
                expires_at: expires_at.map(from_micros).transpose()?,
            })
        };
        Ok(Some(Account {
            tenant: TenantId::from_uuid(tenant),
            mailbox: MailboxId::from_uuid(mailbox),
            state: state_within(&of_tenant, &own)?,
            tenant_revision: revision,
            credential_version: version,
            password_hash: Some(hash).filter(|hash| !hash.is_empty()),
            app_passwords: hashes.into_iter().map(app_password).collect::<Result<_, IndexError>>()?,
            rules: Arc::new(rules(limits, &defaults, &policy)),
        }))
    }

    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        let mut found = Vec::with_capacity(addresses.len());
        for address in addresses {
            let row: Option<RecipientRow> = sqlx::query_as(
                "SELECT b.tenant_id, b.mailbox_id, t.state, b.state,
                        coalesce(b.quota_octets, t.mailbox_quota_octets) - b.octets,
                        t.quota_octets - u.octets,
                        coalesce(b.quota_messages, t.mailbox_quota_messages) - b.message_count,
                        t.quota_messages - u.messages,
                        t.limits, t.policy, b.policy
                   FROM domains d
                   JOIN tenants t ON t.tenant_id = d.tenant_id
                   LEFT JOIN mailboxes m ON m.tenant_id = d.tenant_id
                         AND m.address = ?2 || '@' || coalesce(d.alias_of, d.name)
                   LEFT JOIN aliases a ON a.tenant_id = d.tenant_id
                         AND a.address = ?2 || '@' || coalesce(d.alias_of, d.name)
                   LEFT JOIN aliases c ON c.tenant_id = d.tenant_id
                         AND c.address = '@' || coalesce(d.alias_of, d.name)
                   JOIN mailboxes b ON b.tenant_id = d.tenant_id
                         AND b.mailbox_id = coalesce(m.mailbox_id, a.mailbox_id, c.mailbox_id)
                   JOIN tenant_usage u ON u.tenant_id = d.tenant_id
                  WHERE d.name = ?1",
            )
            .bind(address.domain())
            .bind(address.local_part())
            .fetch_optional(&self.reader)
            .await
            .map_err(index_error)?;
            found.push(row.map(recipient).transpose()?);
        }
        Ok(found)
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
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

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> =
            sqlx::query_as(concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE name = ?"))
                .bind(name.as_str())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    async fn all_tenants_list(
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

    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
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

    async fn update_tenant(
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

    async fn begin_tenant_deletion(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<TenantRow> =
                sqlx::query_as(concat!("SELECT ", tenant_columns!(), " FROM tenants WHERE tenant_id = ?"))
                    .bind(tenant.as_uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            let Some(row) = row else { return Ok(false) };
            let before = Tenant::try_from(row).map_err(undecodable)?;
            if before.state == State::Deleting {
                return Ok(true);
            }
            for statement in [
                // The key first: what is left of the tenant's mail is noise.
                "UPDATE tenants SET state = 'deleting', revision = revision + 1, data_key = x'' WHERE tenant_id = ?",
                "DELETE FROM certificates WHERE tenant_id = ?",
                "DELETE FROM api_keys WHERE tenant_id = ?",
                "DELETE FROM domains WHERE tenant_id = ?",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "INSERT INTO tenant_deletions (tenant_id, name, begun_at) VALUES (?, ?, ?)
                 ON CONFLICT DO NOTHING",
            )
            .bind(tenant.as_uuid())
            .bind(before.name.as_str())
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            Audit { tenant: Some(tenant), actor, at, action: "tenant.delete", target: before.name.as_str() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        let begun = run.await.map_err(index_error)?;
        if begun {
            self.locks.end(tenant, None);
        }
        Ok(begun)
    }

    async fn continue_tenant_deletion(
        &self,
        tenant: TenantId,
        limit: u32,
        objects: u64,
    ) -> Result<Option<TenantDeletion>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let (mut left, mut deleted) = (i64::from(limit), 0_i64);
            for (table, key) in TENANT_ROWS {
                if left == 0 {
                    break;
                }
                let sql = format!(
                    "DELETE FROM {table} WHERE tenant_id = ?1 AND ({key}) IN
                     (SELECT {key} FROM {table} WHERE tenant_id = ?1 LIMIT ?2)
                     AND EXISTS (SELECT 1 FROM tenant_deletions d
                                  WHERE d.tenant_id = ?1 AND d.finished_at IS NULL)"
                );
                let gone = sqlx::query(AssertSqlSafe(sql))
                    .bind(tenant.as_uuid())
                    .bind(left)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected() as i64;
                deleted += gone;
                left -= gone.min(left);
            }
            let row: Option<DeletionRow> = sqlx::query_as(
                "UPDATE tenant_deletions
                    SET rows_deleted = rows_deleted + ?2, rows_left = ?3, objects_deleted = objects_deleted + ?4
                  WHERE tenant_id = ?1 AND finished_at IS NULL
              RETURNING tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at",
            )
            .bind(tenant.as_uuid())
            .bind(deleted)
            .bind(left == 0)
            .bind(objects as i64)
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(row)
        };
        run.await.map_err(index_error)?.map(TryInto::try_into).transpose()
    }

    async fn finish_tenant_deletion(&self, tenant: TenantId, at: OffsetDateTime) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            for statement in [
                "DELETE FROM packs WHERE tenant_id = ?",
                "DELETE FROM pack_refusals WHERE tenant_id = ?",
                "DELETE FROM pack_garbage WHERE tenant_id = ?",
                "DELETE FROM tenant_usage WHERE tenant_id = ?",
                // What was made in the moment the deletion began.
                "DELETE FROM certificates WHERE tenant_id = ?",
                "DELETE FROM api_keys WHERE tenant_id = ?",
                "DELETE FROM domains WHERE tenant_id = ?",
                "DELETE FROM tenants WHERE tenant_id = ? AND state = 'deleting'",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            sqlx::query(
                "UPDATE tenant_deletions SET finished_at = ?2, rows_left = 0
                  WHERE tenant_id = ?1 AND finished_at IS NULL",
            )
            .bind(tenant.as_uuid())
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn all_tenants_deletions(
        &self,
        finished: bool,
        limit: u32,
    ) -> Result<Vec<TenantDeletion>, IndexError> {
        let rows: Vec<DeletionRow> = sqlx::query_as(
            "SELECT tenant_id, name, rows_deleted, rows_left, objects_deleted, begun_at, finished_at
               FROM tenant_deletions WHERE finished_at IS NULL OR (?3 AND finished_at > ?1)
              ORDER BY CASE WHEN ?3 THEN -begun_at ELSE begun_at END LIMIT ?2",
        )
        .bind(micros(OffsetDateTime::now_utc() - time::Duration::days(30)))
        .bind(i64::from(limit))
        .bind(finished)
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn create_domain(
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

    async fn domain(&self, tenant: TenantId, name: &DomainName) -> Result<Option<Domain>, IndexError> {
        let row: Option<DomainRow> =
            sqlx::query_as("SELECT name, alias_of, created_at FROM domains WHERE tenant_id = ? AND name = ?")
                .bind(tenant.as_uuid())
                .bind(name.as_str())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    async fn list_domains(
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

    async fn delete_domain(
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

    async fn create_mailboxes(
        &self,
        tenant: TenantId,
        mailboxes: &[NewMailbox],
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Vec<Result<Mailbox, Conflict>>, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let mut results = Vec::with_capacity(mailboxes.len());
            for new in mailboxes {
                results.push(insert_mailbox(&mut tx, tenant, new, actor, at).await?);
            }
            tx.commit().await?;
            Ok(results)
        };
        run.await.map_err(index_error)
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        let row: Option<MailboxRow> = sqlx::query_as(concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes WHERE tenant_id = ? AND address = ?"
        ))
        .bind(tenant.as_uuid())
        .bind(address.as_str())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        query: &MailboxQuery,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let rows: Vec<MailboxRow> = sqlx::query_as(concat!(
            "SELECT ",
            mailbox_columns!(),
            " FROM mailboxes
               WHERE tenant_id = ?1 AND address > ?2 AND address >= ?3 AND address LIKE ?4 ESCAPE '\\'
                 AND (?5 IS NULL OR substr(address, -length(?5) - 1) = '@' || ?5)
               ORDER BY address LIMIT ?6"
        ))
        .bind(tenant.as_uuid())
        .bind(query.after.as_ref().map_or("", Address::as_str))
        .bind(query.prefix.as_deref().unwrap_or_default())
        .bind(like_prefix(query.prefix.as_deref().unwrap_or_default()))
        .bind(query.domain.as_ref().map(DomainName::as_str))
        .bind(i64::from(query.limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
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
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some(before) = mailbox(&mut tx, tenant, address).await? else { return Ok(Ok(None)) };
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
                    SET state = ?3, revision = ?4, quota_octets = ?5, quota_messages = ?6, policy = ?7,
                        credential_version = credential_version + 1
                  WHERE tenant_id = ?1 AND mailbox_id = ?2",
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
            let action = match (before.state, state) {
                (State::Active, State::Suspended) => "mailbox.suspend",
                (State::Suspended, State::Active) => "mailbox.resume",
                _ => "mailbox.update",
            };
            Audit { tenant: Some(tenant), actor, at, action, target: address.as_str() }
                .write(&mut tx, Some(&before), Some(&after))
                .await?;
            tx.commit().await?;
            Ok(Ok(Some(after)))
        };
        let updated = run.await.map_err(index_error)?.map_err(IndexError::Conflict)?;
        if let Some(mailbox) = updated.as_ref().filter(|mailbox| mailbox.state != State::Active) {
            self.locks.end(tenant, Some(mailbox.id));
        }
        Ok(updated)
    }

    async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password_hash: &str,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            if renew_credentials(&mut tx, tenant, address).await?.is_none() {
                return Ok(false);
            }
            sqlx::query("UPDATE mailboxes SET password_hash = ? WHERE tenant_id = ? AND address = ?")
                .bind(password_hash)
                .bind(tenant.as_uuid())
                .bind(address.as_str())
                .execute(&mut *tx)
                .await?;
            let (action, target) = ("mailbox.set_password", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target }
                .write(&mut tx, NOTHING, NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
    }

    async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        for statement in [
            "UPDATE mailboxes SET password_hash = ?4
              WHERE tenant_id = ?1 AND mailbox_id = ?2 AND password_hash = ?3",
            "UPDATE app_passwords SET password_hash = ?4
              WHERE tenant_id = ?1 AND mailbox_id = ?2 AND password_hash = ?3",
        ] {
            sqlx::query(statement)
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(old)
                .bind(new)
                .execute(&self.writer)
                .await
                .map_err(index_error)?;
        }
        Ok(())
    }

    async fn delete_mailbox(
        &self,
        tenant: TenantId,
        address: &Address,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some(before) = mailbox(&mut tx, tenant, address).await? else { return Ok(None) };
            sqlx::query(
                "INSERT INTO pack_garbage (tenant_id, pack_id, octets, at)
                 SELECT tenant_id, pack_id, sum(pack_length), ?3
                   FROM (SELECT tenant_id, mailbox_id, pack_id, pack_length FROM messages
                         UNION ALL
                         SELECT tenant_id, mailbox_id, pack_id, pack_length FROM deleted_messages)
                  WHERE tenant_id = ?1 AND mailbox_id = ?2 GROUP BY pack_id",
            )
            .bind(tenant.as_uuid())
            .bind(before.id.as_uuid())
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            for statement in [
                "DELETE FROM messages WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM deleted_messages WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM aliases WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM app_passwords WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?",
            ] {
                sqlx::query(statement)
                    .bind(tenant.as_uuid())
                    .bind(before.id.as_uuid())
                    .execute(&mut *tx)
                    .await?;
            }
            Audit { tenant: Some(tenant), actor, at, action: "mailbox.delete", target: address.as_str() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some(before.id))
        };
        let Some(mailbox) = run.await.map_err(index_error)? else { return Ok(false) };
        self.locks.end(tenant, Some(mailbox));
        Ok(true)
    }

    async fn create_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        password: &AppPassword,
        hash: &str,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some(mailbox) = renew_credentials(&mut tx, tenant, address).await? else {
                return Ok(Some(false));
            };
            let there: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM app_passwords WHERE tenant_id = ? AND mailbox_id = ?",
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
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(password.id.as_uuid())
            .bind(&password.label)
            .bind(scope_word(password.scope))
            .bind(hash)
            .bind(password.expires_at.map(micros))
            .bind(micros(password.created_at))
            .execute(&mut *tx)
            .await?;
            let (at, action, target) = (password.created_at, "app_password.create", address.as_str());
            Audit { tenant: Some(tenant), actor, at, action, target }
                .write(&mut tx, NOTHING, Some(password))
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some(true))
        };
        run.await.map_err(index_error)?.ok_or(IndexError::Conflict(Conflict::AppPasswords))
    }

    async fn app_passwords(
        &self,
        tenant: TenantId,
        address: &Address,
    ) -> Result<Option<Vec<AppPassword>>, IndexError> {
        let Some(mailbox) = self.mailbox(tenant, address).await? else { return Ok(None) };
        let rows: Vec<AppPasswordRow> = sqlx::query_as(
            "SELECT credential_id, label, scope, expires_at, last_used_at, created_at
               FROM app_passwords WHERE tenant_id = ? AND mailbox_id = ? ORDER BY credential_id",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.id.as_uuid())
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(TryInto::try_into).collect::<Result<_, _>>().map(Some)
    }

    async fn delete_app_password(
        &self,
        tenant: TenantId,
        address: &Address,
        id: CredentialId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let Some(mailbox) = renew_credentials(&mut tx, tenant, address).await? else {
                return Ok(false);
            };
            let row: Option<AppPasswordRow> = sqlx::query_as(
                "DELETE FROM app_passwords WHERE tenant_id = ? AND mailbox_id = ? AND credential_id = ?
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
            Audit { tenant: Some(tenant), actor, at, action, target }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
    }

    async fn touch_app_password(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        id: CredentialId,
        at: OffsetDateTime,
    ) -> Result<(), IndexError> {
        sqlx::query(
            "UPDATE app_passwords SET last_used_at = ?4
              WHERE tenant_id = ?1 AND mailbox_id = ?2 AND credential_id = ?3
                AND (last_used_at IS NULL OR last_used_at < ?5)",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(id.as_uuid())
        .bind(micros(at))
        .bind(micros(at - time::Duration::HOUR))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn create_alias(&self, tenant: TenantId, alias: &Alias, actor: &Actor) -> Result<(), IndexError> {
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

    async fn alias(&self, tenant: TenantId, address: &AliasAddress) -> Result<Option<Alias>, IndexError> {
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

    async fn list_aliases(
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

    async fn delete_alias(
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

    async fn all_tenants_api_key(&self, id: ApiKeyId) -> Result<Option<(ApiKey, [u8; 32])>, IndexError> {
        let row: Option<ApiKeyRow> =
            sqlx::query_as(concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE key_id = ?"))
                .bind(id.as_uuid())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(TryInto::try_into).transpose()
    }

    async fn create_api_key(
        &self,
        key: &ApiKey,
        secret_hash: &[u8; 32],
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            sqlx::query(
                "INSERT INTO api_keys (key_id, tenant_id, role, label, secret_hash, created_by, expires_at,
                                       created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(key.id.as_uuid())
            .bind(key.tenant.map(|t| t.as_uuid()))
            .bind(key.role.as_str())
            .bind(&key.label)
            .bind(secret_hash.as_slice())
            .bind(&key.created_by)
            .bind(key.expires_at.map(micros))
            .bind(micros(key.created_at))
            .execute(&mut *tx)
            .await?;
            let (at, target) = (key.created_at, key.id.to_string());
            Audit { tenant: key.tenant, actor, at, action: "api_key.create", target: &target }
                .write(&mut tx, NOTHING, Some(key))
                .await?;
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn list_api_keys(
        &self,
        tenant: Option<TenantId>,
        after: Option<ApiKeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IndexError> {
        let rows: Vec<ApiKeyRow> = sqlx::query_as(concat!(
            "SELECT ",
            api_key_columns!(),
            " FROM api_keys WHERE tenant_id IS ? AND key_id > ? ORDER BY key_id LIMIT ?"
        ))
        .bind(tenant.map(|t| t.as_uuid()))
        .bind(after.map_or(Uuid::nil(), |id| id.as_uuid()))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(|row| <(ApiKey, [u8; 32])>::try_from(row).map(|(key, _)| key)).collect()
    }

    async fn delete_api_key(
        &self,
        tenant: Option<TenantId>,
        id: ApiKeyId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let row: Option<ApiKeyRow> = sqlx::query_as(concat!(
                "DELETE FROM api_keys WHERE tenant_id IS ? AND key_id = ? RETURNING ",
                api_key_columns!()
            ))
            .bind(tenant.map(|t| t.as_uuid()))
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            let (before, _) = <(ApiKey, [u8; 32])>::try_from(row).map_err(undecodable)?;
            Audit { tenant, actor, at, action: "api_key.delete", target: &id.to_string() }
                .write(&mut tx, Some(&before), NOTHING)
                .await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
    }

    async fn touch_api_key(&self, id: ApiKeyId, at: OffsetDateTime) -> Result<(), IndexError> {
        sqlx::query(
            "UPDATE api_keys SET last_used_at = ?2
              WHERE key_id = ?1 AND (last_used_at IS NULL OR last_used_at < ?3)",
        )
        .bind(id.as_uuid())
        .bind(micros(at))
        .bind(micros(at - time::Duration::MINUTE))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn all_tenants_certificate(&self, host: &str) -> Result<Option<HostCertificate>, IndexError> {
        let Some(owner) = self.owner_of(host).await? else { return Ok(None) };
        for host in [Some(host.to_owned()), wildcard(host)].into_iter().flatten() {
            let (Some(tenant), Some(certificate)) =
                (self.tenant(owner).await?, self.certificate(owner, &host).await?)
            else {
                continue;
            };
            if tenant.state == State::Active {
                let greeting = tenant.settings.policy.greeting;
                return Ok(Some(HostCertificate { tenant: owner, key: tenant.key, certificate, greeting }));
            }
        }
        Ok(None)
    }

    async fn put_certificate(
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
            // One that another tenant left there, from when the domain was its own, is good for nobody.
            sqlx::query("DELETE FROM certificates WHERE host = ? AND tenant_id <> ?")
                .bind(host)
                .bind(tenant.as_uuid())
                .execute(&mut *tx)
                .await?;
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

    async fn certificate(&self, tenant: TenantId, host: &str) -> Result<Option<Certificate>, IndexError> {
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

    async fn list_certificates(
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

    async fn delete_certificate(
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
}

/// What a tenant's rows are in, in the order in which they are deleted, with the columns that name one row.
const TENANT_ROWS: [(&str, &str); 9] = [
    ("mailboxes", "mailbox_id"),
    ("aliases", "address"),
    ("app_passwords", "mailbox_id, credential_id"),
    ("messages", "mailbox_id, uid"),
    ("deleted_messages", "mailbox_id, uid"),
    ("pack_garbage", "rowid"),
    ("pack_refusals", "pack_id, mailbox_id"),
    ("packs", "pack_id"),
    ("traffic", "day, mailbox_id"),
];

impl Sqlite {
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

async fn insert_mailbox(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    new: &NewMailbox,
    actor: &Actor,
    at: OffsetDateTime,
) -> Result<Result<Mailbox, Conflict>, sqlx::Error> {
    if !own_domain(connection, tenant, new.address.domain()).await? {
        return Ok(Err(Conflict::ForeignDomain));
    }
    let alias: Option<i64> = sqlx::query_scalar("SELECT 1 FROM aliases WHERE tenant_id = ? AND address = ?")
        .bind(tenant.as_uuid())
        .bind(new.address.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    if alias.is_some() {
        return Ok(Err(Conflict::Address));
    }
    if !fits(room(connection, tenant).await?, new.settings.quota_octets) {
        return Ok(Err(Conflict::OverAllocated));
    }
    let made = Mailbox {
        id: new.id,
        address: new.address.clone(),
        state: if new.suspended { State::Suspended } else { State::Active },
        revision: 1,
        settings: new.settings.clone(),
        message_count: 0,
        octets: 0,
        created_at: at,
    };
    let created = sqlx::query(
        "INSERT INTO mailboxes (tenant_id, mailbox_id, address, password_hash, state, quota_octets,
                                quota_messages, policy, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant_id, address) DO NOTHING",
    )
    .bind(tenant.as_uuid())
    .bind(new.id.as_uuid())
    .bind(new.address.as_str())
    .bind(new.password_hash.as_deref().unwrap_or_default())
    .bind(state_word(made.state))
    .bind(new.settings.quota_octets.map(|n| n as i64))
    .bind(new.settings.quota_messages.map(|n| n as i64))
    .bind(Json(&new.settings.policy))
    .bind(micros(at))
    .execute(&mut *connection)
    .await?;
    if created.rows_affected() == 0 {
        return Ok(Err(Conflict::Address));
    }
    Audit { tenant: Some(tenant), actor, at, action: "mailbox.create", target: new.address.as_str() }
        .write(connection, NOTHING, Some(&made))
        .await?;
    Ok(Ok(made))
}

/// Octets that the tenant may still give to its mailboxes as quotas, or no limit.
async fn room(connection: &mut SqliteConnection, tenant: TenantId) -> Result<Option<i128>, sqlx::Error> {
    let row: Option<(Option<i64>, Option<u32>, i64)> = sqlx::query_as(
        "SELECT t.quota_octets, t.over_allocation_percent, coalesce(u.allocated_octets, 0)
           FROM tenants t LEFT JOIN tenant_usage u ON u.tenant_id = t.tenant_id WHERE t.tenant_id = ?",
    )
    .bind(tenant.as_uuid())
    .fetch_optional(connection)
    .await?;
    let Some((quota, percent, allocated)) = row else { return Ok(None) };
    let allocatable = allocatable(quota.map(|n| n as u64), percent);
    Ok(allocatable.map(|allocatable| i128::from(allocatable) - i128::from(allocated)))
}

async fn own_domain(
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

async fn mailbox(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Mailbox>, sqlx::Error> {
    let row: Option<MailboxRow> = sqlx::query_as(concat!(
        "SELECT ",
        mailbox_columns!(),
        " FROM mailboxes WHERE tenant_id = ? AND address = ?"
    ))
    .bind(tenant.as_uuid())
    .bind(address.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|row| Mailbox::try_from(row).map_err(undecodable)).transpose()
}

/// Raises the credential's version: what nodes remember of it no longer counts.
async fn renew_credentials(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    address: &Address,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "UPDATE mailboxes SET credential_version = credential_version + 1
          WHERE tenant_id = ? AND address = ? RETURNING mailbox_id",
    )
    .bind(tenant.as_uuid())
    .bind(address.as_str())
    .fetch_optional(connection)
    .await
}

fn recipient(row: RecipientRow) -> Result<ResolvedRecipient, IndexError> {
    let (
        tenant,
        mailbox,
        of_tenant,
        own,
        box_octets,
        pool_octets,
        box_messages,
        pool_messages,
        limits,
        defaults,
        policy,
    ) = row;
    let least = |one: Option<i64>, other: Option<i64>| {
        let least = one.into_iter().chain(other).min();
        least.map(|free| u64::try_from(free).unwrap_or(0))
    };
    Ok(ResolvedRecipient {
        tenant: TenantId::from_uuid(tenant),
        mailbox: MailboxId::from_uuid(mailbox),
        state: state_within(&of_tenant, &own)?,
        free_octets: least(box_octets, pool_octets),
        free_messages: least(box_messages, pool_messages),
        rules: Arc::new(rules(limits, &defaults, &policy)),
    })
}

/// A broken unique constraint is the conflict that the statement can have.
fn conflict(error: sqlx::Error, conflict: Conflict) -> IndexError {
    if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
        return IndexError::Conflict(conflict);
    }
    index_error(error)
}

/// A row that cannot be, within a transaction.
#[expect(clippy::needless_pass_by_value, reason = "what `map_err` gives")]
fn undecodable(error: IndexError) -> sqlx::Error {
    sqlx::Error::Decode(error.to_string().into())
}
