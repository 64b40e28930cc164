//! Tenants, domains, mailboxes and credentials on PostgreSQL.

use async_trait::async_trait;
use maildrop::{
    Actor, Address, Domain, DomainName, Mailbox, MailboxId, NewMailbox, SealedKey, Tenant, TenantId,
    TenantName,
    port::{Account, Conflict, Directory, IndexError, ResolvedRecipient},
};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{DELETION_TIMEOUT, Postgres};
use crate::error::corrupt;

#[async_trait]
impl Directory for Postgres {
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError> {
        let row: Option<(Uuid, Uuid, i64, String)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT b.tenant_id, b.mailbox_id, b.credential_version, c.password_hash
                       FROM domains d
                       JOIN mailboxes b ON b.tenant_id = d.tenant_id AND b.address = $2
                       JOIN credentials c ON c.tenant_id = b.tenant_id AND c.mailbox_id = b.mailbox_id
                      WHERE d.name = $1",
                )
                .bind(login.domain())
                .bind(login.as_str())
                .fetch_optional(&self.pool)
            })
            .await?;
        Ok(row.map(|(tenant, mailbox, credential_version, password_hash)| Account {
            tenant: TenantId::from_uuid(tenant),
            mailbox: MailboxId::from_uuid(mailbox),
            credential_version,
            password_hash,
        }))
    }

    async fn all_tenants_recipients(
        &self,
        addresses: &[Address],
    ) -> Result<Vec<Option<ResolvedRecipient>>, IndexError> {
        let texts: Vec<&str> = addresses.iter().map(Address::as_str).collect();
        let domains: Vec<&str> = addresses.iter().map(Address::domain).collect();
        let rows: Vec<(i64, Uuid, Uuid, Option<i64>)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT r.place, b.tenant_id, b.mailbox_id,
                            CASE WHEN b.quota_octets IS NOT NULL THEN greatest(b.quota_octets - b.octets, 0) END
                       FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (address, domain, place)
                       JOIN domains d ON d.name = r.domain
                       JOIN mailboxes b ON b.tenant_id = d.tenant_id AND b.address = r.address",
                )
                .bind(&texts)
                .bind(&domains)
                .fetch_all(&self.pool)
            })
            .await?;
        let mut found = vec![None; addresses.len()];
        for (place, tenant, mailbox, free) in rows {
            if let Some(slot) = found.get_mut((place - 1) as usize) {
                *slot = Some(ResolvedRecipient {
                    tenant: TenantId::from_uuid(tenant),
                    mailbox: MailboxId::from_uuid(mailbox),
                    free_octets: free.map(|octets| octets as u64),
                });
            }
        }
        Ok(found)
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT tenant_id, name, data_key, created_at FROM tenants WHERE tenant_id = $1",
                )
                .bind(id.as_uuid())
                .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> = self
            .repeatable(|| {
                sqlx::query_as("SELECT tenant_id, name, data_key, created_at FROM tenants WHERE name = $1")
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
                sqlx::query_as(
                    "SELECT tenant_id, name, data_key, created_at FROM tenants
                      WHERE name > $1 ORDER BY name LIMIT $2",
                )
                .bind(after.map_or("", TenantName::as_str))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    async fn create_tenant(&self, tenant: &Tenant, actor: &Actor) -> Result<(), IndexError> {
        self.once(|| async {
            let mut tx = self.pool.begin().await?;
            sqlx::query(
                "INSERT INTO tenants (tenant_id, name, data_key, created_at) VALUES ($1, $2, $3, $4)",
            )
            .bind(tenant.id.as_uuid())
            .bind(tenant.name.as_str())
            .bind(&tenant.key.0)
            .bind(tenant.created_at)
            .execute(&mut *tx)
            .await?;
            audit(&mut tx, Some(tenant.id), actor, tenant.created_at, "tenant.create", tenant.name.as_str())
                .await?;
            tx.commit().await
        })
        .await
        .map_err(|error| conflict(error, Conflict::TenantName))
    }

    async fn delete_tenant(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once_within(DELETION_TIMEOUT, || async {
            let mut tx = self.pool.begin().await?;
            let name: Option<String> =
                sqlx::query_scalar("SELECT name FROM tenants WHERE tenant_id = $1 FOR UPDATE")
                    .bind(tenant.as_uuid())
                    .fetch_optional(&mut *tx)
                    .await?;
            let Some(name) = name else { return Ok(false) };
            for statement in [
                "DELETE FROM maildrop_locks WHERE tenant_id = $1",
                // Before the messages: a delivery under way holds its mailboxes' rows, so this waits for it,
                // and a later one finds none.
                "DELETE FROM mailboxes WHERE tenant_id = $1",
                "DELETE FROM messages WHERE tenant_id = $1",
                "DELETE FROM pack_garbage WHERE tenant_id = $1",
                "DELETE FROM pack_refusals WHERE tenant_id = $1",
                "DELETE FROM packs WHERE tenant_id = $1",
                "DELETE FROM domains WHERE tenant_id = $1",
                "DELETE FROM tenants WHERE tenant_id = $1",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            audit(&mut tx, Some(tenant), actor, at, "tenant.delete", &name).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        self.once(|| async {
            let mut tx = self.pool.begin().await?;
            sqlx::query("INSERT INTO domains (tenant_id, name, created_at) VALUES ($1, $2, $3)")
                .bind(tenant.as_uuid())
                .bind(domain.name.as_str())
                .bind(domain.created_at)
                .execute(&mut *tx)
                .await?;
            audit(&mut tx, Some(tenant), actor, domain.created_at, "domain.create", domain.name.as_str())
                .await?;
            tx.commit().await
        })
        .await
        .map_err(|error| conflict(error, Conflict::DomainName))
    }

    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        let rows: Vec<(String, OffsetDateTime)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT name, created_at FROM domains
                      WHERE tenant_id = $1 AND name > $2 ORDER BY name LIMIT $3",
                )
                .bind(tenant.as_uuid())
                .bind(after.map_or("", DomainName::as_str))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter()
            .map(|(name, created_at)| {
                let name = DomainName::try_from(name.as_str()).map_err(|_| corrupt("domain name"))?;
                Ok(Domain { name, created_at })
            })
            .collect()
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
                let mut tx = self.pool.begin().await?;
                // The row's lock keeps mailboxes from being created under it meanwhile.
                let exists: Option<i32> =
                    sqlx::query_scalar("SELECT 1 FROM domains WHERE tenant_id = $1 AND name = $2 FOR UPDATE")
                        .bind(tenant.as_uuid())
                        .bind(name.as_str())
                        .fetch_optional(&mut *tx)
                        .await?;
                if exists.is_none() {
                    return Ok(Some(false));
                }
                let used: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM mailboxes
                                     WHERE tenant_id = $1 AND split_part(address, '@', -1) = $2)",
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
                audit(&mut tx, Some(tenant), actor, at, "domain.delete", name.as_str()).await?;
                tx.commit().await?;
                Ok(Some(true))
            })
            .await?;
        deleted.ok_or(IndexError::Conflict(Conflict::DomainInUse))
    }

    async fn create_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &NewMailbox,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Mailbox, IndexError> {
        let created = self
            .once(|| async {
                let mut tx = self.pool.begin().await?;
                let domain: Option<i32> =
                    sqlx::query_scalar("SELECT 1 FROM domains WHERE tenant_id = $1 AND name = $2 FOR SHARE")
                        .bind(tenant.as_uuid())
                        .bind(mailbox.address.domain())
                        .fetch_optional(&mut *tx)
                        .await?;
                if domain.is_none() {
                    return Ok(false);
                }
                sqlx::query(
                    "INSERT INTO mailboxes (tenant_id, mailbox_id, address, quota_octets, created_at)
                     VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.id.as_uuid())
                .bind(mailbox.address.as_str())
                .bind(mailbox.quota_octets.map(|octets| octets as i64))
                .bind(at)
                .execute(&mut *tx)
                .await?;
                sqlx::query(
                    "INSERT INTO credentials (tenant_id, mailbox_id, password_hash) VALUES ($1, $2, $3)",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.id.as_uuid())
                .bind(&mailbox.password_hash)
                .execute(&mut *tx)
                .await?;
                audit(&mut tx, Some(tenant), actor, at, "mailbox.create", mailbox.address.as_str()).await?;
                tx.commit().await?;
                Ok(true)
            })
            .await
            .map_err(|error| conflict(error, Conflict::Address))?;
        if !created {
            return Err(IndexError::Conflict(Conflict::ForeignDomain));
        }
        Ok(Mailbox {
            id: mailbox.id,
            address: mailbox.address.clone(),
            quota_octets: mailbox.quota_octets,
            message_count: 0,
            octets: 0,
            created_at: at,
        })
    }

    async fn mailbox(&self, tenant: TenantId, address: &Address) -> Result<Option<Mailbox>, IndexError> {
        let row: Option<MailboxRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT mailbox_id, address, quota_octets, message_count, octets, created_at
                       FROM mailboxes WHERE tenant_id = $1 AND address = $2",
                )
                .bind(tenant.as_uuid())
                .bind(address.as_str())
                .fetch_optional(&self.pool)
            })
            .await?;
        row.map(TryInto::try_into).transpose()
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        after: Option<&Address>,
        limit: u32,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let rows: Vec<MailboxRow> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT mailbox_id, address, quota_octets, message_count, octets, created_at
                       FROM mailboxes WHERE tenant_id = $1 AND address > $2 ORDER BY address LIMIT $3",
                )
                .bind(tenant.as_uuid())
                .bind(after.map_or("", Address::as_str))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.into_iter().map(TryInto::try_into).collect()
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
            let mut tx = self.pool.begin().await?;
            let mailbox: Option<Uuid> = sqlx::query_scalar(
                "UPDATE mailboxes SET credential_version = credential_version + 1
                  WHERE tenant_id = $1 AND address = $2 RETURNING mailbox_id",
            )
            .bind(tenant.as_uuid())
            .bind(address.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(mailbox) = mailbox else { return Ok(false) };
            sqlx::query(
                "INSERT INTO credentials (tenant_id, mailbox_id, password_hash) VALUES ($1, $2, $3)
                 ON CONFLICT (tenant_id, mailbox_id) DO UPDATE SET password_hash = excluded.password_hash",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(password_hash)
            .execute(&mut *tx)
            .await?;
            audit(&mut tx, Some(tenant), actor, at, "mailbox.set_password", address.as_str()).await?;
            tx.commit().await?;
            Ok(true)
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
            let mut tx = self.pool.begin().await?;
            // The row first: a delivery waits here, and finds nothing afterwards.
            let mailbox: Option<Uuid> = sqlx::query_scalar(
                "SELECT mailbox_id FROM mailboxes WHERE tenant_id = $1 AND address = $2 FOR UPDATE",
            )
            .bind(tenant.as_uuid())
            .bind(address.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            let Some(mailbox) = mailbox else { return Ok(false) };
            for statement in [
                "DELETE FROM maildrop_locks WHERE tenant_id = $1 AND mailbox_id = $2",
                "WITH gone AS (DELETE FROM messages WHERE tenant_id = $1 AND mailbox_id = $2
                               RETURNING pack_id, pack_length)
                 INSERT INTO pack_garbage (tenant_id, pack_id, octets)
                 SELECT $1, pack_id, sum(pack_length) FROM gone GROUP BY pack_id",
                "DELETE FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).bind(mailbox).execute(&mut *tx).await?;
            }
            audit(&mut tx, Some(tenant), actor, at, "mailbox.delete", address.as_str()).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }
}

