//! Stores of a tenant's own.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use maildrop::{
    BucketPlace, BucketSettings, Buckets, KnownBucket, StoreNumber, Tenant, TenantBuckets,
    port::{Conflict, IndexError, StorePacks},
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{
    extract::{Body, IfMatch, Segments},
    respond::tagged,
};
use crate::{
    Problem,
    api::{Api, Shared},
    auth::Caller,
    guard::TheTenant,
};

/// How long a store is kept after new packs go elsewhere, whether it seems empty or not: twice as long as a pack may
/// wait for its rows, so that a node that has not heard of it cannot have put there what is about to be known.
const LEFT_FOR: Duration = Duration::days(1);

/// Where a tenant's packs lie.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BucketResource {
    /// The tenant's own store, which new packs go to; null where they go to the house's.
    #[schema(nullable)]
    current: Option<StoreResource>,
    /// Stores of its own that it had before, and that packs may still lie in.
    earlier: Vec<StoreResource>,
    /// Packs in the house's store.
    house_packs: u64,
    /// Octets of these.
    house_octets: u64,
    /// Packs that do not lie where new ones go.
    packs_elsewhere: u64,
    /// Octets of these.
    octets_elsewhere: u64,
}

/// A store of a tenant's own. The secret is not shown.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct StoreResource {
    /// Its number, which is never another one's.
    number: u16,
    #[serde(flatten)]
    place: BucketPlace,
    /// Since when it is known.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    since: OffsetDateTime,
    /// Since when new packs go elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    #[schema(value_type = String, format = DateTime, nullable = false)]
    left_at: Option<OffsetDateTime>,
    /// Packs in it.
    packs: u64,
    /// Octets of these.
    octets: u64,
}

/// A path that names a store.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct OfStore {
    /// The store's number.
    number: u16,
}

impl BucketResource {
    fn new(buckets: &Buckets, packs: &[StorePacks]) -> Self {
        let of = |number: StoreNumber| {
            let found = packs.iter().find(|packs| packs.store == number);
            found.map_or((0, 0), |found| (found.packs, found.octets))
        };
        let store = |number: StoreNumber, known: &KnownBucket| {
            let (packs, octets) = of(number);
            let KnownBucket { place, since, left_at } = known.clone();
            StoreResource { number: number.0, place, since, left_at, packs, octets }
        };
        let (house_packs, house_octets) = of(StoreNumber::HOUSE);
        let elsewhere = || packs.iter().filter(|packs| packs.store != buckets.current);
        let all = || buckets.known.iter().map(|(number, known)| (StoreNumber(*number), known));
        Self {
            current: buckets.get(buckets.current).map(|known| store(buckets.current, known)),
            earlier: all()
                .filter(|(number, _)| *number != buckets.current)
                .map(|(number, known)| store(number, known))
                .collect(),
            house_packs,
            house_octets,
            packs_elsewhere: elsewhere().map(|packs| packs.packs).sum(),
            octets_elsewhere: elsewhere().map(|packs| packs.octets).sum(),
        }
    }
}

/// Show where a tenant's packs lie: in the house's store, and in stores of its own.
///
/// Packs are counted anew with each request.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/bucket", operation_id = "readBucket", tag = "bucket",
    responses((status = 200, description = "where they lie", body = BucketResource)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
) -> Result<Response, Problem> {
    let stored = stored(&api, &tenant).await?;
    shown(&api, &tenant, stored.version, &stored.buckets).await
}

/// Let a tenant's new packs go to a bucket of its own.
///
/// The bucket is tried out first: an object is written, read, read in part, listed and deleted. Packs that are there
/// stay where they are. Where the bucket is one that the tenant has, or had, the access key is replaced.
#[utoipa::path(put, path = "/v1/tenants/{tenant}/bucket", operation_id = "putBucket", tag = "bucket",
    request_body = BucketSettings,
    responses((status = 200, description = "where packs lie now", body = BucketResource)))]
