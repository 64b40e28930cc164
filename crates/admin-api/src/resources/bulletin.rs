//! Bulletins.

use maildrop::{Bulletin, BulletinState};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// A message to every mailbox of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Bulletin)]
pub(crate) struct BulletinResource {
    /// What it is addressed by.
    id: Uuid,
    /// What its author calls it; empty for nothing.
    note: String,
    /// How far it has come: `rolling_out`, while mailboxes get it; `active`, while only new ones do; `ended`;
    /// `withdrawing`, while it is taken from mailboxes; `withdrawn`.
    #[schema(value_type = String, pattern = "^(rolling_out|active|ended|withdrawing|withdrawn)$")]
    state: BulletinState,
    /// Whether mailboxes that are created later get it, too.
    new_mailboxes: bool,
    /// From when on no mailbox gets it any more that does not have it.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    /// Its octets, as RETR sends them to who takes ASCII headers only, without `Delivered-To`: that differs by mailbox.
    octets: u64,
    /// Mailboxes that got it.
    delivered: u64,
    /// Mailboxes it was taken from when it was withdrawn.
    removed: u64,
    /// Who posted it.
    created_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// When the last mailbox had got it, it had expired, or its withdrawal was done.
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
}

impl From<&Bulletin> for BulletinResource {
    fn from(bulletin: &Bulletin) -> Self {
        Self {
            id: bulletin.id.as_uuid(),
            note: bulletin.note.clone(),
            state: bulletin.state,
            new_mailboxes: bulletin.new_mailboxes,
            expires_at: bulletin.expires_at,
            octets: bulletin.octets.ascii,
            delivered: bulletin.delivered,
            removed: bulletin.removed,
            created_by: bulletin.created_by.clone(),
            created_at: bulletin.created_at,
            ended_at: bulletin.ended_at,
        }
    }
}

/// A bulletin, and who still holds it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulletinWithHolders {
    /// The bulletin.
    #[serde(flatten)]
    pub(crate) bulletin: BulletinResource,
    /// Mailboxes that hold it in this moment: they got it, and neither their owner nor a rule has deleted it.
    pub(crate) holding: u64,
}
