//! TLS certificates of a tenant, which clients get that ask for its hosts (SNI).

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use maildrop::{Certificate, DomainName};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{
    extract::{Body, OfHost, Params, Segments},
    fields::bad_cursor,
    respond::listed,
};
use crate::{
    Problem,
    api::Shared,
    auth::Caller,
    guard::TheTenant,
    resources::{CertificateBody, CertificateResource, CertificateWithChain, ListQuery, Page},
};

/// What the key of a certificate is sealed for; listeners open it for the same.
const PURPOSE: &str = "tls";
/// Bounds of what is kept: a long chain is four certificates of 4 KiB each, in base64.
const CHAIN_OCTETS_MAX: usize = 100_000;
const CHAIN_CERTIFICATES_MAX: usize = 10;

/// List a tenant's certificates by host.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/certificates", operation_id = "listCertificates",
    tag = "certificates", params(ListQuery),
    responses((status = 200, description = "a page of certificates", body = Page<CertificateResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Params(query): Params<ListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map(|text| host(text).ok_or(())).transpose().map_err(bad_cursor)?;
    let rows = api.directory.list_certificates(tenant.id, after.as_deref(), limit + 1).await?;
    let page = Page::<CertificateResource>::new(rows, limit, |row: &Certificate| row.host.clone());
    Ok(listed(page, &uri, "after"))
}

/// Show a certificate with its chain. The key is never shown.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/certificates/{host}", operation_id = "readCertificate",
    tag = "certificates", responses((status = 200, description = "the certificate", body = CertificateWithChain)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfHost>,
) -> Result<Json<CertificateWithChain>, Problem> {
    let OfHost { host: name } = path;
    let host = host(&name).ok_or_else(none)?;
    let found = api.directory.certificate(tenant.id, &host).await?;
    Ok(Json(CertificateWithChain::from(&found.ok_or_else(none)?)))
}

/// Put a certificate in the place of the one for its host.
///
/// The host must be within one of the tenant's domains; the leaf must be for it, be valid, and belong to the key. The
/// key is kept sealed.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/certificates/{host}", operation_id = "putCertificate",
    tag = "certificates", request_body = CertificateBody,
    responses((status = 200, description = "it replaced another", body = CertificateResource),
        (status = 201, description = "it is new", body = CertificateResource)))]
pub(super) async fn put(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfHost>,
    Body(body): Body<CertificateBody>,
) -> Result<Response, Problem> {
    let OfHost { host: name } = path;
    let host = host(&name).ok_or_else(none)?;
    let now = api.now();
    let key = body.key.expose_secret().as_bytes();
    let not_after = check(&host, &body.chain, key, now)?;
    let sealed_key = api.blob.seal_secret(tenant.id, &tenant.key, PURPOSE, key).await?;
    let certificate = Certificate { host, chain: body.chain, sealed_key, not_after, created_at: now };
    let is_new = api.directory.put_certificate(tenant.id, &certificate, &actor).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(CertificateResource::from(&certificate))).into_response())
}

/// Delete a certificate. Clients that ask for its host get the node's.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/certificates/{host}", operation_id = "deleteCertificate",
    tag = "certificates", responses((status = 204, description = "it is deleted")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfHost>,
) -> Result<StatusCode, Problem> {
    let OfHost { host: name } = path;
    let host = host(&name).ok_or_else(none)?;
    if api.directory.delete_certificate(tenant.id, &host, &actor, api.now()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(none())
    }
}

fn none() -> Problem {
    Problem::not_found("certificate")
}

/// A host name as certificates are kept under it; `*.` in front stands for one label.
fn host(text: &str) -> Option<String> {
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    DomainName::try_from(name).ok().map(|name| format!("{star}{name}"))
}

/// Checks that a chain and a key can serve `host`, and gives when the leaf ceases to be valid.
fn check(host: &str, chain: &str, key: &[u8], now: OffsetDateTime) -> Result<OffsetDateTime, Problem> {
    let bad_chain = |detail: &str| Problem::invalid("chain", detail);
    let bad_key = |detail: &str| Problem::invalid("key", detail);
    if chain.len() > CHAIN_OCTETS_MAX || chain.contains('\0') {
        return Err(bad_chain("is 100,000 octets of PEM at most"));
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let certificates = certificates.map_err(|_| bad_chain("is no PEM"))?;
    if !(1..=CHAIN_CERTIFICATES_MAX).contains(&certificates.len()) {
        return Err(bad_chain("is 1 to 10 certificates"));
    }
    for certificate in &certificates {
        X509Certificate::from_der(certificate).map_err(|_| bad_chain("holds what is no certificate"))?;
    }
    let leaf = certificates.first().map(|leaf| X509Certificate::from_der(leaf));
    let Some(Ok((_, leaf))) = leaf else { return Err(bad_chain("holds what is no certificate")) };
    if !covers(&leaf, host) {
        return Err(bad_chain("the leaf is not for this host (subjectAltName)"));
    }
    let not_after = leaf.validity().not_after.to_datetime();
    if not_after <= now {
        return Err(bad_chain("the leaf is not valid any more"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad_key("is no private key in PEM"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing_key = provider.key_provider.load_private_key(key);
    let signing_key = signing_key.map_err(|_| bad_key("is of no kind that can be used for TLS"))?;
    let certified = CertifiedKey::new(certificates.clone(), signing_key);
    certified.keys_match().map_err(|_| bad_key("is not the key of the leaf"))?;
    Ok(not_after)
}

/// Whether the leaf's names cover the host (RFC 9525 §6.3): one of them is it, or has `*` for its first label.
fn covers(leaf: &X509Certificate<'_>, host: &str) -> bool {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    let parent = host.split_once('.').map(|(_, parent)| parent);
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => {
            let name = name.to_ascii_lowercase();
            name == host
                || (!host.starts_with("*.")
                    && name.strip_prefix("*.").is_some_and(|rest| Some(rest) == parent))
        }
        _ => false,
    })
}
