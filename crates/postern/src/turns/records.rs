//! The records, asked in tenants' turns.

use async_trait::async_trait;
use maildrop::{
    MailboxId, TenantId,
    port::{
        AuditEntry, AuditQuery, Claim, IdempotencyKey, IndexError, Note, Records, StoredAnswer, TrafficDay,
        TrafficDelta,
    },
};
use time::{Date, OffsetDateTime};

use super::InTurn;

#[async_trait]
impl Records for InTurn<dyn Records> {
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, IndexError> {
        let _turn = self.turns.take(query.tenant).await?;
        self.inner.audit(query).await
    }

    async fn note(&self, note: &Note<'_>) -> Result<(), IndexError> {
        let _turn = self.turns.take(note.tenant).await?;
        self.inner.note(note).await
    }

    async fn claim(&self, key: &IdempotencyKey, at: OffsetDateTime) -> Result<Claim, IndexError> {
        self.inner.claim(key, at).await
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<(), IndexError> {
        self.inner.remember(key, answer).await
    }

    async fn disclaim(&self, key: &IdempotencyKey) -> Result<(), IndexError> {
        self.inner.disclaim(key).await
    }

    async fn forget_claims(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        self.inner.forget_claims(before, limit).await
    }

    async fn add_traffic(&self, deltas: &[TrafficDelta]) -> Result<(), IndexError> {
        self.inner.add_traffic(deltas).await
    }

    async fn traffic(&self, tenant: TenantId, from: Date, to: Date) -> Result<Vec<TrafficDay>, IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.traffic(tenant, from, to).await
    }

    async fn octets_sent(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        day: Date,
    ) -> Result<(u64, u64), IndexError> {
        let _turn = self.turns.take(Some(tenant)).await?;
        self.inner.octets_sent(tenant, mailbox, day).await
    }

    async fn all_tenants_forget_traffic(
        &self,
        tenants: Date,
        mailboxes: Date,
        limit: u32,
    ) -> Result<u64, IndexError> {
        self.inner.all_tenants_forget_traffic(tenants, mailboxes, limit).await
    }

    async fn all_tenants_forget_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        self.inner.all_tenants_forget_audit(before, limit).await
    }
}
