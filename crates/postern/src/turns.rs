//! What the admin API asks of the index for a tenant, it asks in that tenant's turn, as its sessions do (P5): a
//! script of one tenant does not crowd the others out.
//!
//! A turn lasts for one call of a port. Ports wait for no other turn, so nobody waits for one who holds one.
//!
//! Not in turn: what finds out which tenant it is, and what the platform does to a tenant as a whole. To suspend one
//! that crowds others out must not have to wait behind its crowd.

mod bulletins;
mod directory;
mod index;
mod records;

use std::sync::Arc;

use ::index::Store;
use maildrop::{FairGate, FairPermit, Overloaded, TenantId, port::IndexError};

/// The same store, asked in tenants' turns.
pub(crate) fn in_turn(store: &Store, turns: &FairGate) -> Store {
    let turns = || Turns(turns.clone());
    Store {
        index: Arc::new(InTurn { inner: Arc::clone(&store.index), turns: turns() }),
        directory: Arc::new(InTurn { inner: Arc::clone(&store.directory), turns: turns() }),
        records: Arc::new(InTurn { inner: Arc::clone(&store.records), turns: turns() }),
        bulletins: Arc::new(InTurn { inner: Arc::clone(&store.bulletins), turns: turns() }),
        // No tenant's.
        failures: Arc::clone(&store.failures),
        garbage: Arc::clone(&store.garbage),
        manifests: Arc::clone(&store.manifests),
        checks: Arc::clone(&store.checks),
        keys: Arc::clone(&store.keys),
    }
}

/// A port that is asked in turns.
#[derive(Debug)]
struct InTurn<P: ?Sized> {
    inner: Arc<P>,
    turns: Turns,
}

#[derive(Debug)]
struct Turns(FairGate);

impl Turns {
    /// The tenant's turn; what is no tenant's has none.
    async fn take(&self, tenant: Option<TenantId>) -> Result<Option<FairPermit>, IndexError> {
        let Some(tenant) = tenant else { return Ok(None) };
        match self.0.turn(tenant).await {
            Some(turn) => Ok(Some(turn)),
            None => Err(IndexError::Unreached(Box::new(Overloaded))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::index::Sqlite;
    use maildrop::port::{AuditQuery, MailboxQuery};

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_tenant_is_asked_about_in_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap();
        let turns = FairGate::new(1, 1);
        let store = in_turn(&Arc::new(sqlite).into(), &turns);
        let (one, other) = (TenantId::generate(), TenantId::generate());
        let query = MailboxQuery::first(10);
        let held = turns.acquire(other).await.unwrap();
        let waits = async |tenant: Option<TenantId>| {
            let audit = AuditQuery { tenant, limit: 1, ..AuditQuery::default() };
            tokio::time::timeout(MOMENT, store.records.audit(&audit)).await.is_err()
        };
        assert!(waits(Some(one)).await);
        assert!(!waits(None).await, "what is no tenant's has no turn");
        assert!(tokio::time::timeout(MOMENT, store.index.usage(one)).await.is_err());
        assert!(tokio::time::timeout(MOMENT, store.directory.tenant(one)).await.is_ok());
        // One may wait, and is asked about when its turn comes; a second one is too many.
        let list = store.directory.list_mailboxes(one, &query);
        let refused = async {
            tokio::time::sleep(MOMENT).await;
            let refused = store.directory.list_mailboxes(one, &query).await;
            drop(held);
            refused
        };
        let (listed, refused) = tokio::join!(list, refused);
        assert!(listed.unwrap().is_empty());
        assert!(matches!(refused, Err(IndexError::Unreached(_))), "{refused:?}");
        assert_eq!(turns.stats().in_use, 0, "a turn ends with the call");
        assert!(!waits(Some(one)).await);
    }
}
