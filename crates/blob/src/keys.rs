//! Keys: the master key wraps a data key per tenant; the data key derives a key per entry.

mod master;
mod ring;
mod tenant;

pub use master::{MasterKey, MasterKeyError};
pub use ring::MasterKeys;
pub(crate) use tenant::EntryCipher;
pub use tenant::TenantKey;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use maildrop::{
    MasterKeyId, SealedKey, TenantId,
    port::{BlobError, ClusterSecret, MasterKeyring},
};
use moka::sync::Cache;

/// Most data keys held open at once. At some 200 octets each this is 2 MB.
const OPEN_KEYS_MAX: u64 = 10_000;
/// How long a data key stays open. Short, so that a tenant's keys leave memory soon after its traffic does;
/// long enough that a key service would be asked once a minute per busy tenant.
const OPEN_KEY_TTL: Duration = Duration::from_mins(1);

/// What wraps tenants' data keys: a [`MasterKey`] in this process, or a key service.
///
/// A [`SealedKey`] starts with a version and names its kind and key, so that several can be in use at once
/// while a key is rotated.
#[async_trait]
pub trait KeyWrap: Send + Sync + std::fmt::Debug {
    /// Names it, in what it seals, too.
    fn id(&self) -> MasterKeyId;

    /// A value that tells this key from others and says nothing of the key: the index remembers it, so that
    /// a node started with another key notices before it seals anything.
    fn check_value(&self) -> [u8; 32];

    /// The secret of a cluster that begins with this master key, where that is derived from it; any other is as good.
    fn cluster_secret(&self, _: ClusterSecret) -> Option<TenantKey> {
        None
    }

    /// Seals the data key of `tenant`.
    async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError>;

    /// Opens what [`seal`](Self::seal) made for the same tenant. What another master key sealed is
    /// [`BlobError::NoMasterKey`], anything else [`BlobError::WrongKey`], or [`BlobError::Corrupt`] where it is not a
    /// sealed key at all.
    async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError>;
}

/// Opens sealed data keys and remembers them for a minute. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keyring {
    wrap: Arc<MasterKeys>,
    open: Cache<(TenantId, SealedKey), Arc<TenantKey>>,
}

impl Keyring {
    /// A keyring of one master key.
    pub fn new(wrap: Arc<dyn KeyWrap>) -> Self {
        Self::of(MasterKeys::new(wrap, Vec::new()))
    }

    /// A keyring of master keys.
    pub fn of(wrap: MasterKeys) -> Self {
        let wrap = Arc::new(wrap);
        let open = Cache::builder().max_capacity(OPEN_KEYS_MAX).time_to_live(OPEN_KEY_TTL).build();
        Self { wrap, open }
    }

    /// A new data key for `tenant`, sealed.
    pub async fn generate(&self, tenant: TenantId) -> Result<SealedKey, BlobError> {
        self.wrap.seal(tenant, &TenantKey::generate()?).await
    }

    /// Seals a secret of `tenant` under its data key.
    pub async fn seal_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        let key = self.open(tenant, key).await?;
        key.seal_secret(tenant, purpose, secret)
            .ok_or_else(|| BlobError::Unavailable("the secret could not be sealed".into()))
    }

    /// Opens what [`seal_secret`](Self::seal_secret) sealed for the same tenant and purpose; anything else
    /// is [`BlobError::Corrupt`].
    pub async fn open_secret(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        purpose: &str,
        sealed: &[u8],
    ) -> Result<Vec<u8>, BlobError> {
        let key = self.open(tenant, key).await?;
        key.open_secret(tenant, purpose, sealed)
            .ok_or_else(|| BlobError::Corrupt(format!("sealed secret ({purpose}) does not open")))
    }

    /// The data key of `tenant`.
    pub async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<Arc<TenantKey>, BlobError> {
        // The whole sealed key is part of the cache's key: another tenant's, or a damaged one, is never
        // answered from memory.
        let id = (tenant, sealed.clone());
        if let Some(key) = self.open.get(&id) {
            return Ok(key);
        }
        let key = Arc::new(self.wrap.open(tenant, sealed).await?);
        self.open.insert(id, Arc::clone(&key));
        Ok(key)
    }
}

#[async_trait]
impl MasterKeyring for Keyring {
    fn newest(&self) -> MasterKeyId {
        self.wrap.newest().id()
    }

    fn opens(&self) -> Vec<MasterKeyId> {
        self.wrap.all().map(|key| key.id()).collect()
    }

    fn check_value(&self) -> [u8; 32] {
        self.wrap.newest().check_value()
    }

    async fn generate(&self, tenant: TenantId) -> Result<SealedKey, BlobError> {
        Self::generate(self, tenant).await
    }

    async fn reseal(&self, tenant: TenantId, sealed: &SealedKey) -> Result<SealedKey, BlobError> {
        // Past the cache: a rotation goes through all tenants, and leaves it to those that are in use.
        let key = self.wrap.open(tenant, sealed).await?;
        let resealed = self.wrap.seal(tenant, &key).await?;
        // What does not open again must not take the place of what did.
        if self.wrap.open(tenant, &resealed).await?.octets() != key.octets() {
            return Err(BlobError::Corrupt("a data key that was sealed anew is another one".into()));
        }
        Ok(resealed)
    }
}

#[cfg(test)]
mod tests;
