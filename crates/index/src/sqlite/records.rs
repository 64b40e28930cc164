//! The audit log, answers to repeated requests, and traffic on SQLite.

use async_trait::async_trait;
use maildrop::{
    MailboxId, TenantId,
    port::{
        AuditEntry, AuditQuery, Claim, IdempotencyKey, IndexError, Note, Records, StoredAnswer, TrafficDay,
        TrafficDelta,
    },
};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{
    Sqlite,
    audit::{Audit, NOTHING},
    maildrops::micros,
};
use crate::{
    error::{corrupt, index_error},
    rows::AuditRow,
    words::{like_prefix, traffic},
};

/// A remembered request: its hash, and its answer's status, body and ETag.
type ClaimRow = (Vec<u8>, Option<i32>, Option<Vec<u8>>, Option<String>);

#[async_trait]
impl Records for Sqlite {
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, IndexError> {
        let rows: Vec<AuditRow> = sqlx::query_as(
            "SELECT audit_id, at, tenant_id, actor, origin, request, action, target, before_value, after_value
               FROM audit_log
              WHERE (?1 IS NULL OR tenant_id = ?1) AND audit_id < ?2
                AND (?3 IS NULL OR actor = ?3)
                AND (?4 IS NULL OR action = ?4 OR action LIKE ?5 ESCAPE '\\')
                AND (?6 IS NULL OR target = ?6)
                AND (?7 IS NULL OR at >= ?7) AND (?8 IS NULL OR at < ?8)
              ORDER BY audit_id DESC LIMIT ?9",
        )
        .bind(query.tenant.map(|t| t.as_uuid()))
        .bind(query.before_id.unwrap_or(i64::MAX))
        .bind(&query.actor)
        .bind(&query.action)
        .bind(query.action.as_ref().map(|action| like_prefix(&format!("{action}."))))
        .bind(&query.target)
        .bind(query.since.map(micros))
        .bind(query.until.map(micros))
        .bind(i64::from(query.limit))
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    async fn note(&self, note: &Note<'_>) -> Result<(), IndexError> {
        let Note { tenant, actor, at, action, target, after } = note;
        let run = async {
            let mut connection = self.writer.acquire().await?;
            let audit = Audit { tenant: *tenant, actor, at: *at, action, target };
            audit.write(&mut connection, NOTHING, after.as_ref()).await
        };
        run.await.map_err(index_error)
    }

    async fn claim(&self, key: &IdempotencyKey, at: OffsetDateTime) -> Result<Claim, IndexError> {
        let claimed = sqlx::query(
            "INSERT INTO request_claims (caller, key, request, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(&key.caller)
        .bind(&key.key)
        .bind(key.request.as_slice())
        .bind(micros(at))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        if claimed.rows_affected() == 1 {
            return Ok(Claim::First);
        }
        let found: Option<ClaimRow> = sqlx::query_as(
            "SELECT request, status, body, etag FROM request_claims WHERE caller = ? AND key = ?",
        )
        .bind(&key.caller)
        .bind(&key.key)
        .fetch_optional(&self.reader)
        .await
        .map_err(index_error)?;
        Ok(match found {
            Some((request, ..)) if request != key.request => Claim::Mismatch,
            Some((_, Some(status), body, etag)) => Claim::Answered(StoredAnswer {
                status: u16::try_from(status).map_err(|_| corrupt("status"))?,
                body: body.unwrap_or_default(),
                etag,
            }),
            _ => Claim::Pending,
        })
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &StoredAnswer) -> Result<(), IndexError> {
        sqlx::query(
            "UPDATE request_claims SET status = ?3, body = ?4, etag = ?5 WHERE caller = ?1 AND key = ?2",
        )
        .bind(&key.caller)
        .bind(&key.key)
        .bind(i32::from(answer.status))
        .bind(&answer.body)
        .bind(&answer.etag)
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(())
    }

    async fn disclaim(&self, key: &IdempotencyKey) -> Result<(), IndexError> {
        sqlx::query("DELETE FROM request_claims WHERE caller = ? AND key = ? AND status IS NULL")
            .bind(&key.caller)
            .bind(&key.key)
            .execute(&self.writer)
            .await
            .map_err(index_error)?;
        Ok(())
    }

    async fn forget_claims(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        let gone = sqlx::query(
            "DELETE FROM request_claims WHERE (caller, key) IN
             (SELECT caller, key FROM request_claims WHERE at < ?1 ORDER BY at LIMIT ?2)",
        )
        .bind(micros(before))
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(gone.rows_affected())
    }

    async fn add_traffic(&self, deltas: &[TrafficDelta]) -> Result<(), IndexError> {
        let run = async {
            let mut tx = self.writer.begin().await?;
            for delta in deltas {
                let traffic = &delta.traffic;
                sqlx::query(
                    "INSERT INTO traffic (tenant_id, day, mailbox_id, logins, messages_out, octets_out,
                                          messages_in, octets_in)
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
                      WHERE EXISTS (SELECT 1 FROM tenants WHERE tenant_id = ?1 AND state <> 'deleting')
                     ON CONFLICT (tenant_id, day, mailbox_id) DO UPDATE
                        SET logins = logins + excluded.logins,
                            messages_out = messages_out + excluded.messages_out,
                            octets_out = octets_out + excluded.octets_out,
                            messages_in = messages_in + excluded.messages_in,
                            octets_in = octets_in + excluded.octets_in",
                )
                .bind(delta.tenant.as_uuid())
                .bind(delta.day.to_julian_day())
                .bind(delta.mailbox.map_or(Uuid::nil(), |m| m.as_uuid()))
                .bind(traffic.logins as i64)
                .bind(traffic.messages_out as i64)
                .bind(traffic.octets_out as i64)
                .bind(traffic.messages_in as i64)
                .bind(traffic.octets_in as i64)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        };
        run.await.map_err(index_error)
    }

    async fn traffic(&self, tenant: TenantId, from: Date, to: Date) -> Result<Vec<TrafficDay>, IndexError> {
        let rows: Vec<(i32, i64, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT day, logins, messages_out, octets_out, messages_in, octets_in FROM traffic
              WHERE tenant_id = ? AND day BETWEEN ? AND ? AND mailbox_id = ? ORDER BY day",
        )
        .bind(tenant.as_uuid())
        .bind(from.to_julian_day())
        .bind(to.to_julian_day())
        .bind(Uuid::nil())
        .fetch_all(&self.reader)
        .await
        .map_err(index_error)?;
        let day = |(day, logins, messages_out, octets_out, messages_in, octets_in)| {
            Ok(TrafficDay {
                day: Date::from_julian_day(day).map_err(|_| corrupt("day"))?,
                traffic: traffic([logins, messages_out, octets_out, messages_in, octets_in]),
            })
        };
        rows.into_iter().map(day).collect()
    }

    async fn octets_sent(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        day: Date,
    ) -> Result<(u64, u64), IndexError> {
        let (of_tenant, of_mailbox): (i64, i64) = sqlx::query_as(
            "SELECT coalesce(sum(octets_out) FILTER (WHERE mailbox_id = ?4), 0),
                    coalesce(sum(octets_out) FILTER (WHERE mailbox_id = ?2), 0)
               FROM traffic WHERE tenant_id = ?1 AND day = ?3 AND mailbox_id IN (?2, ?4)",
        )
        .bind(tenant.as_uuid())
        .bind(mailbox.as_uuid())
        .bind(day.to_julian_day())
        .bind(Uuid::nil())
        .fetch_one(&self.reader)
        .await
        .map_err(index_error)?;
        Ok((of_tenant as u64, of_mailbox as u64))
    }

    async fn all_tenants_forget_traffic(
        &self,
        tenants: Date,
        mailboxes: Date,
        limit: u32,
    ) -> Result<u64, IndexError> {
        let gone = sqlx::query(
            "DELETE FROM traffic WHERE (tenant_id, day, mailbox_id) IN
             (SELECT tenant_id, day, mailbox_id FROM traffic
               WHERE mailbox_id = x'00000000000000000000000000000000' AND day < ?1
               UNION ALL
              SELECT tenant_id, day, mailbox_id FROM traffic
               WHERE mailbox_id <> x'00000000000000000000000000000000' AND day < ?2
               LIMIT ?3)",
        )
        .bind(tenants.to_julian_day())
        .bind(mailboxes.to_julian_day())
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(gone.rows_affected())
    }

    async fn all_tenants_forget_audit(&self, before: OffsetDateTime, limit: u32) -> Result<u64, IndexError> {
        // Numbers grow with time: the oldest are the first, and no other need be looked at.
        let gone = sqlx::query(
            "DELETE FROM audit_log WHERE at < ?1 AND audit_id IN
             (SELECT audit_id FROM audit_log ORDER BY audit_id LIMIT ?2)",
        )
        .bind(micros(before))
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await
        .map_err(index_error)?;
        Ok(gone.rows_affected())
    }
}
