//! The audit log, answers to repeated requests, and traffic on PostgreSQL.

use async_trait::async_trait;
use maildrop::{
    MailboxId, TenantId,
    port::{
        AuditEntry, AuditQuery, Claim, IdempotencyKey, IndexError, Note, Records, StoredAnswer, Traffic,
        TrafficDay, TrafficDelta,
    },
};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{Postgres, scoped::Audit};
use crate::{
    error::corrupt,
    rows::AuditRow,
    words::{like_prefix, traffic},
};

#[async_trait]
impl Records for Postgres {
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, IndexError> {
        let below = query.action.as_ref().map(|action| like_prefix(&format!("{action}.")));
        let rows: Vec<AuditRow> = self
            .repeatable(|| async {
                let mut tx = match query.tenant {
                    Some(tenant) => self.scoped(tenant).await?,
                    None => self.pool.begin().await?,
                };
                sqlx::query_as(
                    "SELECT audit_id, at, tenant_id, actor, origin, request, action, target, before_value,
                            after_value
                       FROM audit_log
                      WHERE ($1::uuid IS NULL OR tenant_id = $1) AND audit_id < $2
                        AND ($3::text IS NULL OR actor = $3)
                        AND ($4::text IS NULL OR action = $4 OR action LIKE $5)
                        AND ($6::text IS NULL OR target = $6)
                        AND ($7::timestamptz IS NULL OR at >= $7)
                        AND ($8::timestamptz IS NULL OR at < $8)
                      ORDER BY audit_id DESC LIMIT $9",
                )
                .bind(query.tenant.map(|t| t.as_uuid()))
                .bind(query.before_id.unwrap_or(i64::MAX))
                .bind(&query.actor)
                .bind(&query.action)
                .bind(&below)
                .bind(&query.target)
                .bind(query.since)
                .bind(query.until)
                .bind(i64::from(query.limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    async fn note(&self, note: &Note<'_>) -> Result<(), IndexError> {
        self.once(|| async {
            let mut tx = match note.tenant {
                Some(tenant) => self.scoped(tenant).await?,
                None => self.unscoped().await?,
            };
            Audit {
                tenant: note.tenant,
                actor: note.actor,
                at: note.at,
                action: note.action,
                target: note.target,
                before: None,
                after: note.after.clone(),
            }
            .write(&mut tx)
            .await?;
            tx.commit().await
        })
        .await
    }

    async fn claim(&self, key: &IdempotencyKey, at: OffsetDateTime) -> Result<Claim, IndexError> {
        // Not to be repeated when its answer was lost: the second time it would find its own claim.
        let claimed = self
            .once(|| {
                sqlx::query(
                    "INSERT INTO request_claims (caller, key, request, at) VALUES ($1, $2, $3, $4)
                     ON CONFLICT DO NOTHING",
                )
                .bind(&key.caller)
                .bind(&key.key)
                .bind(key.request.as_slice())
                .bind(at)
                .execute(&self.pool)
            })
            .await?;
        if claimed.rows_affected() == 1 {
            return Ok(Claim::First);
        }
        let found: Option<(Vec<u8>, Option<i32>, Option<Vec<u8>>, Option<String>)> = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT request, status, body, etag FROM request_claims WHERE caller = $1 AND key = $2",
                )
                .bind(&key.caller)
                .bind(&key.key)
                .fetch_optional(&self.pool)
            })
            .await?;
        Ok(match found {
            Some((request, ..)) if request != key.request => Claim::Mismatch,
            Some((_, Some(status), body, etag)) => Claim::Answered(StoredAnswer {
                status: u16::try_from(status).map_err(|_| corrupt("status"))?,
                body: body.unwrap_or_default(),
                etag,
            }),
            // Under way, or given back in this very moment.
            _ => Claim::Pending,
        })
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<(), IndexError> {
        self.repeatable(|| {
            sqlx::query(
                "UPDATE request_claims SET status = $3, body = $4, etag = $5 WHERE caller = $1 AND key = $2",
            )
            .bind(&key.caller)
            .bind(&key.key)
            .bind(i32::from(answer.status))
            .bind(&answer.body)
            .bind(&answer.etag)
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn disclaim(&self, key: &IdempotencyKey) -> Result<(), IndexError> {
        self.repeatable(|| {
            sqlx::query("DELETE FROM request_claims WHERE caller = $1 AND key = $2 AND status IS NULL")
                .bind(&key.caller)
                .bind(&key.key)
                .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn forget_claims(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        let gone = self
            .repeatable(|| {
                sqlx::query(
                    "DELETE FROM request_claims WHERE (caller, key) IN
                     (SELECT caller, key FROM request_claims WHERE at < $1 ORDER BY at LIMIT $2)",
                )
                .bind(before)
                .bind(i64::from(limit))
                .execute(&self.pool)
            })
            .await?;
        Ok(gone.rows_affected())
    }

    async fn add_traffic(&self, deltas: &[TrafficDelta]) -> Result<(), IndexError> {
        let column = |of: fn(&Traffic) -> u64| -> Vec<i64> {
            deltas.iter().map(|delta| of(&delta.traffic) as i64).collect()
        };
        let tenants: Vec<Uuid> = deltas.iter().map(|delta| delta.tenant.as_uuid()).collect();
        let mailboxes: Vec<Uuid> =
            deltas.iter().map(|delta| delta.mailbox.map_or(Uuid::nil(), |m| m.as_uuid())).collect();
        let days: Vec<Date> = deltas.iter().map(|delta| delta.day).collect();
        self.once(|| {
            // Of tenants that are there: the last counts of one that was deleted are nobody's.
            sqlx::query(
                "INSERT INTO traffic AS t (tenant_id, day, mailbox_id, logins, messages_out, octets_out,
                                           messages_in, octets_in)
                 SELECT r.tenant, r.day, r.mailbox, sum(r.logins), sum(r.messages_out), sum(r.octets_out),
                        sum(r.messages_in), sum(r.octets_in)
                   FROM unnest($1::uuid[], $2::date[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[],
                               $7::bigint[], $8::bigint[])
                        AS r (tenant, day, mailbox, logins, messages_out, octets_out, messages_in, octets_in)
                   JOIN tenants x ON x.tenant_id = r.tenant AND x.state <> 'deleting'
                  GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
                 ON CONFLICT (tenant_id, day, mailbox_id) DO UPDATE
                    SET logins = t.logins + excluded.logins,
                        messages_out = t.messages_out + excluded.messages_out,
                        octets_out = t.octets_out + excluded.octets_out,
                        messages_in = t.messages_in + excluded.messages_in,
                        octets_in = t.octets_in + excluded.octets_in",
            )
            .bind(&tenants)
            .bind(&days)
            .bind(&mailboxes)
            .bind(column(|traffic| traffic.logins))
            .bind(column(|traffic| traffic.messages_out))
            .bind(column(|traffic| traffic.octets_out))
            .bind(column(|traffic| traffic.messages_in))
            .bind(column(|traffic| traffic.octets_in))
            .execute(&self.pool)
        })
        .await?;
        Ok(())
    }

    async fn traffic(&self, tenant: TenantId, from: Date, to: Date) -> Result<Vec<TrafficDay>, IndexError> {
        let rows: Vec<(Date, i64, i64, i64, i64, i64)> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT day, logins, messages_out, octets_out, messages_in, octets_in FROM traffic
                      WHERE tenant_id = $1 AND day BETWEEN $2 AND $3 AND mailbox_id = $4 ORDER BY day",
                )
                .bind(tenant.as_uuid())
                .bind(from)
                .bind(to)
                .bind(Uuid::nil())
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        let day = |(day, logins, messages_out, octets_out, messages_in, octets_in)| TrafficDay {
            day,
            traffic: traffic([logins, messages_out, octets_out, messages_in, octets_in]),
        };
        Ok(rows.into_iter().map(day).collect())
    }

    async fn octets_sent(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        day: Date,
    ) -> Result<(u64, u64), IndexError> {
        let (of_tenant, of_mailbox): (i64, i64) = self
            .repeatable(|| {
                sqlx::query_as(
                    "SELECT coalesce(sum(octets_out) FILTER (WHERE mailbox_id = $4), 0)::bigint,
                            coalesce(sum(octets_out) FILTER (WHERE mailbox_id = $2), 0)::bigint
                       FROM traffic WHERE tenant_id = $1 AND day = $3 AND mailbox_id IN ($2, $4)",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(day)
                .bind(Uuid::nil())
                .fetch_one(&self.pool)
            })
            .await?;
        Ok((of_tenant as u64, of_mailbox as u64))
    }

    async fn all_tenants_forget_traffic(
        &self,
        tenants: Date,
        mailboxes: Date,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let gone = self
            .repeatable(|| {
                // Each kind by its own index, so that what stays of tenants is not read in search of mailboxes'.
                sqlx::query(
                    "DELETE FROM traffic WHERE (tenant_id, day, mailbox_id) IN
                     (SELECT * FROM (
                         (SELECT tenant_id, day, mailbox_id FROM traffic
                           WHERE mailbox_id = '00000000-0000-0000-0000-000000000000' AND day < $1 LIMIT $3)
                         UNION ALL
                         (SELECT tenant_id, day, mailbox_id FROM traffic
                           WHERE mailbox_id <> '00000000-0000-0000-0000-000000000000' AND day < $2 LIMIT $3)
                      ) old LIMIT $3)",
                )
                .bind(tenants)
                .bind(mailboxes)
                .bind(i64::from(limit))
                .execute(&self.pool)
            })
            .await?;
        Ok(gone.rows_affected())
    }

    async fn all_tenants_forget_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        let gone = self
            .repeatable(|| {
                // Numbers grow with time: the oldest are the first, and no other need be looked at.
                sqlx::query(
                    "DELETE FROM audit_log WHERE at < $1 AND audit_id IN
                     (SELECT audit_id FROM audit_log ORDER BY audit_id LIMIT $2)",
                )
                .bind(before)
                .bind(i64::from(limit))
                .execute(&self.pool)
            })
            .await?;
        Ok(gone.rows_affected())
    }
}
