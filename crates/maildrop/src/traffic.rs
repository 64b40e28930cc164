//! What is sent and taken in, counted per tenant and day: gathered in memory, written every few seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::{Date, OffsetDateTime};
use tracing::{debug, warn};

use crate::{
    MailboxId, Rules, TenantId,
    port::{IndexError, Records, Traffic, TrafficDelta},
};

/// Tenants and mailboxes counted between two writes; past that, what is new is not counted (P6).
const COUNTED_MAX: usize = 200_000;
/// What was sent today is asked for again after so long.
const SPENT_TTL: Duration = Duration::from_secs(5);
/// Mailboxes with a daily limit that are remembered.
const SPENT_MAX: u64 = 100_000;

/// Counts traffic. Cheap to clone: all share one set of counts.
#[derive(Clone, Debug)]
pub struct TrafficLog {
    records: Arc<dyn Records>,
    counts: Arc<Mutex<HashMap<Counted, Traffic>>>,
    /// What the index said was sent today.
    spent: moka::sync::Cache<(TenantId, MailboxId, Date), (u64, u64)>,
}

/// A tenant as a whole, or one of its mailboxes, and a day.
type Counted = (TenantId, Option<MailboxId>, Date);

impl TrafficLog {
    /// A log that is written to `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        let spent = moka::sync::Cache::builder().max_capacity(SPENT_MAX).time_to_live(SPENT_TTL).build();
        Self { records, counts: Arc::default(), spent }
    }

    /// Counts. The mailbox is counted by itself only where a limit asks for it.
    pub fn count(&self, tenant: TenantId, mailbox: MailboxId, rules: &Rules, traffic: Traffic) {
        let day = OffsetDateTime::now_utc().date();
        let mut counts = self.counts();
        let by_itself = rules.mailbox.octets_out_per_day.map(|_| Some(mailbox));
        for of in [Some(None), by_itself].into_iter().flatten() {
            let key = (tenant, of, day);
            if counts.len() < COUNTED_MAX || counts.contains_key(&key) {
                counts.entry(key).or_default().add(traffic);
            }
        }
    }

    /// Whether more may be sent today, by the limits of tenant and mailbox. Without a limit nothing is asked.
    pub async fn may_send(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        rules: &Rules,
    ) -> Result<bool, IndexError> {
        let limits = (rules.tenant.octets_out_per_day, rules.mailbox.octets_out_per_day);
        if limits == (None, None) {
            return Ok(true);
        }
        let day = OffsetDateTime::now_utc().date();
        let key = (tenant, mailbox, day);
        let (of_tenant, of_mailbox) = match self.spent.get(&key) {
            Some(spent) => spent,
            None => {
                let spent = self.records.octets_sent(tenant, mailbox, day).await?;
                self.spent.insert(key, spent);
                spent
            }
        };
        let counts = self.counts();
        let here = |of| counts.get(&(tenant, of, day)).map_or(0, |traffic| traffic.octets_out);
        let within = |limit: Option<u64>, spent: u64| limit.is_none_or(|limit| spent < limit);
        Ok(within(limits.0, of_tenant.saturating_add(here(None)))
            && within(limits.1, of_mailbox.saturating_add(here(Some(mailbox)))))
    }

    /// Writes what was counted. What could not be written is counted on.
    pub async fn flush(&self) {
        let counts = std::mem::take(&mut *self.counts());
        let delta = |((tenant, mailbox, day), traffic): (Counted, Traffic)| TrafficDelta {
            tenant,
            mailbox,
            day,
            traffic,
        };
        let deltas: Vec<TrafficDelta> = counts.into_iter().map(delta).collect();
        if deltas.is_empty() {
            return;
        }
        match self.records.add_traffic(&deltas).await {
            Ok(()) => debug!(counts = deltas.len(), "traffic was written"),
            // Nothing was written: it is counted on, and written next time.
            Err(error @ IndexError::Unreached(_)) => {
                warn!(%error, "traffic will be written later");
                let mut counts = self.counts();
                for delta in deltas {
                    counts.entry((delta.tenant, delta.mailbox, delta.day)).or_default().add(delta.traffic);
                }
            }
            // It may have been written: counting some seconds of traffic twice would be worse than not at all.
            Err(error) => warn!(%error, "traffic may not have been written"),
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Counted, Traffic>> {
        // No panic can happen while it is held, so poisoned counts are still whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
