//! A step reads what it does, however many mailboxes there are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test says what it sees")]

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::*;
use crate::PostgresConfig;

const MAILBOXES: i64 = 20_000;
const STEP: i64 = 500;

#[tokio::test]
async fn a_step_of_a_bulletin_reads_a_step() {
    let server = std::env::var("POSTERN_TEST_PG_URL").expect("run `cargo xtask test`");
    let database = format!("plans_{}", Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&server).await.unwrap();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
    let url = format!("{}/{database}", server.rsplit_once('/').unwrap().0);
    Postgres::migrate(&PostgresConfig::new(&url)).await.unwrap();
    let mut inside = PgConnection::connect(&url).await.unwrap();
    let (tenant, pack) = (Uuid::now_v7(), Uuid::now_v7());
    // Each has the bulletin, and a message of its own.
    inside
        .execute(AssertSqlSafe(format!(
            "INSERT INTO tenants (tenant_id, name, data_key, created_at) VALUES ('{tenant}', 'big', '', now());
             INSERT INTO mailboxes (tenant_id, mailbox_id, address, created_at)
             SELECT '{tenant}', gen_random_uuid(), 'u' || i || '@big.test', now()
               FROM generate_series(1, {MAILBOXES}) i;
             INSERT INTO messages (tenant_id, mailbox_id, uid, pack_id, pack_offset, pack_length, octets,
                                   header_octets, received_at, digest, delivered_to)
             SELECT tenant_id, mailbox_id, u, CASE u WHEN 1 THEN '{pack}' ELSE gen_random_uuid() END, 64, 100, 100,
                    10, now(), '', address
               FROM mailboxes, generate_series(1, 2) u;
             ANALYZE mailboxes; ANALYZE messages"
        )))
        .await
        .unwrap();
    let middle: Uuid = sqlx::query_scalar("SELECT mailbox_id FROM mailboxes ORDER BY 1 OFFSET 10000 LIMIT 1")
        .fetch_one(&mut inside)
        .await
        .unwrap();
    for (sql, index) in [(NEXT_SQL, "mailboxes_pkey"), (HOLDING_SQL, "messages_by_pack")] {
        let mut tx = inside.begin().await.unwrap();
        sqlx::query(
            "SELECT set_config('role', 'postern_tenant', true), set_config('postern.tenant', $1, true)",
        )
        .bind(tenant.to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
        if sql == HOLDING_SQL {
            tx.execute(BY_INDEX_SQL).await.unwrap();
        }
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {sql}");
        let query = sqlx::query_scalar(AssertSqlSafe(explain)).bind(tenant);
        let query =
            if sql == NEXT_SQL { query.bind(middle).bind(1_i64) } else { query.bind(pack).bind(64_i64) };
        let plan: Vec<String> = query.bind(STEP).fetch_all(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        let plan = plan.join("\n");
        println!("{plan}\n");
        assert!(plan.contains(index), "{plan}");
        assert!(!plan.contains("Sort") && !plan.contains("Seq Scan"), "{plan}");
        let touched: i64 = plan
            .split("Buffers: shared hit=")
            .nth(1)
            .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .expect("EXPLAIN names the buffers");
        assert!(touched < 5 * STEP, "{touched} buffers\n{plan}");
    }
    inside.close().await.unwrap();
    connection.execute(AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"))).await.unwrap();
}
