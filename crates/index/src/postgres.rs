//! PostgreSQL.

mod batch;
mod directory;
mod maildrops;

use std::{future::Future, str::FromStr as _, time::Duration};

use maildrop::{NodeId, port::IndexError};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    error::{index_error, is_serialization},
    schema::{self, SchemaError},
};
use batch::Batcher;

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct Config {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Most connections of this node.
    pub connections_max: u32,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
    /// Longest wait for a statement's answer.
    pub statement_timeout: Duration,
}

impl Config {
    /// The defaults: 16 connections (a node's statements are short and gathered), 5 s, 15 s.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections_max: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
        }
    }
}

/// A statement that a deadlock rolled back is tried so often.
const ATTEMPTS: u32 = 3;

/// The index on PostgreSQL. Holds no state of its own but the pool, so any number of nodes share a database.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
    statement_timeout: Duration,
    opens: Batcher<maildrops::Open>,
    releases: Batcher<maildrops::Release>,
    /// What this process last said of itself, to say it again when the lease is found to have run out.
    lease: std::sync::Mutex<Option<(NodeId, String, Duration)>>,
}

impl Postgres {
    /// Connects, and checks that the schema is one this binary can serve on.
    pub async fn connect(config: Config) -> Result<Self, SchemaError> {
        let pool = pool(&config).await?;
        let exists: bool =
            sqlx::query_scalar("SELECT to_regclass('schema_info') IS NOT NULL").fetch_one(&pool).await?;
        let found = if exists {
            sqlx::query_as("SELECT version, compatible_from FROM schema_info").fetch_optional(&pool).await?
        } else {
            None
        };
        schema::check(found)?;
        let isolation: String =
            sqlx::query_scalar("SHOW default_transaction_isolation").fetch_one(&pool).await?;
        if isolation != "read committed" {
            return Err(SchemaError::Unsuitable(format!(
                "default_transaction_isolation is '{isolation}', but locks need 'read committed'"
            )));
        }
        let synchronous: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&pool).await?;
        if synchronous == "off" {
            tracing::warn!("synchronous_commit is off: a crash of the database loses acknowledged mail");
        }
        let statement_timeout = config.statement_timeout;
        let opens = Batcher::start(maildrops::Open { pool: pool.clone(), timeout: statement_timeout });
        let releases = Batcher::start(maildrops::Release { pool: pool.clone(), timeout: statement_timeout });
        Ok(Self { pool, statement_timeout, opens, releases, lease: std::sync::Mutex::default() })
    }

    /// Applies the migrations that are missing.
    pub async fn migrate(config: &Config) -> Result<(), SchemaError> {
        let pool = pool(config).await?;
        schema::POSTGRES.run(&pool).await?;
        pool.close().await;
        Ok(())
    }

    /// Runs a statement that may be repeated.
    async fn repeatable<T, F>(&self, run: impl Fn() -> F + Send + Sync) -> Result<T, IndexError>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send,
        T: Send,
    {
        repeatable(&self.pool, self.statement_timeout, run).await
    }

    /// Runs a statement that must not be repeated by us; a deadlock rolled it back, so then it may.
    async fn once<T, F>(&self, run: impl Fn() -> F + Send + Sync) -> Result<T, IndexError>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send,
        T: Send,
    {
        let mut attempt = 1;
        loop {
            match timed(self.statement_timeout, run()).await {
                Err(error) if attempt < ATTEMPTS && is_serialization(&error) => attempt += 1,
                result => return result.map_err(index_error),
            }
        }
    }
}

async fn pool(config: &Config) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(&config.url)?.application_name("postern");
    PgPoolOptions::new()
        .max_connections(config.connections_max)
        .acquire_timeout(config.acquire_timeout)
        .max_lifetime(Duration::from_mins(30))
        // A ping before each use would double the round trips of a poll; a dead connection shows itself,
        // and what may be repeated is.
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

/// Runs a statement that is safe to repeat: again where a deadlock rolled it back, and again on the next
/// connection where one turned out to be dead. After a restart of the server that may be all of the pool's.
async fn repeatable<T, F>(
    pool: &PgPool,
    timeout: Duration,
    run: impl Fn() -> F + Send + Sync,
) -> Result<T, IndexError>
where
    F: Future<Output = Result<T, sqlx::Error>> + Send,
    T: Send,
{
    let (mut rolled_back, mut dead) = (0, 0);
    loop {
        match timed(timeout, run()).await {
            Err(error) if is_serialization(&error) && rolled_back < ATTEMPTS => rolled_back += 1,
            Err(error) if is_dead(&error) && dead <= pool.options().get_max_connections() => dead += 1,
            result => return result.map_err(index_error),
        }
    }
}

/// Whether the connection died under the statement. A timeout is none: trying again would only double it.
fn is_dead(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

async fn timed<T>(
    timeout: Duration,
    run: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(timeout, run).await {
        Ok(result) => result,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}
