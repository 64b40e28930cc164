//! Whether the database goes on from where it was.

use maildrop::port::{HELD_MARGIN, Held, IndexError};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::postgres::Postgres;

/// What a database is told from another by, that goes on from a state of it: one that was restored or promoted has a new
/// timeline, one that was loaded from a dump another identity.
const TIMELINE_SQL: &str = "SELECT concat_ws('/', left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
                                              (SELECT oid FROM pg_database WHERE datname = current_database()),
                                              (SELECT system_identifier FROM pg_control_system()))";

impl Postgres {
    /// None where the server does not let us ask. Any other error is one: nothing is swept then.
    async fn timeline(&self) -> Result<Option<String>, IndexError> {
        let told = self
            .repeatable(|| async {
                match sqlx::query_scalar(TIMELINE_SQL).fetch_optional(&self.pool).await {
                    // Insufficient privilege, or no such function.
                    Err(sqlx::Error::Database(error))
                        if error.code().is_some_and(|code| code == "42501" || code == "42883") =>
                    {
                        Ok(None)
                    }
                    told => told,
                }
            })
            .await?;
        Ok(told)
    }

    pub(super) async fn note_beacon_rows(
        &self,
        shard: u8,
        found: &[Uuid],
        next: Uuid,
    ) -> Result<Option<Held>, IndexError> {
        let timeline = self.timeline().await?;
        self.repeatable(|| async {
            let mut tx = self.unscoped().await?;
            let known: Vec<(Uuid, OffsetDateTime, Option<String>)> = sqlx::query_as(
                "SELECT beacon, at, timeline FROM pack_beacons WHERE shard = $1 ORDER BY at, beacon FOR UPDATE",
            )
            .bind(i16::from(shard))
            .fetch_all(&mut *tx)
            .await?;
            if known.iter().any(|(beacon, ..)| *beacon == next) {
                // It was noted before, and what had to be held is.
                return Ok(None);
            }
            let unknown = found.iter().any(|found| !known.iter().any(|(beacon, ..)| beacon == found));
            let last = known.last();
            // The last one that was told.
            let before = known.iter().rev().find_map(|(.., before)| before.as_ref());
            let elsewhere = before.zip(timeline.as_ref());
            let set_back = unknown || elsewhere.is_some_and(|(before, now)| before != now);
            let mut held = None;
            if set_back {
                let from = last.map_or(OffsetDateTime::UNIX_EPOCH, |(_, at, _)| *at - HELD_MARGIN);
                // Clocks of nodes that name packs may be ahead.
                let until: OffsetDateTime = sqlx::query_scalar(
                    "INSERT INTO held_times (shard, from_at, until_at)
                     VALUES ($1, $2, now() + make_interval(secs => $3)) RETURNING until_at",
                )
                .bind(i16::from(shard))
                .bind(from)
                .bind(HELD_MARGIN.as_secs_f64())
                .fetch_one(&mut *tx)
                .await?;
                held = Some(Held { from, until });
            }
            sqlx::query("DELETE FROM pack_beacons WHERE shard = $1 AND beacon <> ALL ($2)")
                .bind(i16::from(shard))
                .bind(found)
                .execute(&mut *tx)
                .await?;
            // Those found, too: they are put out only after the next is there.
            sqlx::query(
                "INSERT INTO pack_beacons (shard, beacon, timeline)
                 SELECT $1, b, $3 FROM unnest($2::uuid[]) AS b ON CONFLICT DO NOTHING",
            )
            .bind(i16::from(shard))
            .bind(found.iter().copied().chain([next]).collect::<Vec<_>>())
            .bind(timeline.as_ref().or(before))
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(held)
        })
        .await
    }
}