pub(super) async fn put(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
    Body(settings): Body<BucketSettings>,
) -> Result<Response, Problem> {
    if let Some((field, detail)) = api.buckets.problem(&settings) {
        return Err(Problem::invalid(field, detail));
    }
    let mut stored = stored(&api, &tenant).await?;
    if_match.insist(stored.version)?;
    if let Err(error) = api.buckets.probe(tenant.id, &settings).await {
        tracing::warn!(tenant = %tenant.id, %error, "a tenant's bucket cannot be used");
        return Err(Problem::bucket_unusable(error.to_string()));
    }
    let number = stored.buckets.turn_to(settings.place(), api.now());
    let number =
        number.ok_or_else(|| Problem::limit_reached("the tenant has had as many stores as there can be"))?;
    let secret = Some(settings.secret_access_key.expose());
    api.buckets.keep_secret(tenant.id, &mut stored, number, secret).await?;
    let version = set(&api, &caller, &tenant, &stored).await?;
    shown(&api, &tenant, version, &stored.buckets).await
}

/// Let a tenant's new packs go to the house's store.
///
/// Its own stays known, and is read from, for as long as packs lie in it.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/bucket", operation_id = "deleteBucket", tag = "bucket",
    responses((status = 204, description = "so they do")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let mut stored = stored(&api, &tenant).await?;
    if_match.insist(stored.version)?;
    if !stored.buckets.current.is_house() {
        stored.buckets.leave(api.now());
        set(&api, &caller, &tenant, &stored).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Forget a store that a tenant has left, and its access key.
///
/// Refused while a pack lies in it, and for a day after it was left. What else is in the bucket stays there.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/bucket/stores/{number}", operation_id = "forgetStore",
    tag = "bucket", params(OfStore), responses((status = 204, description = "it is forgotten")))]
pub(super) async fn forget(
    State(api): State<Shared>,
    caller: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfStore>,
) -> Result<Response, Problem> {
    let number = StoreNumber(path.number);
    let mut stored = stored(&api, &tenant).await?;
    let known = stored.buckets.get(number).ok_or_else(|| Problem::not_found("store"))?;
    let Some(left_at) = known.left_at else {
        return Err(Problem::bucket_in_use("new packs go to this store: set another one, or none"));
    };
    let packs = api.directory.packs_by_store(tenant.id).await?;
    if let Some(packs) = packs.iter().find(|packs| packs.store == number) {
        return Err(Problem::bucket_in_use(format!("{} packs lie in this store", packs.packs)));
    }
    if left_at + LEFT_FOR > api.now() {
        return Err(Problem::bucket_in_use(
            "the store was left less than a day ago: packs may be on their way",
        ));
    }
    stored.buckets.known.remove(&number.0);
    api.buckets.keep_secret(tenant.id, &mut stored, number, None).await?;
    set(&api, &caller, &tenant, &stored).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn stored(api: &Api, tenant: &Tenant) -> Result<TenantBuckets, Problem> {
    api.directory.tenant_buckets(tenant.id).await?.ok_or_else(gone)
}

async fn shown(api: &Api, tenant: &Tenant, version: i64, buckets: &Buckets) -> Result<Response, Problem> {
    let packs = api.directory.packs_by_store(tenant.id).await?;
    Ok(tagged(StatusCode::OK, version, BucketResource::new(buckets, &packs)))
}

/// Describes it in the house's store, then sets it: whoever loses the index in between finds one store too many, and
/// none too few.
async fn set(api: &Api, caller: &Caller, tenant: &Tenant, stored: &TenantBuckets) -> Result<i64, Problem> {
    let next = TenantBuckets { version: stored.version + 1, ..stored.clone() };
    let described = api.buckets.describe(tenant.id, &next).await?;
    let set = api.directory.set_tenant_buckets(tenant.id, stored, &caller.actor, api.now()).await;
    let done = matches!(set, Ok(Some(_)));
    // Where the outcome is not known, the description may be that of what holds now.
    if done || matches!(set, Ok(None) | Err(IndexError::Conflict(_))) {
        let noted = api.buckets.described(tenant.id, next.version, described, done).await;
        if let Err(error) = noted {
            tracing::warn!(tenant = %tenant.id, %error, "descriptions of a tenant's stores are left over");
        }
    }
    match set {
        Ok(version) => version.ok_or_else(gone),
        // It was changed meanwhile.
        Err(IndexError::Conflict(Conflict::Revision)) => Err(Problem::stale()),
        Err(error) => Err(error.into()),
    }
}

fn gone() -> Problem {
    Problem::not_found("tenant")
}
