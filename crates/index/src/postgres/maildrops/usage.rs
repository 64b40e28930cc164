//! What a tenant uses.

use maildrop::{
    TenantId,
    port::{IndexError, Usage},
};

use crate::postgres::Postgres;

impl Postgres {
    pub(super) async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        let (mailboxes, messages, octets, allocated): (i64, i64, i64, i64) = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT coalesce(sum(mailboxes), 0)::bigint, coalesce(sum(messages), 0)::bigint,
                            coalesce(sum(octets), 0)::bigint, coalesce(sum(allocated_octets), 0)::bigint
                       FROM tenant_usage WHERE tenant_id = $1",
                )
                .bind(tenant.as_uuid())
                .fetch_one(&mut *tx)
                .await
            })
            .await?;
        Ok(Usage {
            mailboxes: mailboxes as u64,
            messages: messages as u64,
            octets: octets as u64,
            allocated_octets: allocated as u64,
        })
    }
}
