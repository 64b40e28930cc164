//! PostgreSQL.

mod batch;
mod bulletins;
mod checks;
mod directory;
mod failures;
mod garbage;
mod keys;
mod maildrops;
mod manifests;
mod records;
mod scoped;

use std::{future::Future, str::FromStr as _, time::Duration};

use maildrop::{NodeId, port::IndexError};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::Semaphore;

use crate::{
    error::{index_error, is_dead, is_serialization},
    schema::{self, SchemaError},
};
use batch::{Batcher, LaneConfig};

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct Config {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Most connections of this node, besides eight that logins, releases, recipients and heartbeats have for themselves.
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
/// Longest time for ending the deletion of a tenant.
const DELETION_TIMEOUT: Duration = Duration::from_mins(10);

/// The index on PostgreSQL. Any number of nodes share a database.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
    statement_timeout: Duration,
    /// Heartbeats have connections of their own: neither a pool that is busy nor one whose connections lead
    /// nowhere must cost a healthy node its locks.
    heartbeats: Batcher<maildrops::Heartbeat>,
    /// Turns for deliveries: fewer than there are connections, so that deliveries that wait for one busy
    /// mailbox leave some to everybody else.
    deliveries: Semaphore,
    opens: Batcher<maildrops::Open>,
    releases: Batcher<maildrops::Release>,
    recipients: Batcher<directory::Recipients>,
    /// What this process last said of itself, to say it again when the lease is found to have run out.
    lease: std::sync::Mutex<Option<(NodeId, String, Duration)>>,
}

/// How many connections a [`Postgres`] has, as of when it is asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PoolStats {
    pool: PgPool,
}

impl PoolStats {
    /// Open connections of the pool. The eight that logins, releases, recipients and heartbeats have for themselves are not
    /// of the pool.
    pub fn size(&self) -> u32 {
        self.pool.size()
    }

    /// Those of them that nobody uses.
    pub fn idle(&self) -> u32 {
        u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX)
    }
}

