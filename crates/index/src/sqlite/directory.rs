//! Tenants, domains, mailboxes and credentials on SQLite.

use async_trait::async_trait;
use maildrop::{
    Actor, Address, Domain, DomainName, Mailbox, MailboxId, NewMailbox, SealedKey, Tenant, TenantId,
    TenantName,
    port::{Account, Conflict, Directory, IndexError, ResolvedRecipient},
};
use sqlx::SqliteConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Sqlite,
    maildrops::{from_micros, micros},
};
use crate::error::{corrupt, index_error};

type TenantRow = (Uuid, String, Vec<u8>, i64);
type MailboxRow = (Uuid, String, Option<i64>, i64, i64, i64);

#[async_trait]
impl Directory for Sqlite {
    async fn all_tenants_account(&self, login: &Address) -> Result<Option<Account>, IndexError> {
        let row: Option<(Uuid, Uuid, i64, String)> = sqlx::query_as(
            "SELECT b.tenant_id, b.mailbox_id, b.credential_version, b.password_hash
               FROM domains d
               JOIN mailboxes b ON b.tenant_id = d.tenant_id AND b.address = ?2
              WHERE d.name = ?1",
        )
        .bind(login.domain())
        .bind(login.as_str())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
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
        let mut found = Vec::with_capacity(addresses.len());
        for address in addresses {
            let row: Option<(Uuid, Uuid, Option<i64>)> = sqlx::query_as(
                "SELECT b.tenant_id, b.mailbox_id, max(b.quota_octets - b.octets, 0)
                   FROM domains d
                   JOIN mailboxes b ON b.tenant_id = d.tenant_id AND b.address = ?2
                  WHERE d.name = ?1",
            )
            .bind(address.domain())
            .bind(address.as_str())
            .fetch_optional(&self.reader)
            .await
            .map_err(index_error)?;
            found.push(row.map(|(tenant, mailbox, free)| ResolvedRecipient {
                tenant: TenantId::from_uuid(tenant),
                mailbox: MailboxId::from_uuid(mailbox),
                free_octets: free.map(|octets| octets as u64),
            }));
        }
        Ok(found)
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> =
            sqlx::query_as("SELECT tenant_id, name, data_key, created_at FROM tenants WHERE tenant_id = ?")
                .bind(id.as_uuid())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(tenant).transpose()
    }

    async fn tenant_by_name(&self, name: &TenantName) -> Result<Option<Tenant>, IndexError> {
        let row: Option<TenantRow> =
            sqlx::query_as("SELECT tenant_id, name, data_key, created_at FROM tenants WHERE name = ?")
                .bind(name.as_str())
                .fetch_optional(&self.reader)
                .await
                .map_err(index_error)?;
        row.map(tenant).transpose()
    }

    async fn all_tenants_list(
        &self,
        after: Option<&TenantName>,
        limit: u32,
    ) -> Result<Vec<Tenant>, IndexError> {
        let rows: Vec<TenantRow> = sqlx::query_as(
            "SELECT tenant_id, name, data_key, created_at FROM tenants
              WHERE name > ? ORDER BY name LIMIT ?",
        )
        .bind(after.map_or("", TenantName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(tenant).collect()
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
            audit(&mut tx, tenant.id, actor, tenant.created_at, "tenant.create", tenant.name.as_str())
                .await?;
            tx.commit().await
        };
        run.await.map_err(|error| conflict(error, Conflict::TenantName))
    }

    async fn delete_tenant(
        &self,
        tenant: TenantId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let name: Option<String> = sqlx::query_scalar("SELECT name FROM tenants WHERE tenant_id = ?")
                .bind(tenant.as_uuid())
                .fetch_optional(&mut *tx)
                .await?;
            let Some(name) = name else { return Ok(false) };
            for statement in [
                "DELETE FROM messages WHERE tenant_id = ?",
                "DELETE FROM pack_garbage WHERE tenant_id = ?",
                "DELETE FROM pack_refusals WHERE tenant_id = ?",
                "DELETE FROM packs WHERE tenant_id = ?",
                "DELETE FROM mailboxes WHERE tenant_id = ?",
                "DELETE FROM domains WHERE tenant_id = ?",
                "DELETE FROM tenants WHERE tenant_id = ?",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).execute(&mut *tx).await?;
            }
            audit(&mut tx, tenant, actor, at, "tenant.delete", &name).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        let deleted = run.await.map_err(index_error)?;
        self.locks.revoke(tenant, None);
        Ok(deleted)
    }