/// Writes what is being done to the audit log, in the transaction that does it.
async fn audit(
    tx: &mut Transaction<'_, Db>,
    tenant: Option<TenantId>,
    actor: &Actor,
    at: OffsetDateTime,
    action: &'static str,
    target: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO audit_log (at, tenant_id, actor, origin, action, target) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(at)
    .bind(tenant.map(|t| t.as_uuid()))
    .bind(&actor.name)
    .bind(&actor.origin)
    .bind(action)
    .bind(target)
    .execute(&mut **tx)
    .await?;
    Ok(())
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

#[derive(sqlx::FromRow)]
struct TenantRow {
    tenant_id: Uuid,
    name: String,
    data_key: Vec<u8>,
    created_at: OffsetDateTime,
}

impl TryFrom<TenantRow> for Tenant {
    type Error = IndexError;

    fn try_from(row: TenantRow) -> Result<Self, IndexError> {
        Ok(Self {
            id: TenantId::from_uuid(row.tenant_id),
            name: TenantName::try_from(row.name.as_str()).map_err(|_| corrupt("tenant name"))?,
            key: SealedKey(row.data_key),
            created_at: row.created_at,
        })
    }
}

#[derive(sqlx::FromRow)]
struct MailboxRow {
    mailbox_id: Uuid,
    address: String,
    quota_octets: Option<i64>,
    message_count: i64,
    octets: i64,
    created_at: OffsetDateTime,
}

impl TryFrom<MailboxRow> for Mailbox {
    type Error = IndexError;

    fn try_from(row: MailboxRow) -> Result<Self, IndexError> {
        Ok(Self {
            id: MailboxId::from_uuid(row.mailbox_id),
            address: Address::try_from(row.address.as_str()).map_err(|_| corrupt("address"))?,
            quota_octets: row.quota_octets.map(|octets| octets as u64),
            message_count: row.message_count as u64,
            octets: row.octets as u64,
            created_at: row.created_at,
        })
    }
}
