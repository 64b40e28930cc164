//! Failed logins on PostgreSQL.

use std::time::Duration;

use async_trait::async_trait;
use maildrop::port::{FailureChange, FailureKey, FailureScore, Failures, IndexError, SharedFailures};
use time::OffsetDateTime;

use super::Postgres;

/// Scores read in one go, and how often: what changes beyond that is read the next time.
const PAGE: usize = 5000;
const PAGES_MAX: usize = 20;
/// A change is seen when it commits, and bears the time it began: it is looked for so much earlier.
const LATE: Duration = Duration::from_secs(5);

#[async_trait]
impl Failures for Postgres {
    async fn share_failures(
        &self,
        changes: &[FailureChange],
        half_life: Duration,
        since: OffsetDateTime,
    ) -> Result<SharedFailures, IndexError> {
        let half_life = half_life.as_secs_f64();
        let mut changes: Vec<FailureChange> = changes.to_vec();
        // In one order everywhere, so that two nodes do not wait for each other.
        changes.sort_by_key(|change| change.key);
        let keys: Vec<&[u8]> = changes.iter().map(|change| &change.key[..]).collect();
        let added: Vec<f64> = changes.iter().map(|change| change.added).collect();
        let forgiven: Vec<&[u8]> =
            changes.iter().filter(|change| change.forgiven).map(|change| &change.key[..]).collect();
        if !changes.is_empty() {
            self.once(|| async {
                sqlx::query(
                    "INSERT INTO login_failures AS f (key, score, at)
                     SELECT r.key, r.added, now() FROM unnest($1::bytea[], $2::float8[]) AS r (key, added)
                     ON CONFLICT (key) DO UPDATE
                        SET score = excluded.score + CASE WHEN excluded.key = ANY ($3::bytea[]) THEN 0
                                    ELSE f.score * power(0.5, extract(epoch FROM now() - f.at)::float8 / $4) END,
                            at = now()",
                )
                .bind(&keys)
                .bind(&added)
                .bind(&forgiven)
                .bind(half_life)
                .execute(&self.pool)
                .await
            })
            .await?;
        }
        // Page by page: many may have changed at the same moment.
        let (mut at, mut key) = (since - LATE, Vec::new());
        let mut shared = SharedFailures { scores: Vec::new(), until: since };
        for _ in 0..PAGES_MAX {
            let rows: Vec<(Vec<u8>, f64, OffsetDateTime)> = self
                .repeatable(|| {
                    sqlx::query_as(
                        "SELECT key, score * power(0.5, extract(epoch FROM now() - at)::float8 / $3), at
                           FROM login_failures WHERE (at, key) > ($1, $2) ORDER BY at, key LIMIT $4",
                    )
                    .bind(at)
                    .bind(&key)
                    .bind(half_life)
                    .bind(PAGE as i64)
                    .fetch_all(&self.pool)
                })
                .await?;
            let page = rows.len();
            for (of, score, changed) in rows {
                if let Ok(known) = of.as_slice().try_into() {
                    shared.scores.push(FailureScore { key: known, score });
                }
                (at, key) = (changed, of);
            }
            if page < PAGE {
                break;
            }
        }
        shared.until = at.max(since);
        Ok(shared)
    }

    async fn forget_failures(&self, before: OffsetDateTime) -> Result<(), IndexError> {
        self.forget("DELETE FROM login_failures WHERE at < $1", before).await
    }

    async fn note_sources(&self, keys: &[FailureKey], at: OffsetDateTime) -> Result<(), IndexError> {
        let mut keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        keys.sort_unstable();
        keys.dedup();
        self.repeatable(|| async {
            sqlx::query(
                "INSERT INTO login_sources (key, at) SELECT r.key, $2 FROM unnest($1::bytea[]) AS r (key)
                 ON CONFLICT (key) DO UPDATE SET at = excluded.at WHERE login_sources.at < excluded.at",
            )
            .bind(&keys)
            .bind(at)
            .execute(&self.pool)
            .await
        })
        .await?;
        Ok(())
    }

    async fn is_known_source(&self, key: FailureKey, since: OffsetDateTime) -> Result<bool, IndexError> {
        self.repeatable(|| {
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM login_sources WHERE key = $1 AND at >= $2)")
                .bind(&key[..])
                .bind(since)
                .fetch_one(&self.pool)
        })
        .await
    }

    async fn forget_sources(&self, before: OffsetDateTime) -> Result<(), IndexError> {
        self.forget("DELETE FROM login_sources WHERE at < $1", before).await
    }
}

impl Postgres {
    async fn forget(&self, statement: &'static str, before: OffsetDateTime) -> Result<(), IndexError> {
        self.repeatable(|| sqlx::query(statement).bind(before).execute(&self.pool)).await?;
        Ok(())
    }
}
