//! What only PostgreSQL, or only a schema check, can show.

use std::{sync::Arc, time::Duration};

use index::{Postgres, PostgresConfig, SchemaError, Sqlite, Store};
use maildrop::{
    Credential, LockToken, Uid,
    port::{OpenOutcome, OpenRequest, RowOutcome},
};
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
    let error = store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.is_ok());
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
    let commit = store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
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
    let error = sqlx::query("SELECT * FROM commit_update($1, $2, $3, $4, interval '0', interval '0')")
        .bind(tenant.as_uuid())
        .bind(a.as_uuid())
        .bind(token.as_uuid())
        .bind(vec![uid.0 as i64])
        .fetch_one(&mut connection)
        .await
        .unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "57014");
    assert_eq!(uids(store, tenant, a).await, [uid.0]);
    let commit = store.index.commit_update(tenant, a, token, &[uid], NOT_KEPT).await.unwrap();
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

/// The second wall (P5): as the role that the admin API works as for a tenant, the database shows that tenant's
/// rows and no others, in every table that has any.
#[tokio::test]
async fn row_level_security_walls_tenants_off() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    for name in ["one", "two"] {
        let tenant = tenant(store, name).await;
        let at = address(&format!("a@{name}.test"));
        let mailbox = mailbox(store, tenant, at.as_str(), Some(50)).await;
        deliver(store, tenant, mailbox, 10).await;
        deliver(store, tenant, mailbox, 10).await;
        let removed =
            store.index.remove_messages(tenant, mailbox, &[Uid(1)], LONG, &actor(), AT).await.unwrap();
        assert_eq!(removed.len(), 1);
        let refused = store.index.deliver(tenant, &entry(), &[message(mailbox, 60)]).await.unwrap();
        assert_eq!(refused, [RowOutcome::OverQuota]);
        let gone = address(&format!("gone@{name}.test"));
        self::mailbox(store, tenant, gone.as_str(), None).await;
        assert!(store.directory.delete_mailbox(tenant, &gone, &actor(), AT).await.unwrap());
        let node = node(store, LONG).await;
        let delayed =
            OpenRequest { login_delay: LONG, ..request(tenant, mailbox, node, LockToken::generate()) };
        store.index.open(delayed).await.unwrap();
    }
    let mut connection = backend.connect().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.table_name::text FROM information_schema.columns c
           JOIN information_schema.tables t USING (table_schema, table_name)
          WHERE c.column_name = 'tenant_id' AND t.table_schema = 'public' AND t.table_type = 'BASE TABLE'",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert!(tables.len() >= 21, "{tables:?}");
    let one: uuid::Uuid = sqlx::query_scalar("SELECT tenant_id FROM tenants WHERE name = 'one'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let two: uuid::Uuid = sqlx::query_scalar("SELECT tenant_id FROM tenants WHERE name = 'two'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let (mut filled, mut walled) = (0, 0);
    for table in &tables {
        let count =
            |condition: &str| AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE {condition}"));
        let theirs: i64 = sqlx::query_scalar(count(&format!("tenant_id = '{two}'")))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        filled += i64::from(theirs > 0);
        for (scope, expected_own) in [(one.to_string(), true), (String::new(), false)] {
            let mut tx = connection.begin().await.unwrap();
            sqlx::query(
                "SELECT set_config('role', 'postern_tenant', true), set_config('postern.tenant', $1, true)",
            )
            .bind(&scope)
            .execute(&mut *tx)
            .await
            .unwrap();
            let seen: i64 = sqlx::query_scalar(count(&format!("tenant_id IS DISTINCT FROM '{one}'")))
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            assert_eq!(seen, 0, "{table} as '{scope}' shows another tenant's rows");
            let own: i64 = sqlx::query_scalar(count("true")).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(own > 0, expected_own && theirs > 0, "{table} as '{scope}'");
            walled += 1;
            // Nor can it write there.
            let moved = sqlx::query(AssertSqlSafe(format!("UPDATE {table} SET tenant_id = '{two}'")))
                .execute(&mut *tx)
                .await;
            assert!(moved.is_err() || own == 0, "{table}: a row was moved to another tenant");
            tx.rollback().await.unwrap();
        }
    }
    assert!(filled >= 14 && walled == 2 * tables.len(), "{filled} tables with rows");
    let changed = sqlx::query("UPDATE audit_log SET actor = 'nobody'").execute(&mut connection).await;
    assert!(changed.unwrap_err().to_string().contains("append-only"));
    let emptied = sqlx::query("TRUNCATE audit_log").execute(&mut connection).await;
    assert!(emptied.unwrap_err().to_string().contains("append-only"));
    connection.close().await.unwrap();
    backend.end().await;
}

