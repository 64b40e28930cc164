//! Deliveries.

use maildrop::{
    TenantId, Uid,
    port::{IndexError, PACK_AGE_MAX, PackedEntry, RowOutcome},
};
use uuid::Uuid;

use crate::{
    error::{corrupt, too_old},
    postgres::Postgres,
};

impl Postgres {
    pub(super) async fn deliver_pack(
        &self,
        tenant: TenantId,
        entries: &[PackedEntry],
    ) -> Result<Vec<RowOutcome>, IndexError> {
        let Some(pack) = entries.first().map(|entry| entry.stored) else { return Ok(Vec::new()) };
        let turn = tokio::time::timeout(self.statement_timeout, self.deliveries.acquire()).await;
        let _turn = turn
            .map_err(|_| IndexError::Unreached("too many deliveries wait".into()))?
            .map_err(|error| IndexError::Unreached(Box::new(error)))?;
        let rows = || entries.iter().flat_map(|e| e.messages.iter().map(|m| (e.stored.extent, m)));
        let mailboxes: Vec<Uuid> = rows().map(|(_, m)| m.mailbox.as_uuid()).collect();
        let offsets: Vec<i64> = rows().map(|(extent, _)| extent.offset as i64).collect();
        let lengths: Vec<i64> = rows().map(|(extent, _)| extent.length as i64).collect();
        let octets: Vec<i64> = rows().map(|(_, m)| m.octets as i64).collect();
        let header_octets: Vec<i64> = rows().map(|(_, m)| m.header_octets as i64).collect();
        let received: Vec<_> = rows().map(|(_, m)| m.received_at).collect();
        let digests: Vec<&[u8]> = rows().map(|(_, m)| m.digest.0.as_slice()).collect();
        let delivered_to: Vec<&str> = rows().map(|(_, m)| m.delivered_to.as_str()).collect();
        let unique_ids: Vec<Option<&str>> =
            rows().map(|(_, m)| m.unique_id.as_ref().map(maildrop::UniqueId::as_str)).collect();
        let ascii_extras: Vec<Option<i64>> = rows().map(|(_, m)| m.ascii_extra).collect();
        let found: Vec<(i32, i32, Option<i64>)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT place, outcome, uid
                       FROM deliver_pack($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                      WHERE $15 > now() - make_interval(secs => $16)",
                )
                .bind(tenant.as_uuid())
                .bind(pack.extent.pack.as_uuid())
                .bind(pack.pack_octets as i64)
                .bind(pack.pack_entries as i32)
                .bind(&mailboxes)
                .bind(&offsets)
                .bind(&lengths)
                .bind(&octets)
                .bind(&header_octets)
                .bind(&received)
                .bind(&digests)
                .bind(&delivered_to)
                .bind(&unique_ids)
                .bind(&ascii_extras)
                .bind(pack.extent.pack.time())
                .bind(PACK_AGE_MAX.as_secs_f64())
                .fetch_all(&self.pool)
            })
            .await?;
        if found.is_empty() && !mailboxes.is_empty() {
            // A condition on no row is asked before the function is called.
            return Err(too_old(pack.extent.pack));
        }
        let mut outcomes = vec![None; mailboxes.len()];
        for (place, outcome, uid) in found {
            let outcome = match outcome {
                0 => RowOutcome::Delivered(Uid(unsigned(uid)?)),
                1 => RowOutcome::OverQuota,
                2 => RowOutcome::Unknown,
                3 => RowOutcome::DeliveredBefore,
                _ => return Err(corrupt("unknown outcome of deliver_pack")),
            };
            if let Some(slot) = outcomes.get_mut((place - 1) as usize) {
                *slot = Some(outcome);
            }
        }
        outcomes
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| corrupt("missing outcome of deliver_pack"))
    }
}

fn unsigned(value: Option<i64>) -> Result<u64, IndexError> {
    value.and_then(|v| u64::try_from(v).ok()).ok_or_else(|| corrupt("missing or negative number"))
}
