//! What only PostgreSQL, or only a schema check, can show.

use index::{Postgres, PostgresConfig, SchemaError, Sqlite};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

use crate::{
    backend::{Backend, missing_path, new_database, with_database},
    fixture::*,
};

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_does_not_fit_is_refused() {
    let (server, database) = new_database().await;
    let url = with_database(&server, &database);
    let config = PostgresConfig::new(url.clone());
    assert!(matches!(Postgres::connect(config.clone()).await, Err(SchemaError::Older { found: 0 })));
    Postgres::migrate(&config).await.unwrap();
    Postgres::migrate(&config).await.unwrap();
    drop(Postgres::connect(config.clone()).await.unwrap());
    execute(&url, "UPDATE schema_info SET version = 99").await;
    drop(Postgres::connect(config.clone()).await.unwrap());
    execute(&url, "UPDATE schema_info SET compatible_from = 99").await;
    assert!(matches!(
        Postgres::connect(config.clone()).await,
        Err(SchemaError::Newer { compatible_from: 99 })
    ));
    execute(&url, "UPDATE schema_info SET compatible_from = 1").await;
    let sql = format!("ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'");
    execute(&server, &sql).await;
    assert!(matches!(Postgres::connect(config).await, Err(SchemaError::Unsuitable(_))));
    execute(&server, &format!("DROP DATABASE {database} WITH (FORCE)")).await;
}

#[tokio::test]
async fn a_newer_embedded_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.sqlite");
    drop(Sqlite::open(&path).await.unwrap());
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    sqlx::query("UPDATE schema_info SET compatible_from = 99").execute(&mut connection).await.unwrap();
    assert!(matches!(Sqlite::open(&path).await, Err(SchemaError::Newer { compatible_from: 99 })));
    assert!(matches!(Sqlite::open(&missing_path()).await, Err(SchemaError::Database(_))));
}

#[tokio::test]
async fn an_index_that_is_away_says_so_and_comes_back() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, tenant, a, node).await;
    let uid = deliver(store, tenant, a, 10).await;
    // Every connection of the pool dies under it: what may be repeated is, and nobody notices.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    backend.number(cut).await;
    assert_eq!(uids(store, tenant, a).await, [uid.0]);
    backend.number(cut).await;
    deliver(store, tenant, a, 10).await;
    backend.number(cut).await;
    store.index.release(tenant, a, token).await.unwrap();
    backend.number(cut).await;
    let (token, after) = opened(store, tenant, a, node).await;
    assert_eq!(after.message_count, 2);
    // A commit is not repeated here: the session finds out what became of it.
    backend.number(cut).await;
    let error = store.index.commit_update(tenant, a, token, &[uid]).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(store.index.commit_update(tenant, a, token, &[uid]).await.is_ok());
    backend.end().await;
}

#[tokio::test]
async fn a_crash_of_the_database_empties_locks_and_leases() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let uid = deliver(store, tenant, a, 10).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, tenant, a, node).await;
    // What recovery does to unlogged tables.
    let emptied = "WITH l AS (DELETE FROM maildrop_locks RETURNING 1), n AS (DELETE FROM nodes RETURNING 1)
                   SELECT (SELECT count(*) FROM l) + (SELECT count(*) FROM n)";
    let mut connection = backend.connect().await;
    let emptied: i64 = sqlx::query_scalar(emptied).fetch_one(&mut connection).await.unwrap();
    assert_eq!(emptied, 2);
    // The session that was open cannot commit; the node says that it lives and opens again.
    let commit = store.index.commit_update(tenant, a, token, &[uid]).await.unwrap();
    assert_eq!(commit, maildrop::port::CommitOutcome::LockLost);
    opened(store, tenant, a, node).await;
    assert_eq!(uids(store, tenant, a).await, [uid.0]);
    drop(connection);
    backend.end().await;
}

#[tokio::test]
async fn a_lock_row_that_is_being_changed_stops_nobody_else() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let (a, b) =
        (mailbox(store, tenant, "a@one.test", None).await, mailbox(store, tenant, "b@one.test", None).await);
    let node = node(store, LONG).await;
    opened(store, tenant, a, node).await;
    // A transaction that takes its time has deleted the lock row of one maildrop.
    let mut slow = backend.connect().await;
    sqlx::query("BEGIN").execute(&mut slow).await.unwrap();
    sqlx::query("DELETE FROM maildrop_locks").execute(&mut slow).await.unwrap();
    let (first, second) = (store.clone(), store.clone());
    let busy = tokio::spawn(async move { open(&first, tenant, a, node).await.1 });
    let free = tokio::spawn(async move { open(&second, tenant, b, node).await.1 });
    assert!(matches!(free.await.unwrap(), maildrop::port::OpenOutcome::Opened(_)));
    assert_eq!(busy.await.unwrap(), maildrop::port::OpenOutcome::InUse);
    sqlx::query("COMMIT").execute(&mut slow).await.unwrap();
    opened(store, tenant, a, node).await;
    drop(slow);
    backend.end().await;
}

#[tokio::test]
async fn a_statement_nobody_waits_for_any_more_undoes_itself() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let uid = deliver(store, tenant, a, 10).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, tenant, a, node).await;
    let mut connection = backend.connect().await;
    // No patience at all stands for a server that stood still for longer than its client waits.
    let error = sqlx::query("SELECT * FROM commit_update($1, $2, $3, $4, interval '0')")
        .bind(tenant.as_uuid())
        .bind(a.as_uuid())
        .bind(token.as_uuid())
        .bind(vec![uid.0 as i64])
        .fetch_one(&mut connection)
        .await
        .unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "57014");
    assert_eq!(uids(store, tenant, a).await, [uid.0]);
    let commit = store.index.commit_update(tenant, a, token, &[uid]).await.unwrap();
    assert_eq!(commit, maildrop::port::CommitOutcome::Committed { deleted: 1 });
    drop(connection);
    backend.end().await;
}

#[tokio::test]
async fn a_second_process_on_an_embedded_index_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.sqlite");
    let first = Sqlite::open(&path).await.unwrap();
    let error = Sqlite::open(&path).await.unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(first);
    drop(Sqlite::open(&path).await.unwrap());
}