/// A database user that is no superuser migrates and serves as the owner of its tables, once it may act as the
/// walled role; anybody else who may is told that they would see nothing.
#[tokio::test]
async fn an_ordinary_owner_serves_and_others_are_refused() {
    let backend = Backend::postgres().await;
    let mut connection = backend.connect().await;
    let name = |what: &str| format!("{what}_{}", uuid::Uuid::new_v4().simple());
    let (owner, other, database) = (name("owner"), name("other"), name("owned"));
    for sql in [
        format!("CREATE ROLE {owner} LOGIN"),
        format!("CREATE ROLE {other} LOGIN"),
        format!("CREATE DATABASE {database} OWNER {owner}"),
        // PostgreSQL before 15 lets everybody create in it, later ones the owner of the database.
        format!("GRANT postern_tenant TO {owner}"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    let (server, _) =
        backend.url_as(&owner).rsplit_once('/').map(|(s, d)| (s.to_owned(), d.to_owned())).unwrap();
    let url = format!("{server}/{database}");
    Postgres::migrate(&PostgresConfig::new(&url)).await.unwrap();
    let store: Store = Arc::new(Postgres::connect(PostgresConfig::new(&url)).await.unwrap()).into();
    let one = tenant(&store, "one").await;
    let a = mailbox(&store, one, "a@one.test", None).await;
    deliver(&store, one, a, 10).await;
    assert_eq!(store.index.usage(one).await.unwrap().messages, 1);
    assert!(store.directory.all_tenants_account(&address("a@one.test")).await.unwrap().is_some());
    drop(store);
    let url = format!("{}/{database}", backend.url_as(&other).rsplit_once('/').unwrap().0);
    execute(
        &format!("{server}/{database}"),
        &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {other}"),
    )
    .await;
    let refused = Postgres::connect(PostgresConfig::new(&url)).await.unwrap_err();
    assert!(refused.to_string().contains("GRANT postern_tenant"), "{refused}");
    let grant = AssertSqlSafe(format!("GRANT postern_tenant TO {other}"));
    sqlx::query(grant).execute(&mut connection).await.unwrap();
    let refused = Postgres::connect(PostgresConfig::new(&url)).await.unwrap_err();
    assert!(refused.to_string().contains("hides every tenant"), "{refused}");
    for sql in [
        format!("DROP DATABASE {database} WITH (FORCE)"),
        format!("DROP ROLE {owner}"),
        format!("DROP ROLE {other}"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    backend.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_logins_are_shared() {
    let backend = Backend::postgres().await;
    crate::failures::nodes_share_what_failed(&backend).await;
    backend.end().await;
}

/// The embedded index keeps sessions in memory and has one writer: a session that ends while that is waited for was not
/// ended by whoever asked.
#[tokio::test]
async fn an_embedded_session_that_ended_meanwhile_is_not_said_to_be_ended() {
    let backend = Backend::sqlite().await;
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let mailbox = mailbox(store, tenant, "a@one.test", None).await;
    let node = node(store, LONG).await;
    let (token, _) = opened(store, tenant, mailbox, node).await;
    let session = store.index.sessions(Some(tenant), None, 1).await.unwrap().remove(0).id;
    let by = actor();
    let new = [new_mailbox("b@one.test")];
    // In this order: the first has the writer, the second has found the session and waits, the session ends.
    let (made, ended, released) = tokio::join!(
        store.directory.create_mailboxes(tenant, &new, &by, AT),
        store.index.end_session(tenant, &session, &by, AT),
        store.index.release(tenant, mailbox, token),
    );
    assert!(made.unwrap()[0].is_ok());
    released.unwrap();
    assert!(!ended.unwrap());
    assert_eq!(backend.number("SELECT count(*) FROM audit_log WHERE action = 'session.end'").await, 0);
    backend.end().await;
}

/// As binaries of schema 3 set a password: what was kept of the one before must not outlive it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_set_by_an_older_binary_forgets_its_verifiers() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    let one = tenant(store, "one").await;
    let a = mailbox(store, one, "a@one.test", None).await;
    store.directory.keep_verifiers(one, a, 1, b"sealed").await.unwrap();
    let kept = async || {
        let account = store.directory.all_tenants_account(&address("a@one.test")).await.unwrap().unwrap();
        account.verifiers
    };
    assert!(kept().await.is_some());
    let mut connection = backend.connect().await;
    sqlx::query("UPDATE credentials SET password_hash = 'another'").execute(&mut connection).await.unwrap();
    assert_eq!(kept().await, None);
    drop(connection);
    backend.end().await;
}

/// Binaries of schema version 5 run beside new ones: they call the function they know, which knows of no silence.
#[tokio::test]
async fn an_older_binary_takes_nobody_over_and_inherits_no_silence() {
    let backend = Backend::postgres().await;
    let store = &backend.store;
    let tenant = tenant(store, "one").await;
    let a = mailbox(store, tenant, "a@one.test", None).await;
    let (dying, older) = (node(store, Duration::from_secs(1)).await, node(store, LONG).await);
    let (silent, _) = opened(store, tenant, a, dying).await;
    assert!(store.index.note_silence(tenant, a, silent, Credential::Password, true).await.unwrap());
    let mut connection = backend.connect().await;
    let token = LockToken::generate();
    let mut open_as_before = async || {
        let outcome: i32 = sqlx::query_scalar(
            "SELECT outcome FROM open_maildrops($1, ARRAY[$2], ARRAY[$3], ARRAY[1::bigint], ARRAY[1::bigint],
                                                ARRAY[$4], ARRAY['s'], ARRAY['p'], ARRAY[0::float8],
                                                ARRAY[NULL::integer], interval '10 s')",
        )
        .bind(older.as_uuid())
        .bind(tenant.as_uuid())
        .bind(a.as_uuid())
        .bind(token.as_uuid())
        .fetch_one(&mut connection)
        .await
        .unwrap();
        outcome
    };
    assert_eq!(open_as_before().await, 1, "in use");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(open_as_before().await, 0, "of a dead node");
    // What was noted of the dead node's session is not of this one.
    let newer = node(store, LONG).await;
    assert_eq!(open(store, tenant, a, newer).await.1, OpenOutcome::InUse);
    assert!(!store.index.note_silence(tenant, a, silent, Credential::Password, true).await.unwrap());
    backend.end().await;
}
