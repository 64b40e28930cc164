//! Listing a page reads a page, however many mailboxes there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test says what it sees")]

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::*;
use crate::PostgresConfig;

const MAILBOXES: i64 = 20_000;
const PAGE: i64 = 101;

#[tokio::test]
async fn listing_reads_a_page() {
    let server = std::env::var("POSTERN_TEST_PG_URL").expect("run `cargo xtask test`");
    let database = format!("plans_{}", Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
    let url = format!("{}/{database}", server.rsplit_once('/').unwrap().0);
    Postgres::migrate(&PostgresConfig::new(&url)).await.unwrap();
    let mut inside = PgConnection::connect(&url).await.unwrap();
    let tenant = Uuid::now_v7();
    inside
        .execute(AssertSqlSafe(format!(
            "INSERT INTO tenants (tenant_id, name, data_key, created_at) VALUES ('{tenant}', 'big', '', now());
             INSERT INTO domains (tenant_id, name, created_at) VALUES ('{tenant}', 'big.test', now());
             INSERT INTO mailboxes (tenant_id, mailbox_id, address, created_at)
             SELECT '{tenant}', gen_random_uuid(), 'u' || i || '@big.test', now()
               FROM generate_series(1, {MAILBOXES}) i;
             ANALYZE mailboxes"
        )))
        .await
        .unwrap();
    for (domain, prefix) in [(false, false), (false, true), (true, false), (true, true)] {
        // As the API asks: behind the wall between tenants, and in the middle of the list.
        let mut tx = inside.begin().await.unwrap();
        sqlx::query(
            "SELECT set_config('role', 'postern_tenant', true), set_config('postern.tenant', $1, true)",
        )
        .bind(tenant.to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
        let sql = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {}", list_sql(domain, prefix));
        let query = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(tenant)
            .bind("u1500@big.test")
            .bind(PAGE)
            .bind(prefix.then_some("u1%"))
            .bind(domain.then_some("big.test"));
        let query = if prefix && !domain { query.bind("u1") } else { query };
        let plan: Vec<String> = query.fetch_all(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        let plan = plan.join("\n");
        println!("domain {domain}, prefix {prefix}:\n{plan}\n");
        assert!(plan.contains("Index Scan using mailboxes_by_"), "{plan}");
        assert!(!plan.contains("Sort") && !plan.contains("Seq Scan"), "{plan}");
        let touched: i64 = plan
            .split("Buffers: shared hit=")
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .expect("EXPLAIN names the buffers");
        assert!(touched < 2 * PAGE + 50, "{touched} buffers\n{plan}");
    }
    inside.close().await.unwrap();
    connection.execute(AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"))).await.unwrap();
}
