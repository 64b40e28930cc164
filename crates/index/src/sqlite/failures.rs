//! Failed logins on SQLite: there is one process, which remembers them itself.

use std::time::Duration;

use async_trait::async_trait;
use maildrop::port::{FailureChange, FailureKey, Failures, IndexError, SharedFailures};
use time::OffsetDateTime;

use super::{Sqlite, maildrops::micros};
use crate::error::index_error;

#[async_trait]
impl Failures for Sqlite {
    async fn share_failures(
        &self,
        _changes: &[FailureChange],
        _half_life: Duration,
        since: OffsetDateTime,
    ) -> Result<SharedFailures, IndexError> {
        Ok(SharedFailures { scores: Vec::new(), until: since })
    }

    async fn forget_failures(&self, _before: OffsetDateTime) -> Result<(), IndexError> {
        Ok(())
    }

    async fn note_sources(&self, keys: &[FailureKey], at: OffsetDateTime) -> Result<(), IndexError> {
        let note = async {
            let mut tx = self.writer.begin().await?;
            for key in keys {
                sqlx::query(
                    "INSERT INTO login_sources (key, at) VALUES (?, ?)
                     ON CONFLICT (key) DO UPDATE SET at = max(at, excluded.at)",
                )
                .bind(&key[..])
                .bind(micros(at))
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        };
        note.await.map_err(index_error)
    }

    async fn is_known_source(&self, key: FailureKey, since: OffsetDateTime) -> Result<bool, IndexError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM login_sources WHERE key = ? AND at >= ?)")
            .bind(&key[..])
            .bind(micros(since))
            .fetch_one(&self.reader)
            .await
            .map_err(index_error)
    }

    async fn forget_sources(&self, before: OffsetDateTime) -> Result<(), IndexError> {
        sqlx::query("DELETE FROM login_sources WHERE at < ?")
            .bind(micros(before))
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        Ok(())
    }
}
