//! What is in a maildrop: its listing, and its messages.

use maildrop::{
    Digest, Extent, Form, Listing, MailboxId, MessageInfo, MessageOrder, MessageRow, PackId, ReceivedMessage,
    TenantId, Uid, View, port::IndexError,
};
use sqlx::{Row as _, postgres::PgRow};
use time::OffsetDateTime;

use crate::{
    error::{corrupt, index_error},
    postgres::Postgres,
    rows::{InfoRow, Stamp},
};

/// Messages of a listing read in one statement: some 200 KB of arrays.
const LISTING_PAGE: i64 = 10_000;

// A mailbox that was deleted has rows for a while: a session that goes on is shown none of them. Asked once for a
// statement, not for each row.

impl Postgres {
    pub(super) async fn listing(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        view: View,
    ) -> Result<Listing, IndexError> {
        let by_time = view.order == MessageOrder::Received;
        let mut after = match view.last {
            Some(last) if !by_time => self.before_the_last(tenant, mailbox, before, last, view.since).await?,
            _ => 0,
        };
        let mut listing = Listing::new(mailbox);
        let mut timed = Vec::new();
        loop {
            // Columns come as arrays: a page is one row, and no message costs an allocation.
            let page: ListingPage = self
                .repeatable(|| {
                    sqlx::query_as(
                        "SELECT coalesce(array_agg(uid), '{}') AS uids, coalesce(array_agg(octets), '{}') AS octets,
                                coalesce(array_agg(uid) FILTER (WHERE unique_id IS NOT NULL), '{}') AS named,
                                coalesce(array_agg(unique_id) FILTER (WHERE unique_id IS NOT NULL), '{}') AS names,
                                coalesce(array_agg(received_at) FILTER (WHERE $8), '{}') AS times
                           FROM (SELECT uid, unique_id, received_at,
                                        octets - CASE WHEN $6 THEN coalesce(ascii_extra, 0) ELSE 0 END AS octets
                                   FROM messages
                                  WHERE tenant_id = $1 AND mailbox_id = $2 AND uid > $3 AND uid < $4
                                    AND ($7::timestamptz IS NULL OR received_at >= $7)
                                    AND EXISTS (SELECT FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2)
                                  ORDER BY uid LIMIT $5) AS page",
                    )
                    .bind(tenant.as_uuid())
                    .bind(mailbox.as_uuid())
                    .bind(after)
                    .bind(before.0 as i64)
                    .bind(LISTING_PAGE)
                    .bind(view.form == Form::Native)
                    .bind(view.since)
                    .bind(by_time)
                    .fetch_one(&self.pool)
                })
                .await?;
            listing.reserve(page.uids.len());
            let mut names = page.named.iter().zip(&page.names).peekable();
            let mut times = page.times.iter();
            for (uid, octets) in page.uids.iter().zip(&page.octets) {
                if *uid <= after {
                    return Err(corrupt("listing out of order"));
                }
                after = *uid;
                let name = names.next_if(|(named, _)| *named == uid).map(|(_, name)| name.as_str());
                let (uid, octets) = (Uid(*uid as u64), *octets as u64);
                match times.next() {
                    Some(time) => {
                        let (received_at, unique_id) = (*time, name.map(str::to_owned));
                        timed.push(ReceivedMessage { received_at, uid, octets, unique_id });
                    }
                    None => listing.push(uid, octets, name),
                }
            }
            if (page.uids.len() as i64) < LISTING_PAGE {
                break;
            }
        }
        Ok(if by_time { Listing::by_time(mailbox, timed, view.last) } else { listing })
    }

