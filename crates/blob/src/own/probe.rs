//! Whether a bucket can be used: everything that will be asked of it is tried out once.

use std::time::Duration;

use bytes::Bytes;
use maildrop::{
    BucketSettings, TenantId,
    port::{BlobError, ProbeError},
};
use uuid::Uuid;

use super::{OwnConfig, guard::Server};
use crate::{BlobKey, BlobLayout, ObjectStore, S3Store, collect};

/// Longest time for all of it.
const TIME: Duration = Duration::from_secs(20);
/// Longest silence after one request of it.
const SILENCE: Duration = Duration::from_secs(5);

/// What is wrong with settings as they stand: the field, and what it is not.
pub(super) fn problem(settings: &BucketSettings, config: &OwnConfig) -> Option<(&'static str, String)> {
    let text = |octets_max: usize, text: &str, also: &[u8]| {
        let good = |octet: u8| octet.is_ascii_alphanumeric() || also.contains(&octet);
        (1..=octets_max).contains(&text.len()) && text.bytes().all(good)
    };
    if !text(255, &settings.bucket, b"._-") || settings.bucket.starts_with('.') {
        return Some(("bucket", "is 1 to 255 letters, digits, dots, underscores and hyphens".into()));
    }
    if BlobLayout::new(&settings.prefix).is_err() {
        return Some((
            "prefix",
            "is segments of letters, digits, '_', '-' and inner '.', joined by '/'".into(),
        ));
    }
    if settings.region.as_ref().is_some_and(|region| !text(100, region, b"-")) {
        return Some(("region", "is 1 to 100 letters, digits and hyphens".into()));
    }
    if let Err(problem) = Server::parse(settings.endpoint.as_deref()) {
        return Some(("endpoint", problem.into()));
    }
    if config.guarded(&settings.place()).is_err() {
        return Some(("endpoint", "leads to where nothing may be reached".into()));
    }
    let visible =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|o| o.is_ascii_graphic());
    if !visible(&settings.access_key_id, 200) {
        return Some(("access_key_id", "is 1 to 200 visible ASCII characters".into()));
    }
    if !visible(settings.secret_access_key.expose(), 1000) {
        return Some(("secret_access_key", "is 1 to 1000 visible ASCII characters".into()));
    }
    None
}

/// Tries everything out, on an object of its own.
pub(super) async fn probe(
    config: &OwnConfig,
    tenant: TenantId,
    settings: &BucketSettings,
) -> Result<(), ProbeError> {
    let mut step = "write";
    match tokio::time::timeout(TIME, steps(config, tenant, settings, &mut step)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(ProbeError { step, error }),
        Err(_) => Err(ProbeError { step, error: BlobError::Unavailable("no answer in time".into()) }),
    }
}

async fn steps(
    config: &OwnConfig,
    tenant: TenantId,
    settings: &BucketSettings,
    step: &mut &'static str,
) -> Result<(), BlobError> {
    let wrong = |what: &str| BlobError::Misconfigured(what.to_owned());
    let place = settings.place();
    let layout = BlobLayout::new(&place.prefix).map_err(|error| wrong(&error.to_string()))?;
    let s3 = config.s3(&place, settings.secret_access_key.expose());
    // Who asks waits for the answer, and will ask again.
    let s3 = crate::S3Config { attempts_max: 1, read_timeout: s3.read_timeout.min(SILENCE), ..s3 };
    let guarded = config.guarded(&place)?;
    let store = S3Store::guarded(s3, config.watch.clone(), guarded).await;
    let prefix = layout.everything(tenant);
    let key = BlobKey::try_from(format!("{prefix}probe-{}", Uuid::new_v4()).as_str());
    let key = key.map_err(|error| wrong(&error.to_string()))?;
    let body: Bytes = format!("{key}\nAn object that tries a bucket out. It may be deleted.\n").into();
    let octets = body.len() as u64;
    store.put(&key, body.clone()).await?;
    let tried = async {
        *step = "read";
        if collect(store.get(&key, 0..octets).await?).await? != body {
            return Err(wrong("the bucket gives other octets than it was given"));
        }
        *step = "read a range";
        if collect(store.get(&key, 5..9).await?).await? != body.slice(5..9) {
            return Err(wrong("the bucket gives other octets of a range than it was given"));
        }
        *step = "list";
        if !store.list(&format!("{prefix}probe-"), None).await?.objects.iter().any(|found| found.key == key) {
            return Err(wrong("the bucket does not list what is in it"));
        }
        Ok(())
    };
    let tried = tried.await;
    let deleted = store.delete(std::slice::from_ref(&key)).await;
    tried?;
    *step = "delete";
    deleted?;
    if store.size(&key).await?.is_some() {
        return Err(wrong("the bucket does not delete what it is told to"));
    }
    Ok(())
}