    async fn create_domain(
        &self,
        tenant: TenantId,
        domain: &Domain,
        actor: &Actor,
    ) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            sqlx::query("INSERT INTO domains (tenant_id, name, created_at) VALUES (?, ?, ?)")
                .bind(tenant.as_uuid())
                .bind(domain.name.as_str())
                .bind(micros(domain.created_at))
                .execute(&mut *tx)
                .await?;
            audit(&mut tx, tenant, actor, domain.created_at, "domain.create", domain.name.as_str()).await?;
            tx.commit().await
        };
        run.await.map_err(|error| conflict(error, Conflict::DomainName))
    }

    async fn list_domains(
        &self,
        tenant: TenantId,
        after: Option<&DomainName>,
        limit: u32,
    ) -> Result<Vec<Domain>, IndexError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT name, created_at FROM domains WHERE tenant_id = ? AND name > ? ORDER BY name LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(after.map_or("", DomainName::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter()
            .map(|(name, created_at)| {
                let name = DomainName::try_from(name.as_str()).map_err(|_| corrupt("domain name"))?;
                Ok(Domain { name, created_at: from_micros(created_at)? })
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
        let run = async {
            let mut tx = self.writer.begin().await?;
            let used: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM mailboxes
                                 WHERE tenant_id = ?1
                                   AND substr(address, -length(?2) - 1) = '@' || ?2)",
            )
            .bind(tenant.as_uuid())
            .bind(name.as_str())
            .fetch_one(&mut *tx)
            .await?;
            if used {
                return Ok(None);
            }
            let gone = sqlx::query("DELETE FROM domains WHERE tenant_id = ? AND name = ?")
                .bind(tenant.as_uuid())
                .bind(name.as_str())
                .execute(&mut *tx)
                .await?;
            if gone.rows_affected() == 0 {
                return Ok(Some(false));
            }
            audit(&mut tx, tenant, actor, at, "domain.delete", name.as_str()).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some(true))
        };
        run.await.map_err(index_error)?.ok_or(IndexError::Conflict(Conflict::DomainInUse))
    }

    async fn create_mailbox(
        &self,
        tenant: TenantId,
        mailbox: &NewMailbox,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Mailbox, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            let domain: Option<i64> =
                sqlx::query_scalar("SELECT 1 FROM domains WHERE tenant_id = ? AND name = ?")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.address.domain())
                    .fetch_optional(&mut *tx)
                    .await?;
            if domain.is_none() {
                return Ok(false);
            }
            sqlx::query(
                "INSERT INTO mailboxes (tenant_id, mailbox_id, address, password_hash, quota_octets, created_at)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.id.as_uuid())
            .bind(mailbox.address.as_str())
            .bind(&mailbox.password_hash)
            .bind(mailbox.quota_octets.map(|octets| octets as i64))
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            audit(&mut tx, tenant, actor, at, "mailbox.create", mailbox.address.as_str()).await?;
            tx.commit().await?;
            Ok(true)
        };
        if !run.await.map_err(|error| conflict(error, Conflict::Address))? {
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
        let row: Option<MailboxRow> = sqlx::query_as(
            "SELECT mailbox_id, address, quota_octets, message_count, octets, created_at
               FROM mailboxes WHERE tenant_id = ? AND address = ?",
        )
        .bind(tenant.as_uuid())
        .bind(address.as_str())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        row.map(to_mailbox).transpose()
    }

    async fn list_mailboxes(
        &self,
        tenant: TenantId,
        after: Option<&Address>,
        limit: u32,
    ) -> Result<Vec<Mailbox>, IndexError> {
        let rows: Vec<MailboxRow> = sqlx::query_as(
            "SELECT mailbox_id, address, quota_octets, message_count, octets, created_at
               FROM mailboxes WHERE tenant_id = ? AND address > ? ORDER BY address LIMIT ?",
        )
        .bind(tenant.as_uuid())
        .bind(after.map_or("", Address::as_str))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        rows.into_iter().map(to_mailbox).collect()
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
            let changed = sqlx::query(
                "UPDATE mailboxes SET password_hash = ?, credential_version = credential_version + 1
                  WHERE tenant_id = ? AND address = ?",
            )
            .bind(password_hash)
            .bind(tenant.as_uuid())
            .bind(address.as_str())
            .execute(&mut *tx)
            .await?;
            if changed.rows_affected() == 0 {
                return Ok(false);
            }
            audit(&mut tx, tenant, actor, at, "mailbox.set_password", address.as_str()).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(true)
        };
        run.await.map_err(index_error)
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
            let mailbox: Option<Uuid> =
                sqlx::query_scalar("SELECT mailbox_id FROM mailboxes WHERE tenant_id = ? AND address = ?")
                    .bind(tenant.as_uuid())
                    .bind(address.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
            let Some(mailbox) = mailbox else { return Ok(None) };
            sqlx::query(
                "INSERT INTO pack_garbage (tenant_id, pack_id, octets, at)
                 SELECT tenant_id, pack_id, sum(pack_length), ?3 FROM messages
                  WHERE tenant_id = ?1 AND mailbox_id = ?2 GROUP BY pack_id",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(micros(at))
            .execute(&mut *tx)
            .await?;
            for statement in [
                "DELETE FROM messages WHERE tenant_id = ? AND mailbox_id = ?",
                "DELETE FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ?",
            ] {
                sqlx::query(statement).bind(tenant.as_uuid()).bind(mailbox).execute(&mut *tx).await?;
            }
            audit(&mut tx, tenant, actor, at, "mailbox.delete", address.as_str()).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(Some(mailbox))
        };
        let Some(mailbox) = run.await.map_err(index_error)? else { return Ok(false) };
        self.locks.revoke(tenant, Some(MailboxId::from_uuid(mailbox)));
        Ok(true)
    }
}

