//! What is asked of bulletins.

use std::sync::Arc;

use async_trait::async_trait;
use maildrop::{
    Actor, Bulletin, BulletinId, StoredEntry, TenantId,
    port::{BulletinStep, Bulletins, IndexError},
};
use prometheus::{IntCounter, Registry};
use time::OffsetDateTime;

use super::Observer;

/// Bulletins whose operations are counted, and the rows that were made and taken away.
#[derive(Debug)]
pub(crate) struct ObservedBulletins {
    bulletins: Arc<dyn Bulletins>,
    observer: Observer,
    rows: IntCounter,
}

impl ObservedBulletins {
    pub(crate) fn new(bulletins: Arc<dyn Bulletins>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations on bulletins";
        let observer = Observer::new(registry, "postern_bulletins_operation", "operation", what)?;
        let rows = IntCounter::new(
            "postern_bulletins_rows_total",
            "messages that bulletins became in mailboxes, and those that withdrawals took away",
        )?;
        registry.register(Box::new(rows.clone()))?;
        Ok(Self { bulletins, observer, rows })
    }
}

#[async_trait]
impl Bulletins for ObservedBulletins {
    async fn create_bulletin(
        &self,
        tenant: TenantId,
        bulletin: &Bulletin,
        entry: &StoredEntry,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let work = self.bulletins.create_bulletin(tenant, bulletin, entry, actor);
        self.observer.observe("create_bulletin", work).await
    }

    async fn bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
    ) -> Result<Option<(Bulletin, u64)>, IndexError> {
        self.observer.observe("bulletin", self.bulletins.bulletin(tenant, id)).await
    }

    async fn bulletins(
        &self,
        tenant: TenantId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Bulletin>, IndexError> {
        self.observer.observe("bulletins", self.bulletins.bulletins(tenant, before, limit)).await
    }

    async fn withdraw_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Bulletin>, IndexError> {
        let work = self.bulletins.withdraw_bulletin(tenant, id, actor, at);
        self.observer.observe("withdraw_bulletin", work).await
    }

    async fn continue_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<BulletinStep, IndexError> {
        let work = self.bulletins.continue_bulletin(tenant, id, limit, at);
        let step = self.observer.observe("continue_bulletin", work).await?;
        self.rows.inc_by(step.rows);
        Ok(step)
    }

    async fn all_tenants_bulletins_due(
        &self,
        after: Option<(TenantId, BulletinId)>,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<Vec<(TenantId, BulletinId)>, IndexError> {
        let work = self.bulletins.all_tenants_bulletins_due(after, limit, at);
        self.observer.observe("all_tenants_bulletins_due", work).await
    }
}
