//! What is asked of the records: audit log, repeated requests, traffic.

use std::sync::Arc;

use async_trait::async_trait;
use maildrop::{
    MailboxId, TenantId,
    port::{
        AuditEntry, AuditQuery, Claim, IdempotencyKey, IndexError, Note, Records, StoredAnswer, TrafficDay,
        TrafficDelta,
    },
};
use prometheus::Registry;
use time::{Date, OffsetDateTime};

use super::Observer;

/// Records whose operations are counted.
#[derive(Debug)]
pub(crate) struct ObservedRecords {
    records: Arc<dyn Records>,
    observer: Observer,
}

impl ObservedRecords {
    pub(crate) fn new(records: Arc<dyn Records>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations of the records";
        let observer = Observer::new(registry, "postern_records_operation", "operation", what)?;
        Ok(Self { records, observer })
    }
}

#[async_trait]
impl Records for ObservedRecords {
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, IndexError> {
        self.observer.observe("audit", self.records.audit(query)).await
    }

    async fn note(&self, note: &Note<'_>) -> Result<(), IndexError> {
        self.observer.observe("note", self.records.note(note)).await
    }

    async fn claim(&self, key: &IdempotencyKey, at: OffsetDateTime) -> Result<Claim, IndexError> {
        self.observer.observe("claim", self.records.claim(key, at)).await
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<(), IndexError> {
        self.observer.observe("remember", self.records.remember(key, answer)).await
    }

    async fn disclaim(&self, key: &IdempotencyKey) -> Result<(), IndexError> {
        self.observer.observe("disclaim", self.records.disclaim(key)).await
    }

    async fn forget_claims(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        self.observer.observe("forget_claims", self.records.forget_claims(before, limit)).await
    }

    async fn add_traffic(&self, deltas: &[TrafficDelta]) -> Result<(), IndexError> {
        self.observer.observe("add_traffic", self.records.add_traffic(deltas)).await
    }

    async fn traffic(&self, tenant: TenantId, from: Date, to: Date) -> Result<Vec<TrafficDay>, IndexError> {
        self.observer.observe("traffic", self.records.traffic(tenant, from, to)).await
    }

    async fn octets_sent(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        day: Date,
    ) -> Result<(u64, u64), IndexError> {
        self.observer.observe("octets_sent", self.records.octets_sent(tenant, mailbox, day)).await
    }

    async fn all_tenants_forget_traffic(
        &self,
        tenants: Date,
        mailboxes: Date,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let work = self.records.all_tenants_forget_traffic(tenants, mailboxes, limit);
        self.observer.observe("forget_traffic", work).await
    }

    async fn all_tenants_forget_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        self.observer.observe("forget_audit", self.records.all_tenants_forget_audit(before, limit)).await
    }
}