impl Postgres {
    /// Connects, and checks that the schema is one this binary can serve on.
    pub async fn connect(config: Config) -> Result<Self, SchemaError> {
        let pool = pool(&config).await?;
        schema::check(schema_info(&pool).await?)?;
        let isolation: String =
            sqlx::query_scalar("SHOW default_transaction_isolation").fetch_one(&pool).await?;
        if isolation != "read committed" {
            return Err(SchemaError::Unsuitable(format!(
                "default_transaction_isolation is '{isolation}', but locks need 'read committed'"
            )));
        }
        // The wall between tenants must stand before anything is served behind it.
        let walled: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_roles r
                             WHERE r.rolname = 'postern_tenant' AND pg_has_role(r.oid, 'MEMBER'))",
        )
        .fetch_one(&pool)
        .await?;
        if !walled {
            return Err(SchemaError::Unsuitable(
                "this database user may not act as role 'postern_tenant', which walls tenants off from each \
                 other: GRANT postern_tenant TO it"
                    .to_owned(),
            ));
        }
        // The other side of the wall: what is done for no tenant in particular must see them all.
        let blind: bool =
            sqlx::query_scalar("SELECT row_security_active('tenants'::regclass)").fetch_one(&pool).await?;
        if blind {
            return Err(SchemaError::Unsuitable(
                "row-level security hides every tenant from this database user: serve as the owner of the \
                 tables, or as a user with BYPASSRLS"
                    .to_owned(),
            ));
        }
        let synchronous: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&pool).await?;
        if synchronous == "off" {
            tracing::warn!("synchronous_commit is off: a crash of the database loses acknowledged mail");
        }
        let statement_timeout = config.statement_timeout;
        let lanes = LaneConfig {
            options: options(&config)?,
            connect_timeout: config.acquire_timeout,
            statement_timeout,
        };
        Ok(Self {
            heartbeats: Batcher::start(maildrops::Heartbeat, &lanes),
            deliveries: Semaphore::new((config.connections_max as usize / 2).max(1)),
            opens: Batcher::start(maildrops::Open { patience: patience(statement_timeout) }, &lanes),
            releases: Batcher::start(maildrops::Release, &lanes),
            recipients: Batcher::start(directory::Recipients, &lanes),
            lease: std::sync::Mutex::default(),
            pool,
            statement_timeout,
        })
    }

    /// How busy the pool of connections is, to be watched.
    pub fn pool(&self) -> PoolStats {
        PoolStats { pool: self.pool.clone() }
    }

    /// Applies the migrations that are missing, and gives the version the schema has then: greater than
    /// [`SCHEMA_VERSION`](crate::SCHEMA_VERSION) where a later release was here before, which is left as it is.
    ///
    /// # Errors
    ///
    /// [`SchemaError::Newer`] where this binary could not serve on it; what the database says otherwise.
    pub async fn migrate(config: &Config) -> Result<i32, SchemaError> {
        let pool = pool(config).await?;
        let found = schema_info(&pool).await?;
        // A newer schema must be noticed before migrations complain of versions they do not know.
        match schema::check(found) {
            Ok(()) => {}
            Err(SchemaError::Older { .. }) => schema::POSTGRES.run(&pool).await?,
            Err(error) => return Err(error),
        }
        let version = schema_info(&pool).await?.map_or(0, |(version, _)| version);
        pool.close().await;
        Ok(version)
    }

    /// Runs a statement that may be repeated.
    async fn repeatable<T, F>(&self, run: impl Fn() -> F + Send + Sync) -> Result<T, IndexError>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send,
        T: Send,
    {
        repeatable(&self.pool, self.statement_timeout, run).await
    }

    /// How long a statement may take before it undoes itself on the server: less than its client waits.
    fn patience(&self) -> Duration {
        patience(self.statement_timeout)
    }

    /// Runs a statement that must not be repeated by us; a deadlock rolled it back, so then it may.
    async fn once<T, F>(&self, run: impl Fn() -> F + Send + Sync) -> Result<T, IndexError>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send,
        T: Send,
    {
        self.once_within(self.statement_timeout, run).await
    }

    /// As [`once`](Self::once), with a time limit of its own.
    async fn once_within<T, F>(
        &self,
        timeout: Duration,
        run: impl Fn() -> F + Send + Sync,
    ) -> Result<T, IndexError>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send,
        T: Send,
    {
        let mut attempt = 1;
        loop {
            match timed(timeout, run()).await {
                Err(error) if attempt < ATTEMPTS && is_serialization(&error) => attempt += 1,
                result => return result.map_err(index_error),
            }
        }
    }
}

fn patience(statement_timeout: Duration) -> Duration {
    statement_timeout * 2 / 3
}

fn options(config: &Config) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(&config.url)?.application_name("postern"))
}

async fn pool(config: &Config) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(config.connections_max)
        .acquire_timeout(config.acquire_timeout)
        .max_lifetime(Duration::from_mins(30))
        // A ping before each use would cost a round trip; a dead connection shows itself, and what may be
        // repeated is.
        .test_before_acquire(false)
        .connect_with(options(config)?)
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
            result => {
                return result.map_err(|error| match index_error(error) {
                    // An attempt that died with its connection may have been carried out.
                    IndexError::Unreached(source) if dead > 0 => IndexError::Unavailable(source),
                    error => error,
                });
            }
        }
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

/// The schema's version, and the oldest that a binary may know. Nothing where there is no schema.
async fn schema_info(pool: &sqlx::PgPool) -> Result<Option<(i32, i32)>, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('schema_info') IS NOT NULL").fetch_one(pool).await?;
    if !exists {
        return Ok(None);
    }
    sqlx::query_as("SELECT version, compatible_from FROM schema_info").fetch_optional(pool).await
}
