//! Messages of a mailbox.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use maildrop::{
    Mailbox, MailboxId, MessageInfo, NewDelivery, Outcome, RecipientCheck, RetrieveError, Retrieved, Rules,
    Tenant, TenantId, Uid,
    port::{BlobError, RowOutcome, Traffic},
};
use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, Time, UtcOffset};
use utoipa::IntoParams;

use super::{
    extract::{OfAddress, OfMessage, Params, Segments},
    fields::bad_cursor,
    respond::listed,
    streamed::{RFC822, announced, message_too_large, receive},
    to_the_end,
};
use crate::{
    Problem,
    api::Shared,
    auth::Caller,
    guard::TheTenant,
    resources::{Delivered, MessageResource, Page, Restored, page_limit},
};

/// When a mailbox that takes no more mail for now may be tried again.
const THROTTLED: Duration = Duration::from_secs(60);

/// The query of the list of messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MessageListQuery {
    /// The cursor: `next` of the page before.
    #[serde(default)]
    #[param(max_length = 20, pattern = "^[0-9]{1,18}$")]
    after: Option<String>,
    /// Items on a page at most; 100 where it is not given.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Whether to list those that were deleted and can be restored, instead.
    #[serde(default)]
    deleted: Option<bool>,
}

/// List a mailbox's messages by uid.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/mailboxes/{address}/messages", operation_id = "listMessages",
    tag = "messages", params(MessageListQuery),
    responses((status = 200, description = "a page of messages", body = Page<MessageResource>)))]
pub(super) async fn list(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    Params(query): Params<MessageListQuery>,
    uri: Uri,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    let limit = page_limit(query.limit)?;
    let after = query.after.as_deref().map(|text| uid_of(text).ok_or(())).transpose().map_err(bad_cursor)?;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let after = after.unwrap_or(Uid(0));
    let rows = if query.deleted.unwrap_or(false) {
        api.index.deleted_messages(tenant.id, mailbox.id, after, limit + 1).await?
    } else {
        api.index.message_infos(tenant.id, mailbox.id, after, limit + 1).await?
    };
    let page = Page::<MessageResource>::new(rows, limit, |message: &MessageInfo| message.uid.0.to_string());
    Ok(listed(page, &uri, "after"))
}

/// Deliver a message.
///
/// It is stored as it is sent, but for line ends, which become CRLF. When this answers 201, it is durable and in the
/// maildrop.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes/{address}/messages", operation_id = "deliverMessage",
    tag = "messages",
    request_body(content = String, content_type = "message/rfc822", description = "the message"),
    responses((status = 201, description = "it is in the maildrop", body = Delivered)))]
