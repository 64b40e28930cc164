//! Objects that no row knows: of deliveries that broke off between the object and its rows, and of rewritings.
//!
//! A pack's name tells its time, and within a part of its tenant's objects names are in the order of time: a sweep
//! lists what is new since the last, and steps over the rest of a part where that saves a page.

use std::{collections::HashSet, time::Duration};

use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::{BrokenOff, GarbageCollector, YOUNG};
use crate::{
    PackId,
    port::{Held, IndexError, PackPage, Sweep},
};

/// Time between two searches for tenants whose sweep is due.
pub(super) const PAUSE: Duration = Duration::from_hours(1);
/// Time between two sweeps of a tenant's objects.
const PAUSE_OF_TENANT: Duration = Duration::from_hours(24);
/// Tenants read in one go.
const TENANTS: u32 = 100;
/// So many orphans of a page are too few to be suspicious.
const ORPHANS_FEW: usize = 16;

impl GarbageCollector {
    pub(super) async fn sweep_shard(&self, shard: u8) -> Result<(), BrokenOff> {
        let held = self.garbage.held_times(shard).await?;
        loop {
            let sweeps = self.garbage.all_tenants_sweeps(shard, YOUNG, PAUSE_OF_TENANT, TENANTS).await?;
            let mut failed = 0;
            for sweep in &sweeps {
                match self.sweep(shard, *sweep, &held).await {
                    // It may have a store of its own, which is no reason to leave the others' objects.
                    Err(BrokenOff::Blob(error)) => {
                        warn!(tenant = %sweep.tenant, %error, "a tenant's objects could not be swept");
                        failed += 1;
                    }
                    swept => swept?,
                }
            }
            // Those that failed are due still.
            if sweeps.len() < TENANTS as usize || failed == sweeps.len() {
                return Ok(());
            }
        }
    }

    /// Goes on with a tenant's sweep, or begins it, to its end.
    async fn sweep(&self, shard: u8, mut sweep: Sweep, held: &[Held]) -> Result<(), BrokenOff> {
        self.keep_task(shard).await?;
        let mut at = Some(sweep.at.unwrap_or_else(|| PackId::first(0, sweep.from)));
        while at.is_some() {
            let page = self.packs.list_packs(sweep.tenant, at).await?;
            self.sweep_page(&sweep, held, &page).await?;
            at = next(&page, sweep.from, sweep.until);
            sweep.at = at;
            self.garbage.note_sweep(&sweep).await?;
            self.keep_task(shard).await?;
            self.pace(0, 1).await;
        }
        Ok(())
    }

    async fn sweep_page(&self, sweep: &Sweep, held: &[Held], page: &PackPage) -> Result<(), BrokenOff> {
        let tenant = sweep.tenant;
        let due = |pack: &PackId| sweep.from <= pack.time() && pack.time() < sweep.until;
        let packs: Vec<PackId> = page.packs.iter().map(|(pack, _)| *pack).filter(due).collect();
        if packs.is_empty() {
            return Ok(());
        }
        let known: HashSet<PackId> = self.known(sweep, &packs).await?;
        let orphans: Vec<PackId> = packs.iter().copied().filter(|pack| !known.contains(pack)).collect();
        // An index that was set back does not know what came since: that is mail, and the bucket all there is of it.
        let (left, orphans): (Vec<_>, Vec<_>) = orphans
            .into_iter()
            .partition(|pack| held.iter().any(|held| held.from <= pack.time() && pack.time() < held.until));
        if !left.is_empty() {
            warn!(%tenant, objects = left.len(), "packs from a time that the index may have lost are left");
            self.stats.add_orphans_left(left.len() as u64);
        }
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
        // Behind the last part is the tenant's next store.
        let part = last.shard().checked_add(1).map(|shard| PackId::first_in(last.store(), shard, from));
        return part.or_else(|| Some(PackId::first_in(last.store().next()?, 0, from)));
    }
    if last.time() < from {
        return Some(PackId::first_in(last.store(), last.shard(), from));
    }
    Some(*last)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;
    use crate::StoreNumber;

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
        let of_own = |number| Some(PackId::first_in(StoreNumber(number), 0, FROM));
        assert_eq!(after(pack(255, UNTIL + hour), true), of_own(1), "the next store is after the last part");
        let last = PackId::first_in(StoreNumber::MAX, 255, UNTIL + hour);
        assert_eq!(after(last, true), None, "there is none after the last");
        let own = PackId::first_in(StoreNumber(2), 3, FROM - hour);
        assert_eq!(after(own, true), Some(PackId::first_in(StoreNumber(2), 3, FROM)));
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
