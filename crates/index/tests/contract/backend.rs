//! Adapters to run the contract on, each on a store of its own.

use std::{path::PathBuf, sync::Arc};

use index::{Postgres, PostgresConfig, Sqlite, Store};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

/// An adapter, its store, and a way to look at it from outside.
pub(crate) struct Backend {
    pub(crate) store: Store,
    place: Place,
}

enum Place {
    Sqlite(tempfile::TempDir),
    Postgres { server: String, database: String },
}

impl Backend {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Sqlite::open(&dir.path().join("index.sqlite")).await.unwrap()).into();
        Self { store, place: Place::Sqlite(dir) }
    }

    pub(crate) async fn postgres() -> Self {
        let (server, database) = new_database().await;
        let config = PostgresConfig::new(with_database(&server, &database));
        Postgres::migrate(&config).await.unwrap();
        let store = Arc::new(Postgres::connect(config).await.unwrap()).into();
        Self { store, place: Place::Postgres { server, database } }
    }

    /// A second adapter on the same store, as another node has. SQLite has one process, so there it is the
    /// same.
    pub(crate) async fn second(&self) -> Store {
        match &self.place {
            Place::Sqlite(_) => self.store.clone(),
            Place::Postgres { server, database } => {
                let config = PostgresConfig::new(with_database(server, database));
                Arc::new(Postgres::connect(config).await.unwrap()).into()
            }
        }
    }

    /// Runs SQL that gives one number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        match &self.place {
            Place::Sqlite(dir) => {
                let url = format!("sqlite:{}", dir.path().join("index.sqlite").display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
            }
            Place::Postgres { server, database } => {
                let url = with_database(server, database);
                let mut connection = PgConnection::connect(&url).await.unwrap();
                let sql = format!("SELECT ({sql})::bigint");
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap()
            }
        }
    }

    /// Whether it is on PostgreSQL.
    pub(crate) fn is_postgres(&self) -> bool {
        matches!(self.place, Place::Postgres { .. })
    }

    /// Runs SQL that changes something.
    pub(crate) async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match &self.place {
            Place::Sqlite(dir) => {
                let url = format!("sqlite:{}", dir.path().join("index.sqlite").display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                sqlx::query(sql).execute(&mut connection).await.unwrap();
            }
            Place::Postgres { .. } => {
                sqlx::query(sql).execute(&mut self.connect().await).await.unwrap();
            }
        }
    }

    /// A connection of one's own to the PostgreSQL database.
    pub(crate) async fn connect(&self) -> PgConnection {
        let Place::Postgres { server, database } = &self.place else { panic!("not on PostgreSQL") };
        PgConnection::connect(&with_database(server, database)).await.unwrap()
    }

    /// The URL of the PostgreSQL database for another user of it.
    pub(crate) fn url_as(&self, user: &str) -> String {
        let Place::Postgres { server, database } = &self.place else { panic!("not on PostgreSQL") };
        let (_, host) = server.rsplit_once('@').unwrap();
        with_database(&format!("postgres://{user}@{host}"), database)
    }

    pub(crate) async fn end(self) {
        drop(self.store);
        if let Place::Postgres { server, database } = self.place {
            let mut connection = PgConnection::connect(&server).await.unwrap();
            let sql = format!("DROP DATABASE {database} WITH (FORCE)");
            sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
    }
}

/// A new, empty database: the server's URL and its name.
pub(crate) async fn new_database() -> (String, String) {
    let server = std::env::var("POSTERN_TEST_PG_URL").expect(
        "POSTERN_TEST_PG_URL is not set: these tests need a PostgreSQL server; run `cargo xtask test`",
    );
    let database = format!("contract_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    let sql = format!("CREATE DATABASE {database}");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    (server, database)
}

pub(crate) fn with_database(server: &str, database: &str) -> String {
    let (base, _) = server.rsplit_once('/').unwrap();
    format!("{base}/{database}")
}

/// A path that is not there.
pub(crate) fn missing_path() -> PathBuf {
    PathBuf::from("/nonexistent-directory/index.sqlite")
}