pub(super) async fn deliver(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfAddress>,
    request: Request,
) -> Result<Response, Problem> {
    let OfAddress { address } = path;
    let announced = announced(request.headers(), api.limits.message_octets_max)?;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let recipient = match api.deliveries.recipient(mailbox.address.clone(), announced).await? {
        // What mail for the address would lead to, and nothing else.
        RecipientCheck::Accepted(recipient)
            if recipient.tenant == tenant.id && recipient.mailbox == mailbox.id =>
        {
            recipient
        }
        RecipientCheck::Accepted(_) | RecipientCheck::Unknown => return Err(Problem::not_found("mailbox")),
        RecipientCheck::OverQuota { .. } => return Err(Problem::over_quota()),
        RecipientCheck::TooLarge => return Err(message_too_large()),
        RecipientCheck::Suspended(_) => return Err(Problem::suspended()),
        RecipientCheck::Throttled { .. } => return Err(Problem::rate_limited(THROTTLED)),
    };
    let received_at = api.now();
    let new =
        NewDelivery { sender: String::new(), recipients: vec![recipient], trace: Vec::new(), received_at };
    let mut delivery = api.deliveries.begin(new).await;
    let octets = receive(&mut delivery, request.into_body(), api.limits.message_octets_max).await?;
    // Noted first: what is not in the audit log does not happen.
    api.note(&tenant, &actor, "message.deliver", &mailbox.address, json!({ "octets": octets })).await?;
    // As the row will have it, and lists show it.
    let sent = delivery.octets().delivered_to(&mailbox.address).ascii;
    // From here on the message is stored, whoever waits for the answer.
    let outcome = tokio::spawn(delivery.finish()).await.map_err(|error| {
        tracing::error!(%error, "a delivery broke off");
        Problem::internal()
    })?;
    let uid = match outcome.first().copied().unwrap_or(Outcome::Temporary) {
        Outcome::Delivered(uid) => uid.map(|uid| uid.0),
        Outcome::OverQuota => return Err(Problem::over_quota()),
        Outcome::TooLarge => return Err(message_too_large()),
        Outcome::Unknown => return Err(Problem::not_found("mailbox")),
        Outcome::StorageFull => return Err(Problem::storage_full()),
        Outcome::Temporary => return Err(Problem::unavailable(false)),
    };
    let traffic = Traffic { messages_in: 1, octets_in: octets, ..Traffic::default() };
    api.traffic.count(tenant.id, mailbox.id, &Rules::default(), traffic);
    Ok((StatusCode::CREATED, Json(Delivered { uid, octets: sent, received_at })).into_response())
}

/// Show a message, without what it says.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}", operation_id = "readMessage",
    tag = "messages", responses((status = 200, description = "the message", body = MessageResource)))]
pub(super) async fn read(
    State(api): State<Shared>,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfMessage>,
) -> Result<Json<MessageResource>, Problem> {
    let OfMessage { address, uid } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let found = api.index.message(tenant.id, mailbox.id, uid_of_path(&uid)?).await?;
    let (message, _) = found.ok_or_else(no_message)?;
    Ok(Json(MessageResource::from(&message)))
}

/// The message itself, octet by octet as RETR sends it.
///
/// It counts with what is sent that day to clients of the tenant and of the mailbox, and is refused once that is as much
/// as may be.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}/raw",
    operation_id = "readRawMessage", tag = "messages",
    responses((status = 200, description = "the message", body = String, content_type = "message/rfc822")))]
pub(super) async fn raw(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfMessage>,
) -> Result<Response, Problem> {
    let OfMessage { address, uid } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let uid = uid_of_path(&uid)?;
    let rules = rules(&tenant, &mailbox);
    if !api.traffic.may_send(tenant.id, mailbox.id, &rules).await? {
        return Err(Problem::daily_limit(until_tomorrow(api.now())));
    }
    let found = api.maildrops.peek(tenant.id, mailbox.id, uid).await;
    let (_, message) = found.map_err(|error| match error {
        RetrieveError::Vanished => no_message(),
        RetrieveError::Unavailable => Problem::unavailable(true),
        RetrieveError::Damaged => Problem::damaged(),
    })?;
    // Whoever reads somebody else's mail is known by it.
    api.note(&tenant, &actor, "message.read", &mailbox.address, json!({ "uid": uid })).await?;
    let length = HeaderValue::from(message.octets);
    let mut response = Body::from_stream(sent(api, tenant.id, mailbox.id, rules, message)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(RFC822));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(response)
}

/// The octets of a message as they are sent: each when the tenant's turn comes, and counted. It ends with the first
/// error.
fn sent(
    api: Shared,
    tenant: TenantId,
    mailbox: MailboxId,
    rules: Rules,
    mut message: Retrieved,
) -> impl Stream<Item = Result<Bytes, BlobError>> {
    let mut left = message.octets;
    let prefix = Bytes::from(std::mem::take(&mut message.prefix));
    let body = stream::unfold(Some(message), |message| async {
        let mut message = message?;
        let next = message.next().await?;
        let rest = next.is_ok().then_some(message);
        Some((next, rest))
    });
    stream::iter([Ok(prefix)]).chain(body).inspect_ok(move |octets| {
        let octets_out = octets.len() as u64;
        left = left.saturating_sub(octets_out);
        let messages_out = u64::from(octets_out > 0 && left == 0);
        let traffic = Traffic { messages_out, octets_out, ..Traffic::default() };
        api.traffic.count(tenant, mailbox, &rules, traffic);
    })
}

