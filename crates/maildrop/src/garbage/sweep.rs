//! Objects that no row knows: of deliveries that broke off between the object and its rows, and of rewritings.
//!
//! A pack's name tells its time, and within a part of its tenant's objects names are in the order of time: a sweep
//! lists what is new since the last, and steps over the rest of a part where that saves a page.

use std::{collections::HashSet, time::Duration};

use time::OffsetDateTime;
use tracing::{error, info};

use super::{BrokenOff, GarbageCollector, YOUNG};
use crate::{
    PackId,
    port::{IndexError, PackPage, Sweep},
};

/// Time between two searches for tenants whose sweep is due.
pub(super) const PAUSE: Duration = Duration::from_hours(1);
/// A tenant's next sweep is for as much time at least.
const SWEPT: time::Duration = time::Duration::DAY;
/// Tenants read in one go.
const TENANTS: u32 = 100;
/// Pause between two pages, which are requests that cost as much as a PUT.
const PAGE_PAUSE: Duration = Duration::from_millis(50);
/// So many orphans of a page are too few to be suspicious.
const ORPHANS_FEW: usize = 16;

impl GarbageCollector {
    pub(super) async fn sweep_shard(&self, shard: u8) -> Result<(), BrokenOff> {
        loop {
            let until = OffsetDateTime::now_utc() - YOUNG;
            let sweeps = self.garbage.all_tenants_sweeps(shard, until - SWEPT, TENANTS).await?;
            for sweep in &sweeps {
                self.sweep(shard, *sweep, until).await?;
            }
            if sweeps.len() < TENANTS as usize {
                return Ok(());
            }
        }
    }

    /// Goes on with a tenant's sweep, or begins it, to its end.
    async fn sweep(&self, shard: u8, mut sweep: Sweep, horizon: OffsetDateTime) -> Result<(), BrokenOff> {
        let tenant = sweep.tenant;
        self.keep_task(shard).await?;
        // Never more than the horizon, whatever a clock said when it began.
        let until = sweep.until.unwrap_or(horizon).min(horizon);
        if sweep.until.is_none() {
            let aborted = self.packs.abort_uploads(tenant, until).await?;
            if aborted > 0 {
                info!(%tenant, uploads = aborted, "uploads that had never ended were forgotten");
            }
            sweep.until = Some(until);
            sweep.at = Some(PackId::first(0, sweep.from));
        }
        loop {
            let page = self.packs.list_packs(tenant, sweep.at).await?;
            self.sweep_page(&sweep, until, &page).await?;
            sweep.at = next(&page, sweep.from, until);
            if sweep.at.is_none() {
                break;
            }
            self.garbage.note_sweep(&sweep).await?;
            self.keep_task(shard).await?;
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        self.garbage.note_sweep(&Sweep { from: until, until: None, ..sweep }).await?;
        Ok(())
    }

    async fn sweep_page(
        &self,
        sweep: &Sweep,
        until: OffsetDateTime,
        page: &PackPage,
    ) -> Result<(), BrokenOff> {
        let tenant = sweep.tenant;
        let due = |pack: &PackId| sweep.from <= pack.time() && pack.time() < until;
        let packs: Vec<PackId> = page.packs.iter().map(|(pack, _)| *pack).filter(due).collect();
        if packs.is_empty() {
            return Ok(());
        }
        let known: HashSet<PackId> = self.known(sweep, &packs).await?;
        let orphans: Vec<PackId> = packs.iter().copied().filter(|pack| !known.contains(pack)).collect();
        // An index that was set back does not know what came since: that is mail, and the bucket all there is of it.
        if orphans.len() > ORPHANS_FEW && orphans.len() * 10 > packs.len() {
            error!(
                %tenant, objects = orphans.len(), of = packs.len(),
                "the index does not know suspiciously many packs: they are left; was it set back?"
            );
            self.stats.add_orphans_left(orphans.len() as u64);
            return Ok(());
        }
        if !orphans.is_empty() {
            self.packs.delete_packs(tenant, &orphans).await?;
            self.stats.add_orphans(orphans.len() as u64);
            info!(%tenant, objects = orphans.len(), "objects that no row knows were deleted");
        }
        Ok(())
    }

    async fn known(&self, sweep: &Sweep, packs: &[PackId]) -> Result<HashSet<PackId>, IndexError> {
        Ok(self.garbage.known_packs(sweep.tenant, packs).await?.into_iter().collect())
    }
}

/// After which object the next page begins; none after the last. What is before `from` or after `until` in its part is
/// stepped over.
fn next(page: &PackPage, from: OffsetDateTime, until: OffsetDateTime) -> Option<PackId> {
    let (last, _) = page.packs.last().filter(|_| page.more)?;
    if last.time() >= until {
        return last.shard().checked_add(1).map(|shard| PackId::first(shard, from));
    }
    if last.time() < from {
        return Some(PackId::first(last.shard(), from));
    }
    Some(*last)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    const FROM: OffsetDateTime = datetime!(2026-01-02 0:00 UTC);
    const UNTIL: OffsetDateTime = datetime!(2026-01-03 0:00 UTC);

    fn pack(shard: u8, at: OffsetDateTime) -> PackId {
        // Any but the last octet.
        PackId::from_uuid(Uuid::from_u128(PackId::first(shard, at).as_uuid().as_u128() | 0x7abc << 64))
    }

    fn after(last: PackId, more: bool) -> Option<PackId> {
        next(&PackPage { packs: vec![(last, 1)], more }, FROM, UNTIL)
    }

    #[test]
    fn what_is_not_of_the_time_is_stepped_over() {
        let hour = time::Duration::HOUR;
        let within = pack(3, FROM + hour);
        assert_eq!(after(within, true), Some(within));
        assert_eq!(after(within, false), None);
        assert_eq!(after(pack(3, FROM - hour), true), Some(PackId::first(3, FROM)));
        assert_eq!(after(pack(3, UNTIL + hour), true), Some(PackId::first(4, FROM)));
        assert_eq!(after(pack(255, UNTIL + hour), true), None, "there is no part after the last");
        assert!(PackId::first(3, FROM) < pack(3, FROM), "before all of that time");
        assert!(pack(3, FROM - hour) < PackId::first(3, FROM));
        assert_eq!((within.time(), within.shard()), (FROM + hour, 3));
    }

    #[test]
    fn a_generated_pack_is_of_now() {
        let age = OffsetDateTime::now_utc() - PackId::generate().time();
        assert!(age.abs() < time::Duration::MINUTE, "{age}");
    }
}
