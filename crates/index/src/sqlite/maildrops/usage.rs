//! What a tenant uses.

use maildrop::{
    TenantId,
    port::{IndexError, Usage},
};

use crate::{error::index_error, sqlite::Sqlite};

impl Sqlite {
    pub(super) async fn usage(&self, tenant: TenantId) -> Result<Usage, IndexError> {
        let row: Option<(i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT mailboxes, messages, octets, allocated_octets FROM tenant_usage WHERE tenant_id = ?",
        )
        .bind(tenant.as_uuid())
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        let (mailboxes, messages, octets, allocated) = row.unwrap_or_default();
        Ok(Usage {
            mailboxes: mailboxes as u64,
            messages: messages as u64,
            octets: octets as u64,
            allocated_octets: allocated as u64,
        })
    }
}
