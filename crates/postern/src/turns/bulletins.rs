//! Bulletins, asked in tenants' turns.

use async_trait::async_trait;
use maildrop::{
    Actor, Bulletin, BulletinId, StoredEntry, TenantId,
    port::{BulletinStep, Bulletins, IndexError},
};
use time::OffsetDateTime;

use super::InTurn;

#[async_trait]
impl Bulletins for InTurn<dyn Bulletins> {
    async fn create_bulletin(
        &self,
        tenant: TenantId,
        bulletin: &Bulletin,
        entry: &StoredEntry,
        actor: &Actor,
    ) -> Result<bool, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.create_bulletin(tenant, bulletin, entry, actor).await
    }

    async fn bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
    ) -> Result<Option<(Bulletin, u64)>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.bulletin(tenant, id).await
    }

    async fn bulletins(
        &self,
        tenant: TenantId,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Bulletin>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.bulletins(tenant, before, limit).await
    }

    async fn withdraw_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        actor: &Actor,
        at: OffsetDateTime,
    ) -> Result<Option<Bulletin>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.withdraw_bulletin(tenant, id, actor, at).await
    }

    async fn continue_bulletin(
        &self,
        tenant: TenantId,
        id: BulletinId,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<BulletinStep, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.continue_bulletin(tenant, id, limit, at).await
    }

    async fn all_tenants_bulletins_due(
        &self,
        after: Option<(TenantId, BulletinId)>,
        limit: u32,
        at: OffsetDateTime,
    ) -> Result<Vec<(TenantId, BulletinId)>, IndexError> {
        self.inner.all_tenants_bulletins_due(after, limit, at).await
    }
}
