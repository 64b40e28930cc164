//! Passwords of mailboxes, and app passwords beside them.

use maildrop::{
    Actor, Address, AppPassword, CredentialId, MailboxId, NewCredential, TenantId,
    port::{APP_PASSWORDS_MAX, Conflict, IndexError},
};
use sqlx::{Postgres as Db, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{mailboxes::mailbox_id, undecodable};
use crate::{
    postgres::{
        Postgres,
        scoped::{Audit, json},
    },
    rows::AppPasswordRow,
    words::scope_word,
};

impl Postgres {
    pub(super) async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        credential: &NewCredential,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        self.once(|| async {
            let mut tx = self.scoped(tenant).await?;
            let Some(mailbox) = renew_credentials(&mut tx, tenant, address).await? else {
                return Ok(false);
            };
            sqlx::query(
                "INSERT INTO credentials (tenant_id, mailbox_id, password_hash, verifiers) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (tenant_id, mailbox_id)
                 DO UPDATE SET password_hash = excluded.password_hash, verifiers = excluded.verifiers",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox)
            .bind(&credential.hash)
            .bind(&credential.verifiers)
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

    pub(super) async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            let kept: Option<Option<Vec<u8>>> = sqlx::query_scalar(
                "SELECT verifiers FROM credentials
                  WHERE tenant_id = $1 AND mailbox_id = $2 AND password_hash = $3 FOR UPDATE",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(old)
            .fetch_optional(&mut *tx)
            .await?;
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
            // A trigger takes a new hash for a new password; it is the same one, and what is kept of it stays.
            if let Some(Some(kept)) = kept {
                sqlx::query("UPDATE credentials SET verifiers = $3 WHERE tenant_id = $1 AND mailbox_id = $2")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(kept)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        })
        .await
    }

    pub(super) async fn keep_verifiers(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
        sealed: &[u8],
    ) -> Result<(), IndexError> {
        self.repeatable(|| async {
            let mut tx = self.scoped(tenant).await?;
            // The mailbox's row is locked: a password that is set meanwhile comes after, and forgets this.
            sqlx::query(
                "UPDATE credentials c SET verifiers = $4
                   FROM (SELECT tenant_id, mailbox_id FROM mailboxes
                          WHERE tenant_id = $1 AND mailbox_id = $2 AND credential_version = $3
                            FOR UPDATE) b
                  WHERE c.tenant_id = b.tenant_id AND c.mailbox_id = b.mailbox_id",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(credential_version)
            .bind(sealed)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    pub(super) async fn create_app_password(
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

    pub(super) async fn app_passwords(
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

    pub(super) async fn delete_app_password(
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

    pub(super) async fn touch_app_password(
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
