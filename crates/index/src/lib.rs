//! The mailbox index on PostgreSQL and on SQLite.
//!
//! Both adapters implement [`Index`] and [`Directory`] and pass one contract suite (`tests/contract`).
//! SQL lives here and nowhere else; each statement filters on the tenant, save those that find the tenant
//! (`all_tenants_`).

mod error;
mod postgres;
mod schema;
mod sqlite;

use std::sync::Arc;

use maildrop::port::{Directory, Index};

pub use postgres::{Config as PostgresConfig, Postgres};
pub use schema::{SCHEMA_VERSION, SchemaError};
pub use sqlite::Sqlite;

/// A store that is both ports at once, as both adapters are.
#[derive(Clone, Debug)]
pub struct Store {
    /// Maildrops, locks, messages.
    pub index: Arc<dyn Index>,
    /// Tenants, domains, mailboxes.
    pub directory: Arc<dyn Directory>,
}

impl<T: Index + Directory + 'static> From<Arc<T>> for Store {
    fn from(store: Arc<T>) -> Self {
        Self { index: Arc::clone(&store) as Arc<dyn Index>, directory: store }
    }
}
