//! Whether the index is the one that it was: an index that was set back does not know the packs that came since, and
//! to it they look like orphans. A beacon in the object store, renewed before each search for orphans, is what the index
//! and the objects have to agree on.

use tracing::error;
use uuid::Uuid;

use super::{BrokenOff, GarbageCollector};

impl GarbageCollector {
    /// Renews a shard's beacon. The index knows of it before it is there, and a kill between any two steps leaves no
    /// beacon that the index does not know.
    pub(super) async fn light_beacon(&self, shard: u8) -> Result<(), BrokenOff> {
        let found = self.packs.beacons(shard).await?;
        let next = Uuid::now_v7();
        if let Some(held) = self.garbage.note_beacon(shard, &found, next).await? {
            error!(
                shard, from = %held.from, until = %held.until,
                "the index may have been set back: packs of that time that it does not know are left; \
                 `postern rebuild` brings back what they hold"
            );
        }
        self.packs.set_beacon(shard, next, &found).await?;
        Ok(())
    }
}
