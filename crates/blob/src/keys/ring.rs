//! Master keys side by side, while one takes another's place.

use std::{iter, sync::Arc};

use maildrop::{SealedKey, TenantId, port::BlobError};

use super::{KeyWrap, TenantKey};

/// Master keys: the newest seals, and each opens what it sealed.
#[derive(Clone, Debug)]
pub struct MasterKeys {
    newest: Arc<dyn KeyWrap>,
    others: Vec<Arc<dyn KeyWrap>>,
}

impl MasterKeys {
    /// `newest` seals; it and `others` open. One that is given twice counts once.
    pub fn new(newest: Arc<dyn KeyWrap>, others: Vec<Arc<dyn KeyWrap>>) -> Self {
        let mut ring = Self { newest, others: Vec::new() };
        for other in others {
            if ring.all().all(|known| known.id() != other.id()) {
                ring.others.push(other);
            }
        }
        ring
    }

    /// The one that seals.
    pub fn newest(&self) -> &Arc<dyn KeyWrap> {
        &self.newest
    }

    /// All, the newest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn KeyWrap>> {
        iter::once(&self.newest).chain(&self.others)
    }

    /// Seals a data key with the newest.
    pub async fn seal(&self, tenant: TenantId, key: &TenantKey) -> Result<SealedKey, BlobError> {
        self.newest.seal(tenant, key).await
    }

    /// Opens one with the key that it names.
    pub async fn open(&self, tenant: TenantId, sealed: &SealedKey) -> Result<TenantKey, BlobError> {
        let named = sealed.master_key();
        let key = self.all().find(|key| Some(key.id()) == named).unwrap_or(&self.newest);
        key.open(tenant, sealed).await
    }
}
