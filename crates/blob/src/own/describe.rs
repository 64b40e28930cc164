//! What is known of a tenant's stores, written to the house's store beside its manifests: whoever has lost the index
//! finds by it where the tenant's packs are (P8).

use maildrop::{
    Buckets, SealedKey, TenantBuckets, TenantId,
    port::{BlobError, ManifestPart},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Inner, OwnStores};
use crate::{BlobKey, collect, format::ManifestHead};

/// Most octets of a description that are read: some hundreds for each of 4,095 stores.
const OCTETS_MAX: u64 = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Description {
    buckets: Buckets,
    secrets: Option<Vec<u8>>,
}

fn purpose(version: i64) -> String {
    format!("buckets v1: {version}")
}

fn corrupt(name: &BlobKey) -> BlobError {
    BlobError::Corrupt(format!("{name} does not describe the tenant's stores"))
}

impl Inner {
    pub(super) async fn describe(&self, tenant: TenantId, stored: &TenantBuckets) -> Result<Uuid, BlobError> {
        let (id, version) = (Uuid::now_v7(), stored.version);
        let key = stored.key.clone().ok_or(BlobError::WrongKey)?;
        let description = Description { buckets: stored.buckets.clone(), secrets: stored.secrets.clone() };
        let text = serde_json::to_vec(&description).map_err(|e| BlobError::Corrupt(e.to_string()))?;
        let part = ManifestPart { round: version as u64, id, full: true, part: 0, last: true };
        let head = ManifestHead { tenant, part, key: key.clone(), text_octets: text.len() as u32 };
        let mut octets = head.to_octets().map_err(|what| BlobError::Corrupt(what.0.into()))?;
        let sealed = self.keyring.seal_secret(tenant, &key, &purpose(version), &text).await?;
        octets.extend_from_slice(&sealed);
        self.house.put(&self.layout.description(tenant, version as u64, id), octets.into()).await?;
        Ok(id)
    }

    /// Deletes this one, where what it says was not `set`, or else those that it replaces.
    pub(super) async fn described(
        &self,
        tenant: TenantId,
        version: i64,
        id: Uuid,
        set: bool,
    ) -> Result<(), BlobError> {
        let own = self.layout.description(tenant, version as u64, id);
        let gone: Vec<BlobKey> = if set {
            let page = self.house.list(&self.layout.descriptions(tenant), None).await?;
            let older = |key: &BlobKey| {
                let found = self.layout.parse_description(tenant, key);
                *key != own && found.is_some_and(|(other, _)| other <= version as u64)
            };
            page.objects.into_iter().map(|listed| listed.key).filter(older).collect()
        } else {
            vec![own]
        };
        if gone.is_empty() { Ok(()) } else { self.house.delete(&gone).await }
    }

    /// The newest description there is.
    async fn newest(&self, tenant: TenantId) -> Result<Option<TenantBuckets>, BlobError> {
        let mut newest = None;
        let mut after = None;
        loop {
            let page = self.house.list(&self.layout.descriptions(tenant), after.as_ref()).await?;
            let ours = |key: &BlobKey| self.layout.parse_description(tenant, key).is_some();
            // Names sort by version.
            newest = page.objects.iter().map(|listed| &listed.key).rfind(|key| ours(key)).cloned().or(newest);
            match page.objects.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        match newest {
            Some(name) => self.read(tenant, &name).await.map(Some),
            None => Ok(None),
        }
    }

    async fn read(&self, tenant: TenantId, name: &BlobKey) -> Result<TenantBuckets, BlobError> {
        let octets = self.house.size(name).await?.ok_or_else(|| BlobError::NotFound(name.to_string()))?;
        if octets > OCTETS_MAX {
            return Err(corrupt(name));
        }
        let octets = collect(self.house.get(name, 0..octets).await?).await?;
        let (head, sealed) = ManifestHead::parse(&octets).map_err(|_| corrupt(name))?;
        let version = i64::try_from(head.part.round).map_err(|_| corrupt(name))?;
        let is_it = self.layout.description(tenant, head.part.round, head.part.id) == *name;
        if head.tenant != tenant || !is_it {
            return Err(corrupt(name));
        }
        let text = self.keyring.open_secret(tenant, &head.key, &purpose(version), sealed).await?;
        let Description { buckets, secrets } = serde_json::from_slice(&text).map_err(|_| corrupt(name))?;
        let key: SealedKey = head.key;
        Ok(TenantBuckets { buckets, key: Some(key), secrets, version })
    }
}

impl OwnStores {
    /// Finds out which stores the tenant has without the directory: `recorded`, or what the house's store says where
    /// that is newer. From here on that is relied on where the directory does not know better.
    pub(crate) async fn find(
        &self,
        tenant: TenantId,
        recorded: Option<TenantBuckets>,
    ) -> Result<Option<TenantBuckets>, BlobError> {
        let described = self.inner.newest(tenant).await?;
        let newest = [recorded, described].into_iter().flatten().max_by_key(|stored| stored.version);
        if let Some(newest) = &newest {
            self.learn(tenant, newest.clone());
        }
        Ok(newest)
    }
}
