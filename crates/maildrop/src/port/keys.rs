//! The ports of keys: which master key sealed what, and what takes tenants' data keys from one to another.

use async_trait::async_trait;

use super::{BlobError, IndexError};
use crate::{MasterKeyId, NodeId, SealedKey, TenantId};

/// A secret that all nodes share, kept in the index, sealed under the master key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterSecret {
    /// What unknown names are answered with is derived from it: the same for ever.
    Decoys,
    /// What keys of session tickets are derived from.
    Tickets,
}

impl ClusterSecret {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Decoys, Self::Tickets];

    /// Its word in the index.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decoys => "decoys",
            Self::Tickets => "tickets",
        }
    }
}

/// What there is under one master key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyCount {
    /// The master key.
    pub key: MasterKeyId,
    /// Tenants whose data keys it sealed.
    pub tenants: u64,
}

/// Sealed keys as the index has them.
#[async_trait]
pub trait KeyRows: Send + Sync + std::fmt::Debug {
    /// How many tenants' data keys are under which master key, those of tenants that are being deleted aside.
    async fn all_tenants_key_counts(&self) -> Result<Vec<KeyCount>, IndexError>;

    /// How many tenants have manifests in the bucket from before their sealed key changed.
    async fn all_tenants_outdated_manifests(&self) -> Result<u64, IndexError>;

    /// Up to `limit` tenants after `after`, in their order, whose data key is under another master key than `newest`.
    async fn all_tenants_keys_not_under(
        &self,
        newest: MasterKeyId,
        after: Option<TenantId>,
        limit: u32,
    ) -> Result<Vec<(TenantId, SealedKey)>, IndexError>;

    /// Exchanges the tenant's sealed key for another, if it is still `from`. Its manifests are written anew from then on.
    async fn exchange_key(
        &self,
        tenant: TenantId,
        from: &SealedKey,
        to: &SealedKey,
    ) -> Result<bool, IndexError>;

    /// The secret, sealed: what is there, or else `first`, which is there from then on.
    async fn cluster_secret(&self, secret: ClusterSecret, first: &SealedKey)
    -> Result<SealedKey, IndexError>;

    /// The secret, sealed, where it is there.
    async fn cluster_secret_if_any(&self, secret: ClusterSecret) -> Result<Option<SealedKey>, IndexError>;

    /// Exchanges the secret, if it is still `from`.
    async fn exchange_cluster_secret(
        &self,
        secret: ClusterSecret,
        from: &SealedKey,
        to: &SealedKey,
    ) -> Result<bool, IndexError>;

    /// From here on the index expects nodes that have the master key with the check value `to`
    /// ([`Index::key_check`](super::Index::key_check)).
    async fn set_key_check(&self, to: &[u8]) -> Result<(), IndexError>;

    /// Notes which master keys a node can open with.
    async fn note_opens(&self, node: NodeId, opens: &[MasterKeyId]) -> Result<(), IndexError>;

    /// Names of living nodes that cannot open with the key, or did not say.
    async fn nodes_without(&self, key: MasterKeyId) -> Result<Vec<String>, IndexError>;
}

/// The master keys of this process: one that seals, and others that open only.
#[async_trait]
pub trait MasterKeyring: Send + Sync + std::fmt::Debug {
    /// The one that seals.
    fn newest(&self) -> MasterKeyId;

    /// All of them, the newest first.
    fn opens(&self) -> Vec<MasterKeyId>;

    /// What tells the one that seals from others, and says nothing of it.
    fn check_value(&self) -> [u8; 32];

    /// A new data key.
    async fn generate(&self, tenant: TenantId) -> Result<SealedKey, BlobError>;

    /// The same data key under the newest master key.
    async fn reseal(&self, tenant: TenantId, sealed: &SealedKey) -> Result<SealedKey, BlobError>;
}
