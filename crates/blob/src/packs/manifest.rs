//! Manifests: text about a tenant, sealed under its key, beside its packs.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use maildrop::{
    PackId, SealedKey, TenantBuckets, TenantId,
    port::{BlobError, FoundEntry, ManifestPart, ManifestStore, PackContents},
};

use super::{Packs, fetch::Fetch};
use crate::{
    BlobKey, ScanItem,
    format::{MANIFEST_TEXT_MAX, ManifestHead},
    zip,
};

/// Written once, and read seldom.
const LEVEL: i32 = 6;
/// Most objects deleted by one request (S3).
const DELETE_BATCH: usize = 1000;

#[async_trait]
impl ManifestStore for Packs {
    async fn all_tenants_next(&self, after: Option<TenantId>) -> Result<Option<TenantId>, BlobError> {
        let layout = &self.inner.layout;
        let mut after = after.map(|tenant| layout.after(tenant));
        loop {
            let page = self.inner.store.list(&layout.all_tenants(), after.as_ref()).await?;
            if let Some(tenant) = page.objects.iter().find_map(|listed| layout.whose(&listed.key)) {
                return Ok(Some(tenant));
            }
            // What others put there.
            match page.objects.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(None),
            }
        }
    }

    async fn put_manifest(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        part: &ManifestPart,
        text: &[u8],
    ) -> Result<u64, BlobError> {
        let inner = &self.inner;
        let name = inner.layout.manifest(tenant, part);
        let head = ManifestHead { tenant, part: *part, key: key.clone(), text_octets: text.len() as u32 };
        let mut octets = head.to_octets().map_err(|what| corrupt(&name, what.0))?;
        let mut packed = Vec::new();
        // What does not shrink stands as it is: it is as long as the head says.
        if zip::compress(LEVEL, text, &mut packed).is_none() {
            packed.extend_from_slice(text);
        }
        let sealed = inner.keyring.seal_secret(tenant, key, &purpose(part), &packed).await?;
        octets.extend_from_slice(&sealed);
        let count = octets.len() as u64;
        inner.store.put(&name, octets.into()).await?;
        Ok(count)
    }

    async fn find_buckets(
        &self,
        tenant: TenantId,
        recorded: Option<TenantBuckets>,
    ) -> Result<Option<TenantBuckets>, BlobError> {
        match &self.inner.own {
            Some(own) => own.find(tenant, recorded).await,
            None => Ok(None),
        }
    }

    async fn list_manifests(&self, tenant: TenantId) -> Result<Vec<ManifestPart>, BlobError> {
        let (layout, prefix) = (&self.inner.layout, self.inner.layout.manifests(tenant));
        let mut parts = Vec::new();
        let mut after = None;
        loop {
            let page = self.inner.store.list(&prefix, after.as_ref()).await?;
            parts.extend(page.objects.iter().filter_map(|listed| layout.parse_manifest(tenant, &listed.key)));
            match page.objects.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        parts.sort_unstable();
        Ok(parts)
    }

    async fn read_manifest(
        &self,
        tenant: TenantId,
        part: &ManifestPart,
    ) -> Result<(SealedKey, Vec<u8>), BlobError> {
        let inner = &self.inner;
        let name = inner.layout.manifest(tenant, part);
        let octets = self.whole(&name).await?;
        let (head, sealed) = ManifestHead::parse(&octets).map_err(|what| corrupt(&name, what.0))?;
        if head.tenant != tenant || head.part != *part {
            return Err(corrupt(&name, "manifest says it is another one"));
        }
        let packed = inner.keyring.open_secret(tenant, &head.key, &purpose(part), sealed).await;
        let packed = packed.map_err(|error| match error {
            BlobError::Corrupt(_) => corrupt(&name, "manifest does not open with the tenant's key"),
            other => other,
        })?;
        let octets = head.text_octets as usize;
        let text = if packed.len() == octets { Some(packed) } else { zip::expand(&packed, octets) };
        let text = text.ok_or_else(|| corrupt(&name, "manifest does not expand"))?;
        Ok((head.key, text))
    }

    async fn delete_manifests(&self, tenant: TenantId, parts: &[ManifestPart]) -> Result<(), BlobError> {
        let keys: Vec<_> = parts.iter().map(|part| self.inner.layout.manifest(tenant, part)).collect();
        for batch in keys.chunks(DELETE_BATCH) {
            self.inner.store.delete(batch).await?;
        }
        Ok(())
    }

    async fn look_into_pack(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        pack: PackId,
        octets: u64,
    ) -> Result<PackContents, BlobError> {
        let opened = self.inner.keyring.open(tenant, key).await?;
        match self.inner.look(tenant, &opened, pack, octets).await {
            Ok(contents) => Ok(contents),
            // Whatever it is, the whole pack tells it apart from a lost footer.
            Err(BlobError::Corrupt(_)) => self.scan_pack(tenant, key, pack).await,
            Err(error) => Err(error),
        }
    }

    async fn scan_pack(
        &self,
        tenant: TenantId,
        key: &SealedKey,
        pack: PackId,
    ) -> Result<PackContents, BlobError> {
        let mut contents = PackContents::default();
        self.scan(tenant, key, pack, |item| match item {
            ScanItem::Entry(entry) => {
                let extent = maildrop::Extent { pack, offset: entry.offset, length: entry.length };
                contents.read_octets = entry.offset + entry.length;
                contents.entries.push(FoundEntry {
                    extent,
                    envelope: entry.envelope,
                    measured: entry.measured,
                });
            }
            ScanItem::Damage(damage) => {
                contents.damage.push((damage.offset, damage.length, damage.what.to_owned()));
            }
        })
        .await?;
        Ok(contents)
    }
}

impl Packs {
    /// A whole object of a manifest.
    async fn whole(&self, name: &BlobKey) -> Result<Bytes, BlobError> {
        let Some(octets) = self.inner.store.size(name).await? else {
            return Err(BlobError::NotFound(name.to_string()));
        };
        if octets > 2 * MANIFEST_TEXT_MAX as u64 {
            return Err(corrupt(name, "manifest is too large"));
        }
        Fetch::new(Arc::clone(&self.inner.store), name.clone(), 0..octets, None).all().await
    }
}

/// What its key is for: this very object, so that none stands in for another.
fn purpose(part: &ManifestPart) -> String {
    let ManifestPart { round, id, full, part, last } = part;
    format!("manifest v1: {round} {id} {full} {part} {last}")
}

fn corrupt(name: &BlobKey, what: &str) -> BlobError {
    BlobError::Corrupt(format!("{name}: {what}"))
}
