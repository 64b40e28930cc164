//! SQLite: the embedded index. One process, so nodes and locks are kept in memory behind the same port.

mod audit;
mod bulletins;
mod checks;
mod directory;
mod failures;
mod garbage;
mod keys;
mod locks;
mod maildrops;
mod manifests;
mod records;

use std::{
    fs::{File, TryLockError},
    path::Path,
    str::FromStr as _,
    time::Duration,
};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::schema::{self, SchemaError};
use locks::Locks;

/// Connections for reading; SQLite has one writer at a time.
const READERS: u32 = 4;
/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The index in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    /// The one connection that writes.
    writer: SqlitePool,
    reader: SqlitePool,
    locks: Locks,
    /// Held for the process's life: locks are in memory, so a second process would not see them (P3).
    _exclusive: File,
}

impl Sqlite {
    /// Opens the file at `path`, creating it if need be, applies missing migrations, and checks that the
    /// schema is one this binary can serve on.
    pub async fn open(path: &Path) -> Result<Self, SchemaError> {
        let options = SqliteConnectOptions::new().filename(path);
        Self::open_with(options).await
    }

    /// As [`open`](Self::open), for a `sqlite:` URL.
    pub async fn open_url(url: &str) -> Result<Self, SchemaError> {
        Self::open_with(SqliteConnectOptions::from_str(url)?).await
    }

    async fn open_with(options: SqliteConnectOptions) -> Result<Self, SchemaError> {
        let exclusive = exclusive(options.get_filename())?;
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // P1: a commit is on the disk when it returns. WAL's usual NORMAL may lose the last commits.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        let known: bool =
            sqlx::query_scalar("SELECT count(*) > 0 FROM sqlite_master WHERE name = 'schema_info'")
                .fetch_one(&writer)
                .await?;
        // A newer schema must be noticed before migrations complain of versions they do not know.
        if known {
            match schema::check(schema_info(&writer).await?) {
                Err(SchemaError::Older { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        // A schema that is ahead but compatible is left as it is.
        let mut migrator = sqlx::migrate!("../../migrations/sqlite");
        migrator.set_ignore_missing(true).run(&writer).await?;
        schema::check(schema_info(&writer).await?)?;
        let reader = pool(READERS).connect_with(options).await?;
        Ok(Self { writer, reader, locks: Locks::default(), _exclusive: exclusive })
    }
}

/// Makes sure that no other process has the file.
fn exclusive(database: &Path) -> Result<File, SchemaError> {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    let open = File::options().create(true).append(true).open(&name);
    let file = open.map_err(|error| SchemaError::Database(sqlx::Error::Io(error)))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(SchemaError::Unsuitable(format!("{} is in use by another process", database.display())))
        }
        Err(TryLockError::Error(error)) => Err(SchemaError::Database(sqlx::Error::Io(error))),
    }
}

async fn schema_info(pool: &SqlitePool) -> Result<Option<(i32, i32)>, sqlx::Error> {
    sqlx::query_as("SELECT version, compatible_from FROM schema_info").fetch_optional(pool).await
}