/// Writes what is being done to the audit log, in the transaction that does it.
async fn audit(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    actor: &Actor,
    at: OffsetDateTime,
    action: &'static str,
    target: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO audit_log (at, tenant_id, actor, origin, action, target) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(micros(at))
    .bind(tenant.as_uuid())
    .bind(&actor.name)
    .bind(&actor.origin)
    .bind(action)
    .bind(target)
    .execute(connection)
    .await?;
    Ok(())
}

/// A broken unique constraint is the conflict that the statement can have.
fn conflict(error: sqlx::Error, conflict: Conflict) -> IndexError {
    if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) {
        return IndexError::Conflict(conflict);
    }
    index_error(error)
}

fn tenant((id, name, key, created_at): TenantRow) -> Result<Tenant, IndexError> {
    Ok(Tenant {
        id: TenantId::from_uuid(id),
        name: TenantName::try_from(name.as_str()).map_err(|_| corrupt("tenant name"))?,
        key: SealedKey(key),
        created_at: from_micros(created_at)?,
    })
}

fn to_mailbox(row: MailboxRow) -> Result<Mailbox, IndexError> {
    let (id, address, quota_octets, message_count, octets, created_at) = row;
    Ok(Mailbox {
        id: MailboxId::from_uuid(id),
        address: Address::try_from(address.as_str()).map_err(|_| corrupt("address"))?,
        quota_octets: quota_octets.map(|octets| octets as u64),
        message_count: message_count as u64,
        octets: octets as u64,
        created_at: from_micros(created_at)?,
    })
}
