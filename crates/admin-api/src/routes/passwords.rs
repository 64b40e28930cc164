//! Passwords and app passwords of mailboxes.

use ::auth::{Password, Verifiers, Wanted};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use maildrop::{AppPassword, CredentialId, MailboxId, NewCredential, Policy, Tenant, TenantId};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    extract::{Body, OfAddress, OfCredential, Segments},
    fields::{expiry, label, uuid_of_path},
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::Caller,
    guard::TheTenant,
    idempotency::ShowsSecret,
    resources::{AppPasswordResource, NewAppPassword, Page, ShownAppPassword},
};

/// Longest password in octets: what fits a POP3 command line with room to spare (RFC 2449 §4).
const PASSWORD_OCTETS_MAX: usize = 400;

/// List a mailbox's app passwords, oldest first. The passwords themselves are not kept.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords",
    operation_id = "listAppPasswords", tag = "app passwords",
    responses((status = 200, description = "all of them", body = Page<AppPasswordResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
) -> Result<Json<Page<AppPasswordResource>>, Problem> {
    let OfAddress { address } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let rows = api.directory.app_passwords(tenant.id, &mailbox.address).await?;
    let rows = rows.ok_or_else(|| Problem::not_found("mailbox"))?;
    Ok(Json(Page { items: rows.iter().map(AppPasswordResource::from).collect(), next: None }))
}

/// Create an app password. The answer shows it, this once.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords",
    operation_id = "createAppPassword", tag = "app passwords", request_body = NewAppPassword,
    responses((status = 201, description = "the app password", body = ShownAppPassword)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    Body(body): Body<NewAppPassword>,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let now = api.now();
    let row = AppPassword {
        id: CredentialId::generate(),
        label: label(body.label)?,
        scope: body.scope.unwrap_or_default(),
        expires_at: expiry(body.expires_at.as_deref(), now)?,
        last_used_at: None,
        created_at: now,
    };
    let made = ::auth::NewAppPassword::generate();
    if !api.directory.create_app_password(tenant.id, &mailbox.address, &row, &made.hash, &actor).await? {
        return Err(Problem::not_found("mailbox"));
    }
    let shown = ShownAppPassword {
        id: row.id.as_uuid(),
        password: made.text.expose_secret().to_owned(),
        label: row.label,
        scope: row.scope,
        expires_at: row.expires_at,
        created_at: row.created_at,
    };
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.extensions_mut().insert(ShowsSecret(row.id.to_string()));
    Ok(response)
}

/// Delete an app password. It is good no longer, on no node.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/mailboxes/{address}/app-passwords/{id}",
    operation_id = "deleteAppPassword", tag = "app passwords",
    responses((status = 204, description = "it is deleted")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfCredential>,
) -> Result<StatusCode, Problem> {
    let OfCredential { address, id } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let id = CredentialId::from_uuid(uuid_of_path(&id, "app password")?);
    let at = api.now();
    if api.directory.delete_app_password(tenant.id, &mailbox.address, id, &actor, at).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("app password"))
    }
}

/// The mailbox's password as it is to be kept under `policy` (the mailbox's over its tenant's), or the hash that was brought along;
/// none where neither was.
pub(super) async fn credential_of(
    api: &Api,
    tenant: &Tenant,
    mailbox: MailboxId,
    policy: &Policy,
    password: Option<SecretString>,
    brought: Option<SecretString>,
) -> Result<Option<NewCredential>, Problem> {
    match (password, brought) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(Problem::invalid("password_hash", "a password and a hash cannot both be given"))
        }
        (Some(password), None) => {
            let password = checked_password(password.expose_secret())?;
            let hash = hash(api, tenant.id, password.clone()).await?;
            let verifiers = verifiers(api, tenant, mailbox, Wanted::by(policy), password).await?;
            Ok(Some(NewCredential { hash, verifiers }))
        }
        (None, Some(brought)) => checked(brought.expose_secret()).map(|hash| Some(hash.into())),
    }
}

/// What is wanted of a password beside its hash, sealed.
async fn verifiers(
    api: &Api,
    tenant: &Tenant,
    mailbox: MailboxId,
    wanted: Wanted,
    password: Password,
) -> Result<Option<Vec<u8>>, Problem> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let derived = api.hasher.verifiers_for(tenant.id, wanted, password).await;
    let octets = derived.ok_or_else(|| Problem::unavailable(true))?.to_octets();
    let sealed = api.blob.seal_secret(tenant.id, &tenant.key, &Verifiers::purpose(mailbox), &octets).await?;
    Ok(Some(sealed))
}

/// A hash of another system, if it is one that logins can be verified against.
fn checked(hash: &str) -> Result<String, Problem> {
    match ::auth::StoredPassword::parse(hash) {
        Ok(_) => Ok(hash.to_owned()),
        Err(error) => Err(Problem::invalid("password_hash", error)),
    }
}

fn checked_password(password: &str) -> Result<Password, Problem> {
    if password.is_empty() || password.len() > PASSWORD_OCTETS_MAX {
        let detail = format!("a password is 1 to {PASSWORD_OCTETS_MAX} octets");
        return Err(Problem::invalid("password", detail));
    }
    if password.chars().any(|c| matches!(c, '\r' | '\n' | '\0')) {
        return Err(Problem::invalid("password", "a password cannot hold CR, LF or NUL"));
    }
    Ok(Password::new(password.as_bytes().to_vec()))
}

async fn hash(api: &Api, tenant: TenantId, password: Password) -> Result<String, Problem> {
    api.hasher.hash_for(tenant, password).await.map_err(|error| {
        tracing::warn!(%error, "password could not be hashed");
        Problem::unavailable(true)
    })
}
