//! The mailbox index on PostgreSQL and on SQLite.
//!
//! Both adapters implement [`Index`] and [`Directory`] and pass one contract suite (`tests/contract`).
//! SQL lives here and nowhere else; each statement filters on the tenant, save those that find the tenant
//! (`all_tenants_`).

mod bulletins;
mod checks;
mod error;
mod postgres;
mod reachability;
mod rows;
mod schema;
mod sqlite;
mod tables;
mod words;

use std::sync::Arc;

use maildrop::port::{Bulletins, Checks, Directory, Failures, Garbage, Index, KeyRows, Manifests, Records};

pub use postgres::{Config as PostgresConfig, PoolStats, Postgres};
pub use schema::{SCHEMA_VERSION, SchemaError};
pub use sqlite::Sqlite;

/// A store that is all these ports at once, as both adapters are.
#[derive(Clone, Debug)]
pub struct Store {
    /// Maildrops, locks, messages.
    pub index: Arc<dyn Index>,
    /// Tenants, domains, mailboxes.
    pub directory: Arc<dyn Directory>,
    /// The audit log, answers to repeated requests, traffic.
    pub records: Arc<dyn Records>,
    /// Bulletins.
    pub bulletins: Arc<dyn Bulletins>,
    /// Failed logins.
    pub failures: Arc<dyn Failures>,
    /// Packs with garbage.
    pub garbage: Arc<dyn Garbage>,
    /// What manifests are written of, and what is put back from them.
    pub manifests: Arc<dyn Manifests>,
    /// What can be checked, and mended.
    pub checks: Arc<dyn Checks>,
    /// Sealed keys.
    pub keys: Arc<dyn KeyRows>,
}

impl<T: Index + Directory + Records + Bulletins + Failures + Garbage + Manifests + Checks + KeyRows + 'static>
    From<Arc<T>> for Store
{
    fn from(store: Arc<T>) -> Self {
        Self {
            index: Arc::clone(&store) as Arc<dyn Index>,
            directory: Arc::clone(&store) as Arc<dyn Directory>,
            records: Arc::clone(&store) as Arc<dyn Records>,
            bulletins: Arc::clone(&store) as Arc<dyn Bulletins>,
            failures: Arc::clone(&store) as Arc<dyn Failures>,
            garbage: Arc::clone(&store) as Arc<dyn Garbage>,
            manifests: Arc::clone(&store) as Arc<dyn Manifests>,
            checks: Arc::clone(&store) as Arc<dyn Checks>,
            keys: store,
        }
    }
}
