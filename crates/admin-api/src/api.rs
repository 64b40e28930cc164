//! What handlers share.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::body::Bytes;
use maildrop::{Actor, Address, ApiKeyId, Tenant, port::Note};
use moka::sync::Cache;
use time::OffsetDateTime;

use crate::{AdminApi, Problem, openapi, rate::Rates};

/// How long the use of a key counts as noted: half of what the directory notes at most.
const TOUCH_EVERY: Duration = Duration::from_secs(30);
/// Keys of which that is remembered.
const TOUCHED_MAX: u64 = 100_000;

/// The API with what it remembers between requests.
pub(crate) struct Api {
    parts: AdminApi,
    pub(crate) rates: Rates,
    /// Keys whose use was noted a moment ago.
    pub(crate) touched: Cache<ApiKeyId, ()>,
    /// The OpenAPI document.
    pub(crate) document: Bytes,
}

/// What a handler gets.
pub(crate) type Shared = Arc<Api>;

impl Api {
    pub(crate) fn new(parts: AdminApi) -> Self {
        Self {
            rates: Rates::new(parts.limits.requests, parts.limits.failures),
            touched: Cache::builder().max_capacity(TOUCHED_MAX).time_to_live(TOUCH_EVERY).build(),
            document: openapi::document().to_string().into(),
            parts,
        }
    }

    /// Now, as finely as the index keeps time: what is said of a resource when it is created is what is said of it
    /// later.
    pub(crate) fn now(&self) -> OffsetDateTime {
        let now = self.parts.clock.now();
        now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
    }

    /// Writes to the audit log what no port writes there by itself.
    pub(crate) async fn note(
        &self,
        tenant: &Tenant,
        actor: &Actor,
        action: &'static str,
        target: &Address,
        after: serde_json::Value,
    ) -> Result<(), Problem> {
        let (at, after) = (self.now(), Some(after));
        let note = Note { tenant: Some(tenant.id), actor, at, action, target: target.as_str(), after };
        Ok(self.parts.records.note(&note).await?)
    }
}

impl Deref for Api {
    type Target = AdminApi;

    fn deref(&self) -> &AdminApi {
        &self.parts
    }
}
