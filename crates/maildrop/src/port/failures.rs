//! The port to failed logins: what all nodes together know of who guesses at passwords.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::port::IndexError;

/// A source, a login name, or both, as a hash.
pub type FailureKey = [u8; 16];

/// Failed logins, and known good sources.
#[async_trait]
pub trait Failures: Send + Sync + std::fmt::Debug {
    /// Changes scores, which halve every `half_life`, and gives those that any node changed since `since`, which is
    /// [`SharedFailures::until`] of the time before. Where one process has the index to itself there is nobody to
    /// share with: nothing is kept, and nothing comes back.
    async fn share_failures(
        &self,
        changes: &[FailureChange],
        half_life: Duration,
        since: OffsetDateTime,
    ) -> Result<SharedFailures, IndexError>;

    /// Forgets scores last changed before `before`.
    async fn forget_failures(&self, before: OffsetDateTime) -> Result<(), IndexError>;

    /// Notes good logins from sources.
    async fn note_sources(&self, keys: &[FailureKey], at: OffsetDateTime) -> Result<(), IndexError>;

    /// Whether a good login from the source was noted since then.
    async fn is_known_source(&self, key: FailureKey, since: OffsetDateTime) -> Result<bool, IndexError>;

    /// Forgets sources last noted before `before`.
    async fn forget_sources(&self, before: OffsetDateTime) -> Result<(), IndexError>;
}

/// How often logins failed of late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FailureScore {
    /// Of what.
    pub key: FailureKey,
    /// About as many as failed within a half-life.
    pub score: f64,
}

/// What a node has to say of failed logins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FailureChange {
    /// Of what.
    pub key: FailureKey,
    /// Whether what was counted before is forgiven.
    pub forgiven: bool,
    /// How many failed since.
    pub added: f64,
}

/// What all nodes together know.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedFailures {
    /// Scores that changed, as they are now.
    pub scores: Vec<FailureScore>,
    /// Up to when, by the index's clock.
    pub until: OffsetDateTime,
}
