//! Nodes: that they live, and which one has a task.

use std::{cmp::Ordering, time::Duration};

use maildrop::{
    NodeId,
    port::{IndexError, Pulse, REBUILD_TASK},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::postgres::{
    Postgres,
    batch::{Batch, BatchError},
};

/// Says that nodes live.
#[derive(Debug)]
pub(in crate::postgres) struct Heartbeat;

impl Batch for Heartbeat {
    type Request = (NodeId, String, Duration);
    type Answer = Pulse;

    fn excludes(_: &Self::Request, _: &Self::Request) -> bool {
        // There is one node to a process.
        true
    }

    fn order(a: &Self::Request, b: &Self::Request) -> Ordering {
        a.0.cmp(&b.0)
    }

    fn busy() -> Result<Pulse, IndexError> {
        Err(IndexError::Unavailable("node row is being changed".into()))
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        requests: &[Self::Request],
    ) -> Result<Vec<Pulse>, BatchError> {
        let mut pulses = Vec::with_capacity(requests.len());
        for (node, name, ttl) in requests {
            // Sessions to end are told of for a minute, in case an answer is lost.
            let (others, ended): (i64, Vec<String>) = sqlx::query_as(
                "WITH said AS (
                     INSERT INTO nodes (node_id, name, expires_at)
                     VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
                     ON CONFLICT (node_id) DO UPDATE SET expires_at = excluded.expires_at
                 ), told AS (
                     DELETE FROM session_ends WHERE at < clock_timestamp() - interval '1 minute'
                 )
                 SELECT (SELECT count(*) FROM nodes WHERE expires_at > clock_timestamp() AND node_id <> $1),
                        (SELECT coalesce(array_agg(session), '{}') FROM session_ends WHERE node_id = $1)",
            )
            .bind(node.as_uuid())
            .bind(name)
            .bind(ttl.as_secs_f64())
            .fetch_one(&mut *connection)
            .await?;
            pulses.push(Pulse { nodes: u32::try_from(others + 1).unwrap_or(1), ended });
        }
        Ok(pulses)
    }
}

impl Postgres {
    pub(super) async fn heartbeat(
        &self,
        node: NodeId,
        name: &str,
        ttl: Duration,
    ) -> Result<Pulse, IndexError> {
        if let Ok(mut lease) = self.lease.lock() {
            *lease = Some((node, name.to_owned(), ttl));
        }
        self.heartbeats.ask((node, name.to_owned(), ttl)).await
    }

    pub(super) async fn take_task(
        &self,
        task: &str,
        node: NodeId,
        ttl: Duration,
    ) -> Result<bool, IndexError> {
        let holder: Option<Uuid> = self
            .repeatable(|| {
                sqlx::query_scalar(
                    "INSERT INTO tasks AS t (task, node_id, expires_at)
                     SELECT $1, $2, clock_timestamp() + make_interval(secs => $3)
                      WHERE NOT EXISTS (SELECT FROM tasks h WHERE h.task = $4 AND h.node_id <> $2
                                                              AND h.expires_at >= clock_timestamp())
                     ON CONFLICT (task) DO UPDATE SET node_id = excluded.node_id, expires_at = excluded.expires_at
                      WHERE t.node_id = excluded.node_id OR t.expires_at < clock_timestamp()
                     RETURNING node_id",
                )
                .bind(task)
                .bind(node.as_uuid())
                .bind(ttl.as_secs_f64())
                .bind(REBUILD_TASK)
                .fetch_optional(&self.pool)
            })
            .await?;
        Ok(holder.is_some())
    }

    pub(super) async fn retire(&self, node: NodeId) -> Result<(), IndexError> {
        if let Ok(mut lease) = self.lease.lock() {
            *lease = None;
        }
        // Long-dead nodes are swept on the way; their locks were free since their lease ran out.
        self.repeatable(|| {
            sqlx::query(
                "DELETE FROM nodes WHERE node_id = $1 OR expires_at < clock_timestamp() - interval '1 day'",
            )
            .bind(node.as_uuid())
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }
}
