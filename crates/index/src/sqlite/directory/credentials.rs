//! Passwords of mailboxes, and app passwords beside them.

use maildrop::{
    Actor, Address, AppPassword, CredentialId, MailboxId, NewCredential, TenantId,
    port::{APP_PASSWORDS_MAX, Conflict, IndexError},
};
use sqlx::SqliteConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::undecodable;
use crate::{
    error::index_error,
    rows::AppPasswordRow,
    sqlite::{
        Sqlite,
        audit::{Audit, NOTHING},
        maildrops::micros,
    },
    words::scope_word,
};

impl Sqlite {
    pub(super) async fn set_password(
        &self,
        tenant: TenantId,
        address: &Address,
        credential: &NewCredential,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<bool, IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            if renew_credentials(&mut tx, tenant, address).await?.is_none() {
                return Ok(false);
            }
            sqlx::query(
                "UPDATE mailboxes SET password_hash = ?, verifiers = ? WHERE tenant_id = ? AND address = ?",
            )
            .bind(&credential.hash)
            .bind(&credential.verifiers)
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

    pub(super) async fn rehash(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        old: &str,
        new: &str,
    ) -> Result<(), IndexError> {
        let rehash = async {
            let mut tx = self.writer.begin().await?;
            let kept: Option<Option<Vec<u8>>> = sqlx::query_scalar(
                "SELECT verifiers FROM mailboxes WHERE tenant_id = ? AND mailbox_id = ? AND password_hash = ?",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(old)
            .fetch_optional(&mut *tx)
            .await?;
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
                    .execute(&mut *tx)
                    .await?;
            }
            // A trigger takes a new hash for a new password; it is the same one, and what is kept of it stays.
            if let Some(Some(kept)) = kept {
                sqlx::query("UPDATE mailboxes SET verifiers = ?3 WHERE tenant_id = ?1 AND mailbox_id = ?2")
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(kept)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        };
        rehash.await.map_err(index_error)
    }

    pub(super) async fn keep_verifiers(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        credential_version: i64,
        sealed: &[u8],
    ) -> Result<(), IndexError> {
        sqlx::query(
            "UPDATE mailboxes SET verifiers = ?
              WHERE tenant_id = ? AND mailbox_id = ? AND credential_version = ?",
        )
        .bind(sealed)
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(credential_version)
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    pub(super) async fn create_app_password(
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

    pub(super) async fn app_passwords(
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

    pub(super) async fn delete_app_password(
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

    pub(super) async fn touch_app_password(
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