/// Delete a message. It can be restored while the mailbox's policy says so.
#[utoipa::path(delete, path = "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}",
    operation_id = "deleteMessage", tag = "messages", responses((status = 204, description = "it is deleted")))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfMessage>,
) -> Result<StatusCode, Problem> {
    let OfMessage { address, uid } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let uid = uid_of_path(&uid)?;
    let kept = rules(&tenant, &mailbox).undelete_window();
    let (index, at) = (Arc::clone(&api.index), api.now());
    let removed =
        to_the_end(
            async move { index.remove_messages(tenant.id, mailbox.id, &[uid], kept, &actor, at).await },
        )
        .await?;
    if removed.contains(&uid) { Ok(StatusCode::NO_CONTENT) } else { Err(no_message()) }
}

/// Put a deleted message back. It gets a new uid and unique-id, and clients fetch it anew.
#[utoipa::path(post, path = "/v1/tenants/{tenant}/mailboxes/{address}/messages/{uid}/restore",
    operation_id = "restoreMessage", tag = "messages",
    responses((status = 200, description = "it is back", body = Restored)))]
pub(super) async fn restore(
    State(api): State<Shared>,
    Caller { actor, .. }: Caller,
    TheTenant(tenant): TheTenant,
    Segments(path): Segments<OfMessage>,
) -> Result<Json<Restored>, Problem> {
    let OfMessage { address, uid } = path;
    let mailbox = api.mailbox(&tenant, &address).await?;
    let uid = uid_of_path(&uid)?;
    let (index, at) = (Arc::clone(&api.index), api.now());
    let restored =
        to_the_end(async move { index.restore_message(tenant.id, mailbox.id, uid, &actor, at).await })
            .await?;
    match restored {
        RowOutcome::Delivered(uid) => Ok(Json(Restored { uid: uid.0 })),
        RowOutcome::OverQuota => Err(Problem::over_quota()),
        RowOutcome::DeliveredBefore | RowOutcome::Unknown => Err(no_message()),
    }
}

/// What the mailbox lives under.
fn rules(tenant: &Tenant, mailbox: &Mailbox) -> Rules {
    let policy = mailbox.settings.policy.or(&tenant.settings.policy);
    Rules { tenant: tenant.settings.limits.clone(), mailbox: policy }
}

/// How long the day (UTC) still lasts.
fn until_tomorrow(now: OffsetDateTime) -> Duration {
    let since_midnight =
        now.to_offset(UtcOffset::UTC) - now.to_offset(UtcOffset::UTC).replace_time(Time::MIDNIGHT);
    (time::Duration::DAY - since_midnight).unsigned_abs()
}

fn no_message() -> Problem {
    Problem::not_found("message")
}

/// A uid as it is written, in one way only.
fn uid_of(text: &str) -> Option<Uid> {
    let number: u64 = text.parse().ok()?;
    (i64::try_from(number).is_ok() && text.bytes().all(|octet| octet.is_ascii_digit())).then_some(Uid(number))
}

fn uid_of_path(text: &str) -> Result<Uid, Problem> {
    uid_of(text).ok_or_else(no_message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_in_utc() {
        let left = |seconds: i64, hours: i8| {
            let at = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
            until_tomorrow(at.to_offset(UtcOffset::from_hms(hours, 0, 0).unwrap())).as_secs()
        };
        assert_eq!((left(0, 0), left(86_399, 0), left(86_400, 0)), (86_400, 1, 86_400));
        assert_eq!(left(3600, 5), 82_800, "wherever the clock is");
    }
}
