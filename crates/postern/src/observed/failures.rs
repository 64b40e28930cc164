//! What is asked of failed logins.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use maildrop::port::{FailureChange, FailureKey, Failures, IndexError, SharedFailures};
use prometheus::Registry;
use time::OffsetDateTime;

use super::Observer;

/// Failed logins whose operations are counted.
#[derive(Debug)]
pub(crate) struct ObservedFailures {
    failures: Arc<dyn Failures>,
    observer: Observer,
}

impl ObservedFailures {
    pub(crate) fn new(failures: Arc<dyn Failures>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let what = "operations of failed logins";
        let observer = Observer::new(registry, "postern_failures_operation", "operation", what)?;
        Ok(Self { failures, observer })
    }
}

#[async_trait]
impl Failures for ObservedFailures {
    async fn share_failures(
        &self,
        changes: &[FailureChange],
        half_life: Duration,
        since: OffsetDateTime,
    ) -> Result<SharedFailures, IndexError> {
        self.observer.observe("share", self.failures.share_failures(changes, half_life, since)).await
    }

    async fn forget_failures(&self, before: OffsetDateTime) -> Result<(), IndexError> {
        self.observer.observe("forget_failures", self.failures.forget_failures(before)).await
    }

    async fn note_sources(&self, keys: &[FailureKey], at: OffsetDateTime) -> Result<(), IndexError> {
        self.observer.observe("note_sources", self.failures.note_sources(keys, at)).await
    }

    async fn is_known_source(&self, key: FailureKey, since: OffsetDateTime) -> Result<bool, IndexError> {
        self.observer.observe("is_known_source", self.failures.is_known_source(key, since)).await
    }

    async fn forget_sources(&self, before: OffsetDateTime) -> Result<(), IndexError> {
        self.observer.observe("forget_sources", self.failures.forget_sources(before)).await
    }
}