    /// The uid behind which there are `last` messages, or 0 where there are not so many.
    async fn before_the_last(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        before: Uid,
        last: u32,
        since: Option<OffsetDateTime>,
    ) -> Result<i64, IndexError> {
        let uid: Option<i64> = self
            .repeatable(|| {
                sqlx::query_scalar(
                    "SELECT uid FROM messages
                      WHERE tenant_id = $1 AND mailbox_id = $2 AND uid < $3
                        AND ($4::timestamptz IS NULL OR received_at >= $4)
                      ORDER BY uid DESC OFFSET $5 LIMIT 1",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(before.0 as i64)
                .bind(since)
                .bind(i64::from(last))
                .fetch_optional(&self.pool)
            })
            .await?;
        Ok(uid.unwrap_or(0))
    }

    pub(super) async fn messages(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        from: Uid,
        before: Uid,
        limit: u32,
    ) -> Result<Vec<MessageRow>, IndexError> {
        let rows = self
            .repeatable(|| {
                sqlx::query(
                    "SELECT uid, octets, header_octets, digest, delivered_to, pack_id, pack_offset, pack_length,
                            ascii_extra
                       FROM messages
                      WHERE tenant_id = $1 AND mailbox_id = $2 AND uid >= $3 AND uid < $4
                        AND EXISTS (SELECT FROM mailboxes WHERE tenant_id = $1 AND mailbox_id = $2)
                      ORDER BY uid LIMIT $5",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(from.0 as i64)
                .bind(before.0 as i64)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
            })
            .await?;
        rows.iter().map(message_row).collect()
    }

    pub(super) async fn any_left(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uids: &[Uid],
    ) -> Result<bool, IndexError> {
        let uids: Vec<i64> = uids.iter().map(|uid| uid.0 as i64).collect();
        self.repeatable(|| {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM messages
                                 WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = ANY ($3))",
            )
            .bind(tenant.as_uuid())
            .bind(mailbox.as_uuid())
            .bind(&uids)
            .fetch_one(&self.pool)
        })
        .await
    }

    pub(super) async fn message_infos(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        after: Uid,
        limit: u32,
    ) -> Result<Vec<MessageInfo>, IndexError> {
        let rows: Vec<InfoRow> = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query_as(
                    "SELECT uid, unique_id, octets, received_at, NULL::timestamptz AS deleted_at,
                            NULL::timestamptz AS keep_until
                       FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 AND uid > $3
                      ORDER BY uid LIMIT $4",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(after.0 as i64)
                .bind(i64::from(limit))
                .fetch_all(&mut *tx)
                .await
            })
            .await?;
        Ok(rows.into_iter().map(|row| row.info(mailbox)).collect())
    }

    pub(super) async fn message(
        &self,
        tenant: TenantId,
        mailbox: MailboxId,
        uid: Uid,
    ) -> Result<Option<(MessageInfo, MessageRow)>, IndexError> {
        let row = self
            .repeatable(|| async {
                let mut tx = self.scoped(tenant).await?;
                sqlx::query(
                    "SELECT uid, octets, header_octets, digest, delivered_to, pack_id, pack_offset, pack_length,
                            ascii_extra, unique_id, received_at
                       FROM messages WHERE tenant_id = $1 AND mailbox_id = $2 AND uid = $3",
                )
                .bind(tenant.as_uuid())
                .bind(mailbox.as_uuid())
                .bind(uid.0 as i64)
                .fetch_optional(&mut *tx)
                .await
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        let message = message_row(&row)?;
        let info = InfoRow {
            uid: message.uid.0 as i64,
            unique_id: row.try_get(9).map_err(index_error)?,
            octets: message.octets as i64,
            received_at: Stamp(row.try_get(10).map_err(index_error)?),
            deleted_at: None,
            keep_until: None,
        };
        Ok(Some((info.info(mailbox), message)))
    }
}

#[derive(sqlx::FromRow)]
struct ListingPage {
    uids: Vec<i64>,
    octets: Vec<i64>,
    named: Vec<i64>,
    names: Vec<String>,
    times: Vec<OffsetDateTime>,
}

fn message_row(row: &PgRow) -> Result<MessageRow, IndexError> {
    let read = || -> Result<_, sqlx::Error> {
        let digest: &[u8] = row.try_get(3)?;
        Ok((
            MessageRow {
                uid: Uid(row.try_get::<i64, _>(0)? as u64),
                octets: row.try_get::<i64, _>(1)? as u64,
                ascii_extra: row.try_get(8)?,
                header_octets: row.try_get::<i64, _>(2)? as u64,
                digest: Digest([0; 32]),
                delivered_to: row.try_get(4)?,
                extent: Extent {
                    pack: PackId::from_uuid(row.try_get(5)?),
                    offset: row.try_get::<i64, _>(6)? as u64,
                    length: row.try_get::<i64, _>(7)? as u64,
                },
            },
            digest.try_into(),
        ))
    };
    let (mut message, digest) = read().map_err(index_error)?;
    message.digest = Digest(digest.map_err(|_| corrupt("digest is not 32 octets"))?);
    Ok(message)
}
