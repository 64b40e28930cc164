//! Whether the database goes on from where it was.

use maildrop::port::{HELD_MARGIN, Held, IndexError};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::postgres::Postgres;

impl Postgres {
    pub(super) async fn note_beacon_rows(
        &self,
        shard: u8,
        found: &[Uuid],
        next: Uuid,
    ) -> Result<Option<Held>, IndexError> {
        // A restored or promoted server goes on in a new timeline. One that does not let us ask has none to tell.
        let timeline: Option<String> =
            sqlx::query_scalar("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)")
                .fetch_optional(&self.pool)
                .await
                .unwrap_or(None);
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
            let elsewhere = last.and_then(|(.., before)| before.as_ref()).zip(timeline.as_ref());
            let set_back = unknown || elsewhere.is_some_and(|(before, now)| before != now);
            let mut held = None;
            if set_back {
                let from = last.map_or(OffsetDateTime::UNIX_EPOCH, |(_, at, _)| *at - HELD_MARGIN);
                let until: OffsetDateTime = sqlx::query_scalar(
                    "INSERT INTO held_times (shard, from_at, until_at) VALUES ($1, $2, now()) RETURNING until_at",
                )
                .bind(i16::from(shard))
                .bind(from)
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
            .bind(&timeline)
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(held)
        })
        .await
    }
}
