//! Master keys: which there are, which one the index expects, and the secrets that all nodes share.

use std::sync::Arc;

use anyhow::Context as _;
use blob::{KeyWrap, MasterKey, MasterKeys, TenantKey};
use index::Store;
use maildrop::{
    MASTER_TENANT,
    port::{ClusterSecret, IndexError},
};
use tracing::{error, info};

use super::WrongKey;
use crate::{config::Config, files};

/// The master keys of the configuration.
pub(super) fn master_keys(config: &Config) -> anyhow::Result<MasterKeys> {
    let newest = match config.master_key()? {
        Some(key) => key,
        None => made_here(config)?,
    };
    let others = config.other_master_keys()?.into_iter().map(|key| Arc::new(key) as Arc<dyn KeyWrap>);
    Ok(MasterKeys::new(Arc::new(newest), others.collect()))
}

/// The key beside embedded data, made where there is none.
fn made_here(config: &Config) -> anyhow::Result<MasterKey> {
    // `Config::check` lets this be only where everything is on this machine.
    files::private_dir(&config.node.data_dir)?;
    let path = config.node.data_dir.join("master-key");
    let text = files::secret_file(&path, || Ok(format!("{}\n", MasterKey::generate()?.as_str())))?;
    MasterKey::parse(&text).with_context(|| path.display().to_string())
}

/// The one of them that the index expects; the newest where it expects none yet.
pub(super) async fn expected(store: &Store, keys: &MasterKeys) -> anyhow::Result<Arc<dyn KeyWrap>> {
    let check = store.index.key_check(&keys.newest().check_value()).await?;
    if let Some(key) = keys.all().find(|key| key.check_value().as_slice() == check) {
        return Ok(Arc::clone(key));
    }
    let given = keys.all().map(|key| key.id().to_string()).collect::<Vec<_>>().join(", ");
    let counts = store.keys.all_tenants_key_counts().await?;
    let used = counts.iter().map(|count| count.key.to_string()).collect::<Vec<_>>().join(", ");
    let used = if used.is_empty() { "another, no tenant as yet".to_owned() } else { used };
    Err(WrongKey { given, used }.into())
}

/// Says what is not as it should be for long.
pub(super) async fn look(store: &Store, keys: &MasterKeys) -> Result<(), IndexError> {
    for count in store.keys.all_tenants_key_counts().await? {
        let (key, tenants) = (count.key, count.tenants);
        if keys.all().all(|known| known.id() != key) {
            error!(%key, tenants, "tenants' keys are sealed under a master key that this node does not have");
        } else if key != keys.newest().id() {
            info!(%key, tenants, "tenants' keys are sealed under an older master key: run `postern keys rotate`");
        }
    }
    Ok(())
}

/// A secret that all nodes share.
pub(super) async fn cluster_secret(
    store: &Store,
    keys: &MasterKeys,
    expected: &Arc<dyn KeyWrap>,
    secret: ClusterSecret,
) -> anyhow::Result<[u8; 32]> {
    let sealed = match store.keys.cluster_secret_if_any(secret).await? {
        Some(sealed) => sealed,
        None => {
            let first = expected.cluster_secret(secret).map_or_else(TenantKey::generate, Ok)?;
            // Under the key that all nodes have.
            let sealed = expected.seal(MASTER_TENANT, &first).await?;
            store.keys.cluster_secret(secret, &sealed).await?
        }
    };
    let opened = keys.open(MASTER_TENANT, &sealed).await;
    let opened = opened.with_context(|| format!("open the cluster's secret for {}", secret.as_str()))?;
    Ok(*opened.octets())
}
