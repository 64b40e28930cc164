//! Whether the database file goes on from where it was.

use maildrop::port::{HELD_MARGIN, Held};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::sqlite::{
    Sqlite,
    maildrops::{from_micros, micros},
};

impl Sqlite {
    pub(super) async fn note_beacon_rows(
        &self,
        shard: u8,
        found: &[Uuid],
        next: Uuid,
    ) -> Result<Option<Held>, sqlx::Error> {
        let now = OffsetDateTime::now_utc();
        // As it is kept: to the microsecond.
        let now = now.replace_nanosecond(now.microsecond() * 1000).unwrap_or(now);
        let mut tx = self.writer.begin().await?;
        let known: Vec<(Uuid, i64)> =
            sqlx::query_as("SELECT beacon, at FROM pack_beacons WHERE shard = ? ORDER BY at, beacon")
                .bind(shard)
                .fetch_all(&mut *tx)
                .await?;
        let mut held = None;
        if found.iter().any(|found| !known.iter().any(|(beacon, _)| beacon == found)) {
            let last = known
                .last()
                .map(|(_, at)| from_micros(*at))
                .transpose()
                .map_err(crate::error::undecodable)?;
            let from = last.map_or(OffsetDateTime::UNIX_EPOCH, |at| at - HELD_MARGIN);
            let until = now + HELD_MARGIN;
            sqlx::query("INSERT OR IGNORE INTO held_times (shard, from_at, until_at) VALUES (?, ?, ?)")
                .bind(shard)
                .bind(micros(from))
                .bind(micros(until))
                .execute(&mut *tx)
                .await?;
            held = Some(Held { from, until });
        }
        for (beacon, _) in known.iter().filter(|(beacon, _)| !found.contains(beacon)) {
            sqlx::query("DELETE FROM pack_beacons WHERE shard = ? AND beacon = ?")
                .bind(shard)
                .bind(beacon)
                .execute(&mut *tx)
                .await?;
        }
        for beacon in found.iter().chain([&next]) {
            sqlx::query("INSERT OR IGNORE INTO pack_beacons (shard, beacon, at) VALUES (?, ?, ?)")
                .bind(shard)
                .bind(beacon)
                .bind(micros(now))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(held)
    }
}
